// Builds the addon that the package carries, prebuilds/linux-x64/anchorcoder.node, and checks it.
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { glibcNeeded, listingOf, problemsOf } from './binary.mjs';
import { report, root } from './files.mjs';

const target = `${process.platform}-${process.arch}`;
if (target !== 'linux-x64') {
  console.error(`A prebuilt addon is made for linux-x64 only, and on it; this is ${target}`);
  process.exit(1);
}

function run(command, ...args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (error) console.error(`${command} cannot be run: ${error.message}`);
  if (status !== 0) process.exit(status ?? 1);
}

run(process.execPath, 'scripts/build-native.mjs', '--portable');
const path = join(root, 'prebuilds', target, 'anchorcoder.node');
rmSync(join(root, 'prebuilds'), { recursive: true, force: true });
mkdirSync(dirname(path), { recursive: true });
run('strip', '--strip-unneeded', '-o', path, 'build/Release/anchorcoder.node');

const listing = listingOf(path);
const problems = problemsOf(listing);
const require = createRequire(import.meta.url);
const { version } = require('../package.json');
if (require(path).version !== version) problems.push(`is not of version ${version}`);
if (problems.length > 0) rmSync(path);
const size = (statSync(path, { throwIfNoEntry: false })?.size ?? 0) / 2 ** 20;
console.log(`prebuilt ${target}: ${size.toFixed(1)} MiB, needs glibc ${glibcNeeded(listing)}`);
report('prebuilt addon', problems);
