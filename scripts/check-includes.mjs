// Checks the include rule: lib -> types <- napi -> core -> core/ops.h <- cpu, cuda.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { projectFiles, report, root } from './files.mjs';

const problems = [];
const shared = new Set(['native/core/ops.h', 'native/core/numeric.h']);

// Where a quoted include leads: beside the file first, then the build's include folders.
function resolve(from, name) {
  const places = [dirname(from), 'native', '.'].map((folder) => normalize(join(folder, name)));
  return places.find((path) => existsSync(join(root, path)));
}

function folderOf(path) {
  return path.match(/^(native\/(?:core|cpu|napi)|cuda)\//)?.[1];
}

function mayInclude(folder, target) {
  if (folderOf(target) === folder) return true;
  if (folder === 'native/core') return false;
  // napi puts the program together, so it names the device that is built in.
  const builtIn = ['native/cpu/cgroup.h', 'native/cpu/cpu.h', 'native/cpu/threads.h'];
  if (folder === 'native/napi') {
    return folderOf(target) === 'native/core' || builtIn.includes(target);
  }
  return shared.has(target);
}

for (const path of projectFiles(/^(native|cuda)\/.*\.(cpp|h|inl|cu|cuh)$/)) {
  const folder = folderOf(path);
  const lines = readFileSync(join(root, path), 'utf8').split('\n');
  lines.forEach((line, index) => {
    const include = line.match(/^\s*#\s*include\s*(["<])([^">]+)[">]/);
    if (!include) return;
    const [, quote, name] = include;
    const where = `${path}:${index + 1}`;
    if (/^(napi|node|node_api|js_native_api|v8|uv)\.h$/.test(name)) {
      if (folder !== 'native/napi') problems.push(`${where}: only native/napi includes ${name}`);
      return;
    }
    if (quote === '<') return;
    const target = resolve(path, name);
    if (!target) problems.push(`${where}: "${name}" is not there`);
    else if (!folder) problems.push(`${where}: sources live in core, cpu, napi or cuda`);
    else if (!mayInclude(folder, target)) {
      problems.push(`${where}: ${folder} does not include ${target}`);
    }
  });
}

// types/ holds contracts: whatever it takes from elsewhere has to vanish when compiled.
for (const path of projectFiles(/^types\/.*\.ts$/)) {
  const text = readFileSync(join(root, path), 'utf8');
  for (const [statement] of text.matchAll(/^(?:import|export)\b[^;]*?\bfrom\s*['"][^'"]+['"]/gm)) {
    if (!/^(import|export) type\b/.test(statement)) {
      problems.push(`${path}: "${statement.split('\n')[0]}" is not type-only`);
    }
  }
  if (/^import\s*['"]/m.test(text)) problems.push(`${path}: imports for its side effects`);
}
report('includes', problems);
