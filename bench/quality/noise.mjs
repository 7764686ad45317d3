// What two bases of different seeds say of the same variants: results of ablations.mjs beside each
// other, as a Markdown table. How far a variant is from AnchorCoder's layout is taken on each base
// by itself; where that changes from base to base by as much as it is, or is within the noise of
// the tuning itself, it is called none.
//   node bench/quality/noise.mjs RESULT-OF-BASE-1.json RESULT-OF-BASE-2.json ...
import { readFileSync } from 'node:fs';
import { copiedFar, lossOf } from './collect.mjs';

const files = process.argv.slice(2);
if (files.length < 2) throw new Error('Expected the results of two bases or more');
const bases = files.map((file) => JSON.parse(readFileSync(file, 'utf8')).figures.variants);
const layout = 'anchored';
/** What other windows in another order change: bench/results/quality-ablations-{1,2}.json. */
const tuningNoise = 0.005;

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const spread = (values) => Math.max(...values) - Math.min(...values);

/** Loss of a variant on each base, by that of ordinary attention tuned alike. */
function ratios(name, group) {
  return bases.map((base) => {
    const own = base[name];
    return lossOf(own[group]) / lossOf(base[own.reference][group]);
  });
}

const percent = (rate) => `${(100 * rate).toFixed(1)} %`;
const points = (difference) =>
  `${difference < 0 ? '−' : '+'}${Math.abs(100 * difference).toFixed(1)}`;

/** How far the variant is from the layout on each base, in points of loss. */
function against(name) {
  const { reference } = bases[0][name];
  if (name === layout || name === reference || reference !== bases[0][layout].reference) return '–';
  const known = ratios(layout, 'all');
  const differences = ratios(name, 'all').map((ratio, i) => ratio - known[i]);
  const shown = differences.map(points).join(', ');
  const noise = Math.max(spread(differences), tuningNoise);
  return Math.abs(mean(differences)) > noise ? shown : `none (${shown})`;
}

const shared = Object.keys(bases[0]).filter((name) => bases.every((base) => base[name]));
const columns = [
  'variant',
  ...bases.map((_, i) => `nats/byte, base ${i + 1}`),
  ...bases.map((_, i) => `ratio, base ${i + 1}`),
  'second half',
  'KL, nats',
  'copied far',
  'rows',
  'against the layout',
];
console.log(`| ${columns.join(' | ')} |\n| ${columns.map(() => '---').join(' | ')} |`);
for (const name of shared) {
  const own = ratios(name, 'all');
  const cells = [
    name,
    ...bases.map((base) => lossOf(base[name].all).toFixed(4)),
    ...own.map((ratio) => ratio.toFixed(3)),
    mean(ratios(name, 'second half')).toFixed(3),
    mean(bases.map((base) => base[name].all.kl / base[name].all.count)).toFixed(3),
    percent(mean(bases.map((base) => copiedFar(base[name])))),
    percent(mean(bases.map((base) => base[name].cache.rows / base[name].cache.fullRows))),
    against(name),
  ];
  console.log(`| ${cells.join(' | ')} |`);
}
