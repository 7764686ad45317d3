// Removes everything that the build made.
import { readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const made = new Set(['dist', 'build', 'prebuilds']);
for (const name of readdirSync(root)) {
  if (made.has(name) || name.startsWith('build-')) {
    rmSync(join(root, name), { recursive: true, force: true });
  }
}
