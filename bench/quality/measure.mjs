// What compression costs: a model that was trained for anchors and its twin, which is the same
// model with a full mask, by policy: nats per byte of text, divergence, copying, rows and bytes.
//   node bench/quality/measure.mjs --twin FOLDER --text FILE [--files 100] [--cases twin,anchored]
//     [--json FILE]
// SIGINT ends it after the text at hand, and what was measured is reported.
import { loadModel } from 'anchorcoder';
import { readOptions, report } from '../common.mjs';
import { Groups, Reference, readText } from './scores.mjs';
import { anchorIds, continuations, copies, prepare, readDocuments, readPieces } from './texts.mjs';

const sinks = 4;
const distances = [16, 64, 128, 256, 512, 1024, 2048];
const positions = [64, 256, 512, 1024, 2049];
const lengths = [2, 4, Number.POSITIVE_INFINITY];

const options = readOptions({
  twin: '',
  text: '',
  files: 100,
  cases: 'twin,anchored',
  threads: 1,
});
const { threads } = options;
const anchored = await loadModel(options.model, { threads });
const twin = await loadModel(options.twin, { threads });
const dense = [0, 8];

/** Policies by name; `rows` are those that the anchored session held, `ids` the text's. */
const cases = {
  twin: () => ({ model: twin, policy: { kind: 'full' } }),
  'twin-int8': () => ({ model: twin, policy: { kind: 'full' }, cacheType: 'int8' }),
  anchored: () => ({ model: anchored }),
  'anchored-int8': () => ({ model: anchored, cacheType: 'int8' }),
  'anchored-no-dense': () => ({ model: anchored, policy: { kind: 'anchor', per: 'none' } }),
  'twin-anchors': () => ({
    model: twin,
    policy: { kind: 'anchor', tokens: anchorIds, denseLayers: dense },
  }),
  'twin-window': ({ rows }) => ({
    model: twin,
    policy: { kind: 'window', size: windowOf(rows / twin.info.layers), sinks },
  }),
  'twin-window-dense': ({ rows, ids }) => ({
    model: twin,
    policy: {
      kind: 'window',
      size: windowOf((rows - dense.length * ids) / (twin.info.layers - dense.length)),
      sinks,
      denseLayers: dense,
    },
  }),
  'twin-ansan': () => ({ model: twin, policy: { kind: 'ansan', tokens: anchorIds.slice(1) } }),
};

function windowOf(rows) {
  return Math.max(1, Math.round(rows) - sinks);
}

const names = options.cases.split(',');
const unknown = names.find((name) => !Object.hasOwn(cases, name));
if (unknown !== undefined || names[0] !== 'twin' || names[1] !== 'anchored') {
  throw new Error(`Expected twin, anchored and then any of: ${Object.keys(cases).join(', ')}`);
}

function bucket(value, ends) {
  const i = ends.findIndex((end) => value < end);
  const last = Number.isFinite(ends[i]) ? `-${ends[i] - 1}` : ' or more';
  return `${i === 0 ? 1 : ends[i - 1]}${last}`;
}

/** Adds what one case predicted of one text to its sums. */
function collect(groups, text, spans, before, { nats, kl, hits, stats }) {
  const { ids, bytes, language } = text;
  for (let at = 1; at < ids.length; ++at) {
    const values = { bytes: bytes[at], nats: nats[at], kl: kl[at], hits: hits[at] };
    if (text.isAnchor(at)) {
      groups.add('anchors', values);
      continue;
    }
    groups.add('all', values);
    groups.add(`language ${language}`, values);
    groups.add(`position ${bucket(at, positions)}`, values);
    if (before[at] > 0) {
      const probability = Math.exp(-nats[at]);
      groups.add(`3-gram at ${bucket(before[at], distances)}`, { hits: hits[at], probability });
    }
  }
  for (const span of spans) {
    const values = copyOf(span, nats, hits);
    groups.add(`${span.kind} at ${bucket(span.distance, distances)}`, values);
    const length = bucket(span.end - span.first, lengths);
    groups.add(`${span.kind} of ${length} ids`, values);
  }
  const { rows, mirrorRows, bytes: held, rowBytes } = stats;
  const live = rows + mirrorRows;
  const kept = { rows: live, held, liveBytes: live * rowBytes, ...text.full };
  groups.add('cache', kept);
  if (ids.length > text.input.length) groups.add('cache of texts of 2048 ids', kept);
}

/** First id right, the others right behind it, all right, and the probability of all. */
function copyOf({ first, end }, nats, hits) {
  const right = (from) => hits.subarray(from, end).every((hit) => hit === 1);
  const sum = nats.subarray(first, end).reduce((a, b) => a + b, 0);
  const rest = end - first > 1 ? { longer: 1, rest: Number(right(first + 1)) } : {};
  return { first: hits[first], whole: Number(right(first)), probability: Math.exp(-sum), ...rest };
}

async function measureText(document, sums) {
  const text = await prepare(anchored, document, pieces);
  const before = continuations(text.ids);
  const spans = copies(text.ids, pieces);
  const reference = new Reference();
  const held = { ids: text.input.length, rows: 0 };
  for (const name of names) {
    const { model, ...settings } = cases[name](held);
    const session = model.createSession(settings);
    const scores = await readText(session, text, reference);
    session.dispose();
    const { stats } = scores;
    // The first case is the twin in its own type of rows.
    text.full ??= { fullRows: stats.full.rows, fullBytes: stats.full.bytes };
    if (name === 'anchored') held.rows = stats.rows + stats.mirrorRows;
    collect(sums.get(name), text, spans, before, scores);
  }
}

const pieces = readPieces(options.model);
const sums = new Map(names.map((name) => [name, new Groups()]));
let stopped = false;
process.once('SIGINT', () => {
  stopped = true;
});
let files = 0;
for (const document of readDocuments(options.text, options.files)) {
  if (stopped) break;
  await measureText(document, sums);
  files += 1;
  process.stderr.write(`\r${files} of ${options.files} texts`);
}
process.stderr.write('\n');

const figures = { files };
for (const [name, groups] of sums) figures[name] = Object.fromEntries(groups.entries());
const rows = names.map((name) => {
  const { all, anchors, cache } = figures[name];
  return {
    case: name,
    'nats/byte': (all.nats / all.bytes).toFixed(4),
    'of the twin': (all.nats / figures.twin.all.nats).toFixed(4),
    'KL/token': all.kl / all.count,
    'top-1': (all.hits / all.count).toFixed(4),
    'nats/anchor': anchors.nats / anchors.count,
    rows: (cache.rows / cache.fullRows).toFixed(4),
    'bytes of blocks': (cache.held / cache.fullBytes).toFixed(4),
    'of rows': (cache.liveBytes / cache.fullBytes).toFixed(4),
  };
});
console.log(`${files} texts, ${figures.twin.all.count} targets, ${figures.twin.all.bytes} bytes`);
report(options, anchored, rows, figures);
anchored.dispose();
twin.dispose();
