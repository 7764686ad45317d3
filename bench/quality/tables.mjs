// Prints what measure.mjs wrote as Markdown tables: loss by language, by position, and copying.
//   node bench/quality/tables.mjs bench/results/quality-loss.json [CASE ...]
import { readFileSync } from 'node:fs';

const [file, ...asked] = process.argv.slice(2);
if (file === undefined) throw new Error('Expected a result file of measure.mjs');
const { figures } = JSON.parse(readFileSync(file, 'utf8'));
const others = asked.length > 0 ? asked : ['anchored'];

function table(title, columns, rows) {
  const lines = rows.map((row) => `| ${row.join(' | ')} |`);
  const header = `| ${columns.join(' | ')} |\n| ${columns.map(() => '---').join(' | ')} |`;
  console.log(`\n${title}\n\n${header}\n${lines.join('\n')}`);
}

function groupsOf(pattern) {
  const names = Object.keys(figures.twin).filter((name) => pattern.test(name));
  return names.sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
}

function perByte(name) {
  const twin = figures.twin[name];
  const loss = twin.nats / twin.bytes;
  const cells = others.flatMap((other) => {
    const { nats, bytes, kl, count, hits } = figures[other][name];
    const figure = nats / bytes;
    const top1 = `${((100 * hits) / count).toFixed(1)} %`;
    return [figure.toFixed(4), (figure / loss).toFixed(3), (kl / count).toFixed(4), top1];
  });
  const top1 = `${((100 * twin.hits) / twin.count).toFixed(1)} %`;
  return [name, twin.count, loss.toFixed(4), top1, ...cells];
}

/** A rate of each case; its ratio to the twin's where the twin's exceeds one half. */
function rates(name, key, of) {
  const twin = figures.twin[name];
  const total = twin[of] ?? 0;
  const base = twin[key] / total;
  const cells = others.flatMap((other) => {
    const rate = figures[other][name][key] / total;
    return [percent(rate), base > 0.5 ? (rate / base).toFixed(3) : '–'];
  });
  return [name, total, percent(base), ...cells];
}

function percent(rate) {
  return Number.isNaN(rate) ? '–' : `${(100 * rate).toFixed(1)} %`;
}

table(
  'Loss: nats per byte, KL divergence per token from the twin, top-1',
  [
    'targets',
    'count',
    'twin',
    'top-1',
    ...others.flatMap((name) => [name, 'of the twin', 'KL', 'top-1']),
  ],
  groupsOf(/^(all|language|position)/).map(perByte),
);
const columns = ['what', 'count', 'twin', ...others.flatMap((name) => [name, 'ratio'])];
const copying = [
  ['top-1 of what continues a 3-gram', /^3-gram/, 'hits', 'count'],
  ['its probability', /^3-gram/, 'probability', 'count'],
  ['first id right', /^(rare name|name|literal)/, 'first', 'count'],
  ['ids behind the first right, of spans that have such', /^(rare name|name|literal)/, 'rest'],
  ['all ids right', /^(rare name|name|literal)/, 'whole', 'count'],
  ['probability of all ids', /^(rare name|name|literal)/, 'probability', 'count'],
];
for (const [title, pattern, key, of = 'longer'] of copying) {
  const rows = groupsOf(pattern).filter((name) => figures.twin[name][of] > 0);
  table(
    title,
    columns,
    rows.map((name) => rates(name, key, of)),
  );
}
