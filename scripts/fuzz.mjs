// Fuzzes what takes foreign bytes: fuzz.mjs [NAME...] [--seconds N | --minutes N] [--seed N]
//   NAME: tensors, snapshots, sessions (C++, under sanitizers), files (JavaScript); all by default
//   --libfuzzer: with clang's fuzzer, which keeps what it learned in build-fuzzer/NAME
//   --replay FILE: one input again, of the one NAME given
// The time is that of each fuzzer. An input that fails is saved, and how to replay it is printed.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string' },
    minutes: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 1e9) },
    libfuzzer: { type: 'boolean', default: false },
    replay: { type: 'string' },
  },
});
const native = readdirSync(join(root, 'test/fuzz'))
  .filter((name) => name.endsWith('_fuzz.cpp'))
  .map((name) => name.replace('_fuzz.cpp', ''));
const names = positionals.length > 0 ? positionals : [...native, 'files'];
const seconds = Number(values.seconds ?? Number(values.minutes ?? 1) * 60);
const folder = values.libfuzzer ? 'build-fuzzer' : 'build-address';
const failing = join(root, 'build-results', 'fuzz');
const report = join(root, 'build-results', 'fuzz.json');

function fail(message) {
  console.error(message);
  process.exit(2);
}
for (const name of names) {
  if (name !== 'files' && !native.includes(name)) fail(`There is no fuzzer "${name}"`);
}
if (!(seconds > 0)) fail('Expected --seconds or --minutes to be a number above 0');
if (values.replay && names.length !== 1) fail('Expected one NAME with --replay');

function run(command, args, env = {}) {
  const options = { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } };
  return spawnSync(command, args, options).status === 0;
}

function build() {
  const targets = names.filter((name) => name !== 'files').map((name) => `${name}_fuzz`);
  if (targets.length === 0) return;
  const sanitize = values.libfuzzer ? 'fuzzer' : 'address';
  const configure = ['-S', '.', '-B', folder, `-DANCHORCODER_SANITIZE=${sanitize}`];
  const clang = values.libfuzzer ? { CC: 'clang', CXX: 'clang++' } : {};
  const jobs = String(availableParallelism());
  const ok =
    run('cmake', configure, clang) &&
    run('cmake', ['--build', folder, '--parallel', jobs, '--target', ...targets]);
  if (!ok) fail('The fuzzers were not built');
}

/** Arguments of one fuzzer for one run. */
function commandOf(name) {
  if (name === 'files') {
    const how = ['--seconds', String(seconds), '--seed', values.seed, '--save', failing];
    return ['node', ['test/fuzz/files.mjs', ...(values.replay ? [values.replay] : how)]];
  }
  const program = join(root, folder, `${name}_fuzz`);
  if (values.replay) return [program, [values.replay]];
  if (!values.libfuzzer) {
    return [program, ['--seconds', String(seconds), '--seed', values.seed, '--save', failing]];
  }
  const corpus = join(root, folder, name);
  mkdirSync(corpus, { recursive: true });
  const limits = [`-max_total_time=${seconds}`, '-max_len=2048', '-timeout=120', '-rss_limit_mb=0'];
  const kept = [`-artifact_prefix=${failing}/${name}-`, '-print_final_stats=1'];
  return [program, [...limits, ...kept, `-seed=${values.seed}`, corpus]];
}

mkdirSync(failing, { recursive: true });
rmSync(report, { force: true });
build();
const failed = names.filter((name) => {
  const [command, args] = commandOf(name);
  if (run(command, args, { UBSAN_OPTIONS: 'print_stacktrace=1' })) return false;
  const how = `node scripts/fuzz.mjs ${name}${values.libfuzzer ? ' --libfuzzer' : ''}`;
  if (!values.replay) console.error(`${name} failed. Again: ${how} --replay FILE`);
  return true;
});
writeFileSync(
  report,
  JSON.stringify({ passed: names.length - failed.length, failed: failed.length }),
);
process.exitCode = failed.length === 0 ? 0 : 1;
