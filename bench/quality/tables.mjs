// Prints what measure.mjs wrote as Markdown tables: all policies, then for the named ones (the
// second case if none is) loss by language and position, and copying. Of the other scripts here:
// the tables that they print themselves.
//   node bench/quality/tables.mjs bench/results/quality-policies.json [CASE ...]
//   node bench/quality/tables.mjs bench/results/quality-use.json
import { readFileSync } from 'node:fs';
import { titles } from './cases.mjs';
import { lossOf } from './collect.mjs';

const [file, ...asked] = process.argv.slice(2);
if (file === undefined) throw new Error('Expected a result file');
const { figures, table: result } = JSON.parse(readFileSync(file, 'utf8'));
const names = Object.keys(figures).filter((name) => Object.hasOwn(titles, name));
const [reference] = names;
const others = asked.length > 0 ? asked : names.slice(1, 2);

function table(title, columns, rows) {
  const lines = rows.map((row) => `| ${row.join(' | ')} |`);
  const header = `| ${columns.join(' | ')} |\n| ${columns.map(() => '---').join(' | ')} |`;
  console.log(`\n${title}\n\n${header}\n${lines.join('\n')}`);
}

function groupsOf(pattern) {
  const names = Object.keys(figures[reference]).filter((name) => pattern.test(name));
  return names.sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
}

/** One case: shares are of the reference's full cache in the model's own type of rows. */
function policy(name) {
  const { all, cache, 'second half': late } = figures[name];
  const ratio = (group) =>
    (lossOf(figures[name][group]) / lossOf(figures[reference][group])).toFixed(3);
  return [
    titles[name],
    lossOf(all).toFixed(4),
    ratio('all'),
    late ? ratio('second half') : '–',
    (all.kl / all.count).toPrecision(3),
    percent(all.hits / all.count),
    percent(cache.rows / cache.fullRows),
    percent(cache.liveBytes / cache.fullBytes),
    percent(cache.held / cache.fullBytes),
  ];
}

function perByte(name) {
  const base = figures[reference][name];
  const loss = base.nats / base.bytes;
  const cells = others.flatMap((other) => {
    const { nats, bytes, kl, count, hits } = figures[other][name];
    const figure = nats / bytes;
    const top1 = `${((100 * hits) / count).toFixed(1)} %`;
    return [figure.toFixed(4), (figure / loss).toFixed(3), (kl / count).toFixed(4), top1];
  });
  const top1 = `${((100 * base.hits) / base.count).toFixed(1)} %`;
  return [name, base.count, loss.toFixed(4), top1, ...cells];
}

/** A rate of each case; its ratio to the reference's where that one exceeds one half. */
function rates(name, key, of) {
  const base = figures[reference][name];
  const total = base[of] ?? 0;
  const known = base[key] / total;
  const cells = others.flatMap((other) => {
    const rate = figures[other][name][key] / total;
    return [percent(rate), known > 0.5 ? (rate / known).toFixed(3) : '–'];
  });
  return [name, total, percent(known), ...cells];
}

function percent(rate) {
  return Number.isNaN(rate) ? '–' : `${(100 * rate).toFixed(1)} %`;
}

function printMeasures() {
  table(
    `Policies: ${figures.files} texts, ${figures[reference].all.count} targets`,
    [
      'policy',
      'nats/byte',
      'ratio',
      'second half',
      'KL/token',
      'top-1',
      'rows',
      'bytes of rows',
      'bytes held',
    ],
    names.map(policy),
  );
  table(
    `Loss: nats per byte, KL divergence per token from ${reference}, top-1`,
    [
      'targets',
      'count',
      reference,
      'top-1',
      ...others.flatMap((name) => [name, 'ratio', 'KL', 'top-1']),
    ],
    groupsOf(/^(all|language|position|second half)/).map(perByte),
  );
  const columns = ['what', 'count', reference, ...others.flatMap((name) => [name, 'ratio'])];
  // By distance and length, then by place in the lines.
  const spans = /^(rare name|name|literal) (at|of)/;
  const places = /^(rare name|name), (last|now)/;
  const copying = [
    ['top-1 of what continues a 3-gram', /^3-gram/, 'hits', 'count'],
    ['its probability', /^3-gram/, 'probability', 'count'],
    ...[spans, places].flatMap((pattern) => [
      ['first id right', pattern, 'first', 'count'],
      ['ids behind the first right, of spans that have such', pattern, 'rest', 'longer'],
      ['all ids right', pattern, 'whole', 'count'],
      ['probability of all ids', pattern, 'probability', 'count'],
    ]),
  ];
  for (const [title, pattern, key, of] of copying) {
    const rows = groupsOf(pattern).filter((name) => figures[reference][name][of] > 0);
    table(
      title,
      columns,
      rows.map((name) => rates(name, key, of)),
    );
  }
}

// Others leave finished tables, one or several by name.
if (reference !== undefined) printMeasures();
else {
  for (const [name, rows] of Object.entries(Array.isArray(result) ? { all: result } : result)) {
    table(name, Object.keys(rows[0]), rows.map(Object.values));
  }
}
