// Removes everything that the build made.
import { readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
for (const name of readdirSync(root)) {
  if (name === 'dist' || name === 'build' || name.startsWith('build-')) {
    rmSync(join(root, name), { recursive: true, force: true });
  }
}
