// Checks the package that `npm pack` makes: its files, and that it works once installed, under
// several releases of Node and npm, from ESM, CommonJS, worker threads, TypeScript and bundles,
// and built from source. Leaves build-results/package.json for .ci/run.
import { deepEqual, match, ok } from 'node:assert/strict';
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { listingOf, problemsOf } from './binary.mjs';
import { projectFiles, root } from './files.mjs';
import { installTools, run, tool } from './package-tools.mjs';

const results = join(root, 'build-results', 'package.json');
const consumers = join(root, 'test', 'package');
const prebuilt = 'prebuilds/linux-x64/anchorcoder.node';
const work = mkdtempSync(join(tmpdir(), 'anchorcoder-package-'));
const node = (release) => tool(`node${release}`, 'bin/node');
const read = (path) => JSON.parse(readFileSync(join(root, path), 'utf8'));
const { version } = read('package.json');
const counts = { passed: 0, failed: 0 };

function check(name, body) {
  const start = performance.now();
  try {
    body();
    counts.passed++;
    console.log(`ok ${((performance.now() - start) / 1000).toFixed(1)} s  ${name}`);
  } catch (error) {
    counts.failed++;
    console.log(`FAILED  ${name}\n${error.message}`);
  }
}

// What test/package/check.mjs expects: of a model that transformers ran, and of a tokenizer.
function expectations() {
  const { ids, greedy } = read('test/golden/logits/tinyllama.json').prompts.short;
  const { cases } = read('test/golden/tokenizer/shipped/encodings.json');
  const { text, plain } = cases.find((encoding) => encoding.text.includes('\n'));
  return {
    model: join(root, 'test/golden/models/tinyllama'),
    ids,
    greedy,
    textModel: join(root, 'models/anchor-code-23m'),
    text,
    textIds: plain,
    version,
  };
}

const expected = expectations();
const env = { ...process.env, PACKAGE_CASE: JSON.stringify(expected) };
// What would lead npm to another folder, where this is run by an npm script, or to another addon.
for (const name of Object.keys(env)) {
  if (/^(npm_config_(local_)?prefix$|ANCHOR_)/i.test(name)) delete env[name];
}

/** A project of its own with the package in it. */
function install(name, npm, release, options) {
  const project = join(work, name);
  cpSync(consumers, project, { recursive: true });
  writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }');
  const args = [tool(`npm${npm}`, 'bin/npm-cli.js'), 'install', ...options, tarball];
  // Dependencies' scripts run under the node that comes first.
  const PATH = `${tool(`node${release}`, 'bin')}:${process.env.PATH}`;
  run(node(release), args, { cwd: project, env: { ...env, PATH }, timeout: 120_000 });
  return project;
}

function consume(project, release, file, variables = {}) {
  const options = { cwd: project, env: { ...env, ...variables }, timeout: 60_000 };
  return run(node(release), [file], options);
}

