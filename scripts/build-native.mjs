// Builds build/Release/anchorcoder.node from source; configures only when the inputs changed.
// --portable: where that is possible, able to run on other systems, as the prebuilt one has to be.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const isGlibcX64 = process.arch === 'x64' && existsSync('/lib64/ld-linux-x86-64.so.2');
const portable = String(isGlibcX64 && process.argv.includes('--portable'));
// What was installed for the build may not be visible from the package's own folder.
const requires = [import.meta.url, join(process.cwd(), 'package.json')].map(createRequire);

function find(request) {
  for (const require of requires) {
    try {
      return require.resolve(request);
    } catch {
      // Perhaps from the other place.
    }
  }
  console.error(
    'Building the addon needs node-gyp and node-addon-api.\n' +
      'In a clone: npm ci. In an installed package: npm install --no-save node-gyp node-addon-api',
  );
  process.exit(1);
}

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

function configured(headers) {
  const makefile = join(root, 'build/Makefile');
  const config = join(root, 'build/config.gypi');
  if (!existsSync(makefile) || !existsSync(config)) return false;
  const { variables } = JSON.parse(readFileSync(config, 'utf8').replace(/^#.*/gm, ''));
  if (variables.portable !== portable) return false;
  const made = statSync(makefile).mtimeMs;
  // The Makefile does not know that the source list is an input.
  const inputs = [join(root, 'binding.gyp'), join(root, 'native/sources.txt'), headers];
  return inputs.every((path) => statSync(path).mtimeMs < made);
}

const gyp = find('node-gyp/bin/node-gyp.js');
const addonApi = find('node-addon-api/package.json');
const nodeHeaders = process.env.npm_config_nodedir ? undefined : installedHeaders();
// binding.gyp asks for node-addon-api by name.
const places = [dirname(dirname(addonApi)), process.env.NODE_PATH].filter(Boolean);
const env = { ...process.env, NODE_PATH: places.join(delimiter) };
const commands = configured(addonApi) ? ['build'] : ['configure', 'build'];
for (const command of commands) {
  const args = [gyp, command, '--release', '--jobs', 'max', '--loglevel', 'warn'];
  args.push(`--portable=${portable}`);
  if (nodeHeaders) args.push('--nodedir', nodeHeaders);
  const { status } = spawnSync(process.execPath, args, { cwd: root, env, stdio: 'inherit' });
  if (status !== 0) {
    console.error('The addon was not built. It needs python3, make and a C++20 compiler (g++ 12).');
    process.exit(status ?? 1);
  }
}
