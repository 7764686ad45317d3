// Lists the project's own files for the checks: tracked or new, but not ignored.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

export function projectFiles(pattern) {
  const args = ['ls-files', '-z', '--cached', '--others', '--exclude-standard'];
  const listed = execFileSync('git', args, { cwd: root, encoding: 'utf8' }).split('\0');
  const unique = [...new Set(listed)].filter((path) => pattern.test(path));
  return unique.filter((path) => existsSync(join(root, path))).sort();
}

export function report(title, problems) {
  for (const problem of problems) console.error(problem);
  console.log(`${title}: ${problems.length === 0 ? 'fine' : `${problems.length} problem(s)`}`);
  process.exitCode = problems.length === 0 ? 0 : 1;
}