function expectedFiles() {
  const built = projectFiles(/^(lib|types)\/.*\.ts$/).flatMap((path) => {
    const name = `dist/${path.slice(0, -'.ts'.length)}`;
    return path.startsWith('lib/') ? [`${name}.js`, `${name}.d.ts`] : [`${name}.d.ts`];
  });
  const others = ['package.json', 'binding.gyp', 'types/require.d.cts', prebuilt];
  others.push('LICENSE', 'README.md', 'CHANGELOG.md', 'THIRD_PARTY.md', 'scripts/build-native.mjs');
  return [...built, ...others, ...projectFiles(/^(native|docs)\//)].sort();
}

function bundle(project, entries, ...options) {
  const args = [...entries, '--bundle', '--platform=node', '--target=node20', ...options];
  run(node(24), [tool('esbuild', 'bin/esbuild'), ...args, '--log-level=error'], { cwd: project });
}

function typecheck(project, resolution, file) {
  const module = resolution === 'bundler' ? 'esnext' : resolution;
  const args = [join(root, 'node_modules/typescript/bin/tsc'), file, '--noEmit', '--strict'];
  args.push('--module', module, '--moduleResolution', resolution, '--target', 'es2022');
  args.push('--typeRoots', join(root, 'node_modules/@types'), '--types', 'node');
  run(process.execPath, args, { cwd: project });
}

// What npm makes of this folder, after the builds that `npm pack` would start.
function pack() {
  run('npm', ['run', 'prepack'], { cwd: root, stdio: 'inherit' });
  const args = [tool('npm11', 'bin/npm-cli.js'), 'pack', '--json', '--ignore-scripts'];
  return JSON.parse(run(node(20), [...args, '--pack-destination', work], { cwd: root, env }))[0];
}

function checkTarball({ files, filename }) {
  check('the tarball holds exactly what it should', () => {
    deepEqual(files.map(({ path }) => path).sort(), expectedFiles());
  });
  const { size } = statSync(join(work, filename));
  check(`the tarball is under 5 MB: ${(size / 1e6).toFixed(2)} MB`, () => ok(size < 5e6));
  check('it installs anywhere and runs nothing then: other systems build from source', () => {
    const manifest = read('package.json');
    const names = [...Object.keys(manifest), ...Object.keys(manifest.scripts)];
    deepEqual(names.filter((name) => /^(os|cpu|libc|(pre|post)?install)$/.test(name)).join(), '');
    // Else npm would take binding.gyp for a wish to compile.
    deepEqual(manifest.gypfile, false);
  });
  check('the prebuilt addon asks for nothing new, and what asks for more is refused', () => {
    deepEqual(problemsOf(listingOf(join(root, prebuilt))), []);
    const library = run('g++', ['-print-file-name=libstdc++.so.6']).trim();
    ok(problemsOf(listingOf(library)).length > 0);
  });
}

// Every npm, with and without scripts; every Node with every way to load.
const installs = [
  { npm: 11, by: 20, under: [20, 22, 24], files: ['esm.mjs', 'common.cjs', 'threads.mjs'] },
  { npm: 11, by: 22, under: [22], files: ['esm.mjs'], options: ['--ignore-scripts'] },
  { npm: 12, by: 24, under: [20, 24], files: ['common.cjs', 'threads.mjs'] },
  { npm: 12, by: 22, under: [22, 24], files: ['esm.mjs'], options: ['--ignore-scripts'] },
];

function checkInstall({ npm, by, under, files, options = [] }) {
  const name = [`npm ${npm}`, ...options].join(' ');
  let project;
  check(`${name} installs it`, () => {
    project = install(name.replaceAll(' ', '-'), npm, by, options);
  });
  for (const file of files) {
    for (const release of under) {
      check(`${name}: ${file} under Node ${release}`, () => consume(project, release, file));
    }
  }
  return project;
}

function checkTypes(project) {
  check('TypeScript, node16: by import', () => typecheck(project, 'node16', 'types.ts'));
  check('TypeScript, bundler', () => typecheck(project, 'bundler', 'types.ts'));
  copyFileSync(join(project, 'types.ts'), join(project, 'types.cts'));
  check('TypeScript, node16: by require', () => typecheck(project, 'node16', 'types.cts'));
}

function checkBundles(project) {
  check('a bundle that leaves the package outside', () => {
    const options = ['--external:anchorcoder', `--outdir=${join(project, 'out')}`];
    bundle(project, ['esm.mjs'], '--format=esm', ...options);
    consume(join(project, 'out'), 20, 'esm.js');
    bundle(project, ['common.cjs'], '--format=cjs', '--out-extension:.js=.cjs', ...options);
    consume(join(project, 'out'), 24, 'common.cjs');
  });
  check('a bundle of everything, with the addon and the helpers beside it', () => {
    const out = join(work, 'bundle');
    const installed = join(project, 'node_modules/anchorcoder');
    const helpers = [
      'tokenizer/tokenizer-worker',
      'compare/compare-worker',
      'chat/chat-worker',
      'chat/chat-process',
    ];
    const files = helpers.map((name) => join(installed, 'dist/lib', `${name}.js`));
    const entries = ['esm.mjs', ...files];
    bundle(project, entries, '--format=esm', `--outdir=${out}`, '--entry-names=[name]');
    writeFileSync(join(out, 'package.json'), '{ "type": "module" }');
    copyFileSync(join(installed, prebuilt), join(out, 'anchorcoder.node'));
    consume(out, 22, 'esm.js', { ANCHOR_ADDON: join(out, 'anchorcoder.node') });
  });
}

function checkCommand(project) {
  check('the command line', () => {
    const command = join(project, 'node_modules/.bin/anchorcoder');
    const { textModel } = expected;
    match(run(node(20), [command, '--version'], { cwd: project, env }), new RegExp(version));
    match(run(node(20), [command, 'inspect', textModel], { cwd: project, env }), /anchor/);
  });
}

// The prebuilt addon has a pthread_cond_clockwait of its own, for C libraries without one. Where
// there is one, waits must not go by the wall clock, which may be set back.
function checkClock(project) {
  check('its waits go by the steady clock', () => {
    const [map, probe] = [join(work, 'clock-probe.map'), join(work, 'clock-probe.so')];
    writeFileSync(map, 'GLIBC_2.30 { pthread_cond_clockwait; };');
    const flags = ['-shared', '-fPIC', `-Wl,--version-script=${map}`, '-o', probe];
    run('g++', [...flags, join(consumers, 'clock-probe.cpp'), '-ldl']);
    match(consume(project, 20, 'waits.mjs', { LD_PRELOAD: probe }), /by the steady clock/);
  });
}

// Where the package has no addon for a system, its error holds a command that builds one.
function checkSourceBuild(project) {
  let cure = '';
  check('without its addon the package says how to build one', () => {
    rmSync(join(project, 'node_modules/anchorcoder/prebuilds'), { recursive: true });
    try {
      consume(project, 22, 'esm.mjs');
    } catch ({ message }) {
      match(message, /ERR_ADDON/);
      cure = message.match(/build it from source with: (npm .*) \(needs/)[1];
    }
    ok(cure);
  });
  check(`built from source: ${cure.replaceAll(project, '.')}`, () => {
    const PATH = `${join(work, 'bin')}:${tool('node22', 'bin')}:${process.env.PATH}`;
    mkdirSync(join(work, 'bin'));
    symlinkSync(tool('npm11', 'bin/npm-cli.js'), join(work, 'bin', 'npm'));
    // Unoptimised: a third of the time, and the same results.
    const variables = { ...env, PATH, CXXFLAGS: '-O0' };
    run('sh', ['-c', cure], { cwd: project, env: variables, timeout: 600_000 });
    consume(project, 22, 'esm.mjs');
    consume(project, 24, 'threads.mjs');
  });
}

rmSync(results, { force: true });
const start = performance.now();
installTools();
const packed = pack();
const tarball = join(work, packed.filename);
try {
  checkTarball(packed);
  const [project] = installs.map(checkInstall);
  checkTypes(project);
  checkBundles(project);
  checkCommand(project);
  checkClock(project);
  checkSourceBuild(project);
} finally {
  rmSync(work, { recursive: true, force: true });
}
mkdirSync(join(root, 'build-results'), { recursive: true });
writeFileSync(results, JSON.stringify(counts));
const seconds = Math.round((performance.now() - start) / 1000);
console.log(`package: ${counts.passed} fine, ${counts.failed} failed (${seconds} s)`);
process.exitCode = counts.failed === 0 ? 0 : 1;
