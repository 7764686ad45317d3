// Formats C++ and CUDA sources as .clang-format says; --check only names those that differ.
// The formatter is WebAssembly from the lock file, so that every machine has the same version.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { format } from '@wasm-fmt/clang-format';
import { projectFiles, report, root } from './files.mjs';

const check = process.argv.includes('--check');
const settings = readFileSync(join(root, '.clang-format'), 'utf8')
  .split('\n')
  .filter((line) => line.includes(':'));
const style = `{${settings.join(', ')}}`;
const problems = [];
for (const path of projectFiles(/^(native|cuda|test|bench)\/.*\.(cpp|h|inl|cu|cuh)$/)) {
  const before = readFileSync(join(root, path), 'utf8');
  const after = format(before, path.replace(/\.(inl|cuh?)$/, '.cpp'), style);
  if (after === before) continue;
  if (check) problems.push(`${path}: not formatted (npm run format)`);
  else writeFileSync(join(root, path), after);
}
report('native format', problems);
