// Prints "PASSED FAILED", summed over the named reports in build-results/.
import { existsSync, readFileSync } from 'node:fs';

let passed = 0;
let failed = 0;
for (const name of process.argv.slice(2)) {
  const file = new URL(`../build-results/${name}`, import.meta.url);
  if (!existsSync(file)) continue;
  const text = readFileSync(file, 'utf8');
  if (name.endsWith('.json')) {
    const counts = JSON.parse(text);
    passed += counts.passed;
    failed += counts.failed;
  } else {
    passed += text.match(/<testcase [^>]*status="run"/g)?.length ?? 0;
    failed += text.match(/<testcase [^>]*status="fail"/g)?.length ?? 0;
  }
}
console.log(`${passed} ${failed}`);
