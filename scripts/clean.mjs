// Removes everything that the build made, or only the folders that are named.
import { readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const named = process.argv.slice(2);
const made = new Set(named.length > 0 ? named : ['dist', 'build', 'prebuilds']);
for (const name of readdirSync(root)) {
  if (made.has(name) || (named.length === 0 && name.startsWith('build-'))) {
    rmSync(join(root, name), { recursive: true, force: true });
  }
}
