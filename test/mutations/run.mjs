// Breaks the engine on purpose, one way at a time, and expects the tests against the reference to
// notice. Works on a copy of the tree; the baseline has to pass there first.
//
//   npm run build && node test/mutations/run.mjs [name...]
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const usualTest = 'test/model/reference.test.ts';

/** Each edit replaces a text that occurs exactly once in its file; `test` is what has to notice. */
const mutations = [
  {
    name: 'multi-head positions count from the previous anchor, as the published decode does',
    edits: [
      {
        file: 'native/core/policy.cpp',
        from: 'const int32_t m = anchor - previous - 1;',
        to: 'if (previous >= 0 && anchor - previous > 1) --previous;\n  const int32_t m = anchor - previous - 1;',
      },
    ],
  },
  {
    name: 'consumers read no kept rows of the source layer',
    edits: [
      {
        file: 'native/cpu/attention.cpp',
        from: 'ranges[r] = {std::max(range.lo - base, 0), std::min(range.hi - base, kGroupRows)};',
        to: `ranges[r] = {std::max(range.lo - base, 0), std::min(range.hi - base, kGroupRows)};
      const auto* source = args_.sourceLayer < 0 ? nullptr
          : &pass_.caches[args_.sourceLayer * pass_.sequenceCount + tile.sequence].kept;
      if (keys.table == source) ranges[r] = {0, 0};`,
      },
    ],
  },
  {
    name: 'one row too many leaves the cache',
    edits: [
      {
        file: 'native/core/session.cpp',
        from: 'releaseBefore(l, sequence_.state.layerStart(l, to, anchoredStart));',
        to: 'releaseBefore(l, sequence_.state.layerStart(l, to, anchoredStart) + 1);',
      },
    ],
  },
  {
    name: 'a snapshot takes the keys of a block from its first row on',
    test: 'test/model/snapshot.test.ts',
    edits: [
      {
        file: 'native/core/snapshot.cpp',
        from: 'copy((d * kBlockRows + from) * element, rows * element);',
        to: 'copy(d * kBlockRows * element, rows * element);',
      },
    ],
  },
  {
    name: 'a known prefix is taken one token too far',
    test: 'test/model/prefix.test.ts',
    edits: [
      {
        file: 'native/core/prefix_cache.cpp',
        from: 'const int32_t common = commonLength(entry.ids(), session.ids());',
        to: 'const int32_t common = commonLength(entry.ids(), session.ids()) + 1;',
      },
    ],
  },
];

function run(folder, command, args, timeout) {
  const options = { cwd: folder, encoding: 'utf8', timeout, maxBuffer: 2 ** 28 };
  return spawnSync(command, args, options);
}

function build(folder) {
  const { status, stdout, stderr } = run(folder, process.execPath, ['scripts/build-native.mjs']);
  if (status === 0) return true;
  console.error(`${stdout}${stderr}`.slice(-4000));
  return false;
}

/** Whether the tests pass; a crash or a hang is a failure as well. */
function passes(folder, test = usualTest) {
  const flags = ['--experimental-vm-modules', '--disable-warning=ExperimentalWarning'];
  const jest = ['node_modules/jest/bin/jest.js', '--bail', test];
  const { status, signal, stderr } = run(folder, process.execPath, [...flags, ...jest], 180_000);
  const summary = /^Tests:.*$/m.exec(stderr ?? '')?.[0] ?? `ended by ${signal ?? status}`;
  console.log(`  ${summary}`);
  return status === 0;
}

function apply({ file, from, to }, folder) {
  const path = join(folder, file);
  const before = readFileSync(path, 'utf8');
  if (before.split(from).length !== 2) throw new Error(`${file} does not hold once: ${from}`);
  writeFileSync(
    path,
    before.replace(from, () => to),
  );
  return () => writeFileSync(path, before);
}

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'anchorcoder-mutations-')));
let passed = 0;
let failed = 0;

function report(name, fine) {
  if (fine) passed++;
  else failed++;
  console.log(`${fine ? 'passed' : 'FAILED'}: ${name}`);
}

try {
  const wanted = process.argv.slice(2);
  // Times are kept, so that an existing build is continued.
  const copied = ['native', 'lib', 'types', 'test', 'scripts', 'build', 'dist'];
  const files = ['package.json', 'binding.gyp', 'jest.config.js', 'tsconfig.json'];
  for (const name of [...copied, ...files]) {
    const from = join(root, name);
    if (!existsSync(from)) continue;
    cpSync(from, join(folder, name), { recursive: true, preserveTimestamps: true });
  }
  for (const name of ['node_modules', 'models']) symlinkSync(join(root, name), join(folder, name));

  console.log('unchanged');
  const fine = build(folder) && passes(folder);
  report('the tests pass on the unchanged engine', fine);
  for (const { name, test, edits } of fine ? mutations : []) {
    if (wanted.length > 0 && !wanted.some((word) => name.includes(word))) continue;
    const start = Date.now();
    const undo = edits.map((edit) => apply(edit, folder));
    const noticed = build(folder) && !passes(folder, test);
    for (const step of undo) step();
    report(`${name} (${Math.round((Date.now() - start) / 1000)} s)`, noticed);
  }
} catch (error) {
  console.error(error);
  failed++;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
