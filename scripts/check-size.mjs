// Keeps files short enough to be read whole.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { projectFiles, report, root } from './files.mjs';

const code = /^(lib|types|native|cuda|scripts|test|bench)\/.*\.(ts|mjs|cjs|cpp|h|inl|cu|cuh)$/;
const problems = [];
for (const path of projectFiles(code)) {
  const most = path.startsWith('test/') ? 600 : 400;
  const lines = readFileSync(join(root, path), 'utf8').trimEnd().split('\n');
  if (lines.length > most) problems.push(`${path}: ${lines.length} lines, the limit is ${most}`);
  // A test's expected text may need its full width.
  if (path.startsWith('test/')) continue;
  lines.forEach((line, index) => {
    const width = [...line].length;
    if (width > 100) problems.push(`${path}:${index + 1}: ${width} columns, the limit is 100`);
  });
}
report('sizes', problems);
