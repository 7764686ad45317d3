// What each part of anchor attention is worth: the variants that train/ablations.py tuned from one
// base on equal ids, each on the same texts. Every variant is compared with ordinary attention
// tuned alike; variants without inserted anchors read the same texts without them.
//   node bench/quality/ablations.mjs --runs FOLDER --text FILE --seed 1 [--files 100]
//     [--length 1024] [--threads 1] [--json FILE]
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadModel } from 'anchorcoder';
import { readOptions, report } from '../common.mjs';
import { collect, copiedFar, lossOf } from './collect.mjs';
import { Groups, Reference, readText } from './scores.mjs';
import { continuations, copies, prepare, readDocuments, readPieces, textOf } from './texts.mjs';

const options = readOptions({ runs: '', text: '', seed: 1, files: 100, length: 1024, threads: 1 });
const { threads, length } = options;
/** Ordinary attention, with inserted anchors and without. */
const references = ['full', 'full-bare'];

const ending = `-${options.seed}`;
const found = readdirSync(options.runs)
  .filter((name) => name.endsWith(ending))
  .map((name) => name.slice(0, -ending.length));
const first = references.filter((name) => found.includes(name));

/** Name, model, whether anchors are inserted, sums. Those that others are compared with first. */
const variants = [];
for (const name of new Set([...first, ...found])) {
  const folder = join(options.runs, name + ending, 'model');
  const { anchors } = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
  const inserts = anchors?.insert !== null;
  const reference = references[inserts ? 0 : 1];
  if (!found.includes(reference)) throw new Error(`Expected ${reference}${ending} beside ${name}`);
  const model = await loadModel(folder, { threads });
  variants.push({ name, model, inserts, reference, groups: new Groups() });
}
const tokenizer = await loadModel(options.model, { threads });
const pieces = readPieces(options.model);

/** The text without inserted anchors. Newlines are ids of their own, so no other id changes. */
function without({ ids, language }) {
  const bare = ids.filter((id, at) => at === 0 || pieces[id] !== '');
  return textOf(bare, language, pieces, length);
}

async function measureText(text, reads) {
  const before = continuations(text.ids);
  const spans = copies(text.ids, pieces);
  const distributions = new Reference();
  for (const { model, groups } of reads) {
    const session = model.createSession();
    const scores = await readText(session, text, distributions);
    session.dispose();
    text.full ??= { fullRows: scores.stats.full.rows, fullBytes: scores.stats.full.bytes };
    collect(groups, text, spans, before, scores);
  }
}

const [inserted, bare] = [true, false].map((inserts) =>
  variants.filter((variant) => variant.inserts === inserts),
);
let files = 0;
for (const document of readDocuments(options.text, options.files)) {
  const text = await prepare(tokenizer, document, pieces, length);
  await measureText(text, inserted);
  await measureText(without(text), bare);
  files += 1;
  process.stderr.write(`\r${files} of ${options.files} texts`);
}
process.stderr.write('\n');

const figures = { files, seed: options.seed, variants: {} };
for (const { name, reference, groups } of variants) {
  figures.variants[name] = { reference, ...Object.fromEntries(groups.entries()) };
}
const rows = variants.map(({ name }) => {
  const own = figures.variants[name];
  const base = figures.variants[own.reference];
  return {
    variant: name,
    'nats/byte': lossOf(own.all).toFixed(4),
    ratio: (lossOf(own.all) / lossOf(base.all)).toFixed(4),
    'second half': (lossOf(own['second half']) / lossOf(base['second half'])).toFixed(4),
    'KL/token': own.all.kl / own.all.count,
    'top-1': own.all.hits / own.all.count,
    '3-grams from 64 ids on': copiedFar(own),
    rows: own.cache.rows / own.cache.fullRows,
  };
});
const { all } = figures.variants.full;
console.log(`${files} texts, ${all.count} targets, ${all.bytes} bytes`);
report(options, tokenizer, rows, figures);
for (const { model } of variants) model.dispose();
tokenizer.dispose();
