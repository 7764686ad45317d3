// What compression costs, by policy and type of rows: nats per byte of text, divergence, copying,
// rows and bytes. Of a model that was trained for anchors and its twin, which is the same model
// with a full mask:
//   node bench/quality/measure.mjs --twin FOLDER --text FILE [--files 100] [--cases twin,anchored]
// Of one model that was not trained for anchors, whose newlines are the anchors then:
//   node bench/quality/measure.mjs --model FOLDER --text FILE [--dense 17,18,20,23] [--window 64]
// Both: [--length 2048] ids of a text are read at most, texts of less than [--shortest 1] ids are
// passed over; [--threads 1] [--json FILE]. `cases.mjs` has the names of all cases; `--cases all`.
// SIGINT ends it after the text at hand, and what was measured is reported.
import { loadModel } from 'anchorcoder';
import { readOptions, report } from '../common.mjs';
import { trainingFreeCases, twinCases } from './cases.mjs';
import { collect } from './collect.mjs';
import { Groups, Reference, readText } from './scores.mjs';
import { continuations, copies, prepare, readDocuments, readPieces } from './texts.mjs';

const options = readOptions({
  twin: '',
  text: '',
  files: 100,
  length: 2048,
  shortest: 1,
  cases: '',
  dense: '17,18,20,23',
  window: 64,
  threads: 1,
});
const { threads, length } = options;
const { models, reference, sized, cases } = await load();
const main = Object.values(models)[0];

function namesOf(list) {
  if (list === '') return [reference, sized];
  return list === 'all' ? [...new Set([reference, sized, ...Object.keys(cases)])] : list.split(',');
}

async function load() {
  const model = await loadModel(options.model, { threads });
  if (options.twin === '') {
    return {
      ...trainingFreeCases(options.dense.split(',').map(Number), options.window),
      models: { model },
    };
  }
  return {
    ...twinCases,
    models: { anchored: model, twin: await loadModel(options.twin, { threads }) },
  };
}

const names = namesOf(options.cases);
const unknown = names.find((name) => !Object.hasOwn(cases, name));
if (unknown !== undefined || names[0] !== reference || names[1] !== sized) {
  const known = Object.keys(cases).join(', ');
  throw new Error(`Expected ${reference}, ${sized} and then any of: ${known}`);
}

async function measureText(text, sums) {
  const before = continuations(text.ids);
  const spans = copies(text.ids, pieces);
  distributions.clear();
  const held = { text, info: main.info, rows: 0, rowBytes: 0 };
  for (const name of names) {
    const { of, ...settings } = cases[name](held);
    const session = models[of].createSession(settings);
    const scores = await readText(session, text, distributions);
    session.dispose();
    const { stats } = scores;
    // The first case is the full cache in the model's own type of rows.
    text.full ??= { fullRows: stats.full.rows, fullBytes: stats.full.bytes };
    if (name === sized) {
      held.rows = stats.rows + stats.mirrorRows;
      held.rowBytes = stats.rowBytes;
    }
    collect(sums.get(name), text, spans, before, scores);
  }
}

const pieces = readPieces(options.model);
const distributions = new Reference();
const sums = new Map(names.map((name) => [name, new Groups()]));
let stopped = false;
process.once('SIGINT', () => {
  stopped = true;
});
let files = 0;
for (const document of readDocuments(options.text)) {
  if (stopped || files === options.files) break;
  const text = await prepare(main, document, pieces, length);
  if (text.ids.length < options.shortest) continue;
  await measureText(text, sums);
  files += 1;
  process.stderr.write(`\r${files} of ${options.files} texts`);
}
process.stderr.write('\n');

const figures = { files };
for (const [name, groups] of sums) figures[name] = Object.fromEntries(groups.entries());
const first = figures[reference];
const perByte = ({ nats, bytes }) => nats / bytes;
const ratio = (name, group) => perByte(figures[name][group]) / perByte(first[group]);
const rows = names.map((name) => {
  const { all, cache, 'control tokens': control } = figures[name];
  return {
    case: name,
    'nats/byte': perByte(all).toFixed(4),
    ratio: ratio(name, 'all').toFixed(4),
    'second half': first['second half'] ? ratio(name, 'second half').toFixed(4) : '',
    'KL/token': all.kl / all.count,
    'top-1': (all.hits / all.count).toFixed(4),
    ...(control ? { 'nats/control token': control.nats / control.count } : {}),
    rows: (cache.rows / cache.fullRows).toFixed(4),
    'bytes of blocks': (cache.held / cache.fullBytes).toFixed(4),
    'of rows': (cache.liveBytes / cache.fullBytes).toFixed(4),
  };
});
console.log(`${files} texts, ${first.all.count} targets, ${first.all.bytes} bytes`);
report(options, main, rows, figures);
for (const model of Object.values(models)) model.dispose();
