// Builds and runs the native test programs: test-native.mjs [address|undefined|thread].
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const sanitizer = process.argv[2] ?? '';
const name = sanitizer || 'native';
const folder = `build-${name}`;

function run(command, ...args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (error?.code === 'ENOENT') {
    console.error(`${command} is missing. On Debian or Ubuntu: apt-get install cmake make g++`);
  }
  if (status !== 0) process.exit(status ?? 1);
}

// .ci/run counts from this file; a run that dies must not leave the last one's.
const report = join(root, 'build-results', `ctest-${name}.xml`);
mkdirSync(dirname(report), { recursive: true });
rmSync(report, { force: true });

run('cmake', '-S', '.', '-B', folder, `-DANCHORCODER_SANITIZE=${sanitizer}`);
run('cmake', '--build', folder, '--parallel', String(availableParallelism()));

const ctest = ['ctest', '--test-dir', folder, '--no-tests=ignore', '--output-on-failure'];
ctest.push('--output-junit', report);
// ThreadSanitizer's shadow memory collides with widely randomised addresses (g++ 12).
const fixed = sanitizer === 'thread' && spawnSync('setarch', ['-R', 'true']).status === 0;
if (fixed) ctest.unshift('setarch', '-R');
run(...ctest);
