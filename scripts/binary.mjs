// What a prebuilt addon may ask of the machine that it is copied to.
import { execFileSync } from 'node:child_process';

/** Newest versions that may be needed, of each library: those of the oldest supported Node. */
const newest = { GLIBC: '2.28', GCC: '4.8' };
const libraries = /^(libc|libm|libdl|libpthread|libgcc_s|ld-linux-x86-64)\.so\.\d+$/;
const entryPoints = ['napi_register_module_v1', 'node_api_module_get_api_version_v1'];

/** Problems of a shared library, from what `readelf --dynamic --dyn-syms --segments` says of it. */
export function problemsOf(listing) {
  const problems = [];
  const entries = [...listing.matchAll(/^ 0x\w+ \((\w+)\) +(.*)$/gm)];
  for (const [, tag, value] of entries) {
    const name = value.match(/\[(.*)\]/)?.[1] ?? '';
    if (tag === 'NEEDED' && !libraries.test(name)) problems.push(`needs ${name}`);
    if (tag === 'RPATH' || tag === 'RUNPATH') problems.push(`looks for libraries in ${name}`);
  }
  const flags = entries.filter(([, tag]) => tag === 'FLAGS_1').map(([, , value]) => value);
  if (!/NODELETE/.test(flags)) problems.push('may be unloaded while its threads run');
  if (!/GNU_STACK .* RW +0x/.test(listing)) problems.push('has an executable stack');

  const exported = [];
  for (const { name, version, defined, weak } of symbolsOf(listing)) {
    if (defined) exported.push(name);
    else if (version) problems.push(...tooNew(name, version));
    else if (!weak && !/^(napi|node_api)_/.test(name)) problems.push(`needs ${name} of no library`);
  }
  for (const name of entryPoints) {
    if (!exported.includes(name)) problems.push(`does not export ${name}`);
  }
  const others = exported.filter((name) => !entryPoints.includes(name));
  if (others.length > 0) problems.push(`exports ${others.length} more symbols, as ${others[0]}`);
  return problems;
}

/** The newest version of the C library that a listing asks for, such as `2.27`. */
export function glibcNeeded(listing) {
  const needed = symbolsOf(listing).filter(({ defined }) => !defined);
  const versions = needed.flatMap(({ version }) => version?.match(/^GLIBC_([\d.]+)$/)?.[1] ?? []);
  return versions.sort(compare).at(-1);
}

export function listingOf(path) {
  const args = ['--dynamic', '--dyn-syms', '--segments', '--wide', path];
  return execFileSync('readelf', args, { encoding: 'utf8', maxBuffer: 1 << 26 });
}

// Lines such as "5: 0000 0 FUNC GLOBAL DEFAULT UND free@GLIBC_2.2.5 (3)".
function symbolsOf(listing) {
  const line = /^ +\d+: \w+ +\w+ \w+ +(\w+) +\w+ +(\w+) ([^\s@]+)(?:@+(\S+))?/gm;
  return [...listing.matchAll(line)].map(([, binding, section, name, version]) => {
    return { name, version, weak: binding === 'WEAK', defined: section !== 'UND' };
  });
}

function tooNew(symbol, version) {
  const [, library, number] = version.match(/^(\w+?)_([\d.]+)$/) ?? [];
  const limit = newest[library];
  if (!limit) return [`needs ${symbol} of ${version}`];
  return compare(number, limit) > 0 ? [`needs ${symbol} of ${version}, above ${limit}`] : [];
}

function compare(a, b) {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number));
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
