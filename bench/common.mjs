// What the benchmarks share: arguments, text, medians, the table and the result file.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, totalmem } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

export const root = fileURLToPath(new URL('..', import.meta.url));
export const shipped = join(root, 'models/anchor-code-23m');

/**
 * Options of the command line. `defaults` names those of one benchmark; numbers stay numbers. All
 * benchmarks have `--json FILE` and `--model FOLDER`.
 */
export function readOptions(defaults) {
  const all = { json: '', model: shipped, ...defaults };
  const options = Object.fromEntries(Object.keys(all).map((name) => [name, { type: 'string' }]));
  const { values } = parseArgs({ options });
  for (const [name, value] of Object.entries(values)) {
    all[name] = typeof all[name] === 'number' ? Number(value) : value;
    if (Number.isNaN(all[name])) throw new Error(`Expected --${name} to be a number: ${value}`);
  }
  return all;
}

/** Ids of code: this repository's own TypeScript, at least `count` of them. */
export async function codeIds(model, count) {
  const folder = join(root, 'lib');
  const files = readdirSync(folder).filter((file) => file.endsWith('.ts'));
  const text = files.map((file) => readFileSync(join(folder, file), 'utf8')).join('\n');
  const ids = await model.tokenize(text);
  if (ids.length < count) throw new Error(`The text has ${ids.length} ids, fewer than ${count}`);
  return ids;
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Seconds that a call takes. */
export async function timed(call) {
  const start = performance.now();
  await call();
  return (performance.now() - start) / 1000;
}

/** Median of each named figure over rounds, and the smallest and largest round beside it. */
export function summarise(rounds) {
  const names = Object.keys(rounds[0] ?? {});
  return Object.fromEntries(
    names.map((name) => {
      const values = rounds.map((round) => round[name]);
      const range = [Math.min(...values), Math.max(...values)];
      return [name, { median: median(values), range }];
    }),
  );
}

function git(...args) {
  try {
    return execFileSync('git', args, { cwd: root, encoding: 'utf8' }).trim();
  } catch {
    return '';
  }
}

/** Machine, versions and command, for the result file. */
function circumstances(model) {
  const field = (name) =>
    new RegExp(`^${name}\\s*:\\s*(.+)$`, 'm').exec(readText('/proc/cpuinfo'))?.[1];
  const changed = git('status', '--porcelain', '--', 'lib', 'native', 'types', 'binding.gyp');
  return {
    date: new Date().toISOString().slice(0, 10),
    commit: git('rev-parse', '--short=12', 'HEAD') + (changed ? ' with changes' : ''),
    command: ['node', relative(root, process.argv[1]), ...process.argv.slice(2)].join(' '),
    machine: {
      processor: cpus()[0]?.model,
      family: field('cpu family'),
      model: field('model'),
      cores: availableParallelism(),
      memoryGiB: Math.round(totalmem() / 2 ** 30),
      loadBefore: loadAtStart,
    },
    node: process.version,
    instructionSet: model?.info.instructionSet,
    threads: model?.info.threads,
  };
}

const loadAtStart = Number((loadavg()[0] ?? 0).toFixed(2));

function readText(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Three digits, or all before the point. */
export function show(value) {
  if (typeof value !== 'number') return String(value ?? '');
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return Math.round(value).toString();
  return value.toPrecision(3);
}

/** Prints rows (objects with the same keys) in columns. */
export function printTable(rows) {
  const names = Object.keys(rows[0] ?? {});
  const cells = [names, ...rows.map((row) => names.map((name) => show(row[name])))];
  const widths = names.map((_, i) => Math.max(...cells.map((line) => line[i].length)));
  for (const line of cells) {
    const padded = line.map((cell, i) =>
      i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]),
    );
    console.log(padded.join('  '));
  }
}

function printTables(tables) {
  for (const [name, rows] of Object.entries(tables)) {
    console.log(`${name}:`);
    printTable(rows);
    console.log();
  }
}

/**
 * Prints a table (rows), or several by name, and writes circumstances and figures where `--json`
 * says.
 */
export function report(options, model, rows, figures) {
  const about = circumstances(model);
  const { processor, cores, loadBefore } = about.machine;
  console.log(about.command);
  console.log(`${processor}, ${cores} cores, load before ${loadBefore}`);
  console.log(`Node ${about.node}, ${about.instructionSet}, ${about.threads} threads\n`);
  if (Array.isArray(rows)) printTable(rows);
  else printTables(rows);
  if (options.json === '') return;
  const text = JSON.stringify({ ...about, table: rows, figures }, null, 1);
  writeFileSync(options.json, `${text}\n`);
}
