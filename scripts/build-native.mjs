// Builds build/Release/anchorcoder.node from source; configures only when the inputs changed.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);

// Distributions ship Node's headers next to the binary: with them no download is needed.
function installedHeaders() {
  const prefix = join(dirname(process.execPath), '..');
  const header = join(prefix, 'include/node/node_version.h');
  if (!existsSync(header)) return undefined;
  const text = readFileSync(header, 'utf8');
  const number = (name) => text.match(new RegExp(`NODE_${name}_VERSION (\\d+)`))?.[1];
  const version = ['MAJOR', 'MINOR', 'PATCH'].map(number).join('.');
  return version === process.versions.node ? prefix : undefined;
}

function configured() {
  const makefile = join(root, 'build/Makefile');
  const config = join(root, 'build/config.gypi');
  if (!existsSync(makefile) || !existsSync(config)) return false;
  const made = statSync(makefile).mtimeMs;
  // The Makefile does not know that the source list is an input.
  const inputs = ['binding.gyp', 'native/sources.txt', 'node_modules/node-addon-api/package.json'];
  return inputs.every((path) => statSync(join(root, path)).mtimeMs < made);
}

let gyp;
try {
  gyp = require.resolve('node-gyp/bin/node-gyp.js');
  require.resolve('node-addon-api');
} catch {
  console.error(
    'Building the addon needs node-gyp and node-addon-api.\n' +
      'In a clone: npm ci. In an installed package: npm install --no-save node-gyp node-addon-api',
  );
  process.exit(1);
}
const headers = process.env.npm_config_nodedir ? undefined : installedHeaders();
const commands = configured() ? ['build'] : ['configure', 'build'];
for (const command of commands) {
  const args = [gyp, command, '--release', '--jobs', 'max', '--loglevel', 'warn'];
  if (headers) args.push('--nodedir', headers);
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
  if (status !== 0) {
    console.error('The addon was not built. It needs python3, make and a C++20 compiler (g++ 12).');
    process.exit(status ?? 1);
  }
}
