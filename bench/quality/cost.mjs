// What each policy costs at a context: bytes of the cache, peak memory while the prompt is read,
// tokens of text per second while it is read and while text is generated behind it.
//   node bench/quality/cost.mjs --twin FOLDER [--contexts 1024,4096,16384] [--rounds 3]
//     [--tokens 64] [--cases anchored,twin] [--quality FILE] [--threads 2] [--json FILE]
// A context is counted in tokens of text; inserted anchors are read besides. `--quality` is a
// result file of measure.mjs, whose loss is put beside. The models' context is raised in copies of
// their configs: bytes and speed do not depend on what they were trained on, the text does, so
// what is generated beyond that is not looked at.
import { fork } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { loadModel } from 'anchorcoder';
import { codeIds, readOptions, report, summarise } from '../common.mjs';
import { twinCases } from './cases.mjs';

const options = readOptions({
  twin: '',
  contexts: '1024,4096,16384',
  rounds: 3,
  tokens: 64,
  cases: 'anchored,anchored-int8,twin,twin-int8,twin-window,plain',
  quality: '',
  threads: 2,
});
const { threads, tokens } = options;
const contexts = options.contexts.split(',').map(Number);
const names = options.cases.split(',');
// A heap of JavaScript that keeps its size, so that what grows is the engine's.
const execArgv = ['--expose-gc', '--max-semi-space-size=1', '--no-memory-reducer'];
const { sized } = twinCases;
const cases = {
  ...twinCases.cases,
  // As an ordinary model reads and writes: the twin's weights, and no anchors in the text.
  plain: () => ({ of: 'twin', policy: { kind: 'full' } }),
};
if (names[0] !== sized) throw new Error(`Expected ${sized} as the first case`);

/** A folder with links to the files of others, and a config for a longer context. */
function longer(folder, weights, tokenizer) {
  mkdirSync(folder);
  const config = readJson(join(weights, 'config.json'));
  // Anchors make the text longer by less than a half.
  const most = Math.max(config.max_position_embeddings, 1.5 * Math.max(...contexts) + tokens);
  const changed = { ...config, max_position_embeddings: Math.ceil(most) };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(changed));
  const link = (from, file) => symlinkSync(resolve(from, file), join(folder, file));
  const isWeights = (file) => file.includes('.safetensors');
  for (const file of readdirSync(weights).filter(isWeights)) link(weights, file);
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) link(tokenizer, file);
  return folder;
}

function readJson(file) {
  return JSON.parse(readFileSync(file, 'utf8'));
}

const model = await loadModel(options.model, { threads });
const anchorIds = new Set(model.info.defaultPolicy.tokens);
const isText = (id) => !anchorIds.has(id);
const ids = await codeIds(model, Math.max(...contexts));

/** The first ids with so many tokens of text among them. */
function beginning(context) {
  let text = 0;
  const end = ids.findIndex((id) => isText(id) && ++text > context);
  if (end < 0) throw new Error(`Expected a text of more than ${context} tokens`);
  return ids.slice(0, end);
}

/** Figures of one case at one context, in a process of its own, since memory is a process's. */
function measure(name, text, held) {
  const { of, ...settings } = cases[name](held);
  const isPlain = name === 'plain';
  const read = isPlain ? text.filter((id, at) => at === 0 || isText(id)) : text;
  const load = { threads, ...(isPlain ? { anchors: { insert: null } } : {}) };
  const job = { folder: folders[of], load, ids: [...read], settings, tokens };
  const child = fork(new URL('cost-once.mjs', import.meta.url), { execArgv });
  child.send(job);
  return new Promise((done, fail) => {
    child.once('message', (figures) => done({ ids: read.length, ...figures }));
    child.once('error', fail);
    child.once('exit', (code) => fail(new Error(`${name} ended with ${code}`)));
  });
}

/** (contexts, cases, rounds) figures. All take turns, so that a busy minute hits none alone. */
async function measureAll() {
  const texts = contexts.map(beginning);
  const held = texts.map((input) => ({ info: model.info, text: { input } }));
  const measured = contexts.map(() => names.map(() => []));
  for (let round = 0; round < options.rounds; ++round) {
    for (const [i, text] of texts.entries()) {
      for (const [j, name] of names.entries()) {
        process.stderr.write(`round ${round + 1}, ${contexts[i]} tokens, ${name}\n`);
        const figures = await measure(name, text, held[i]);
        if (name === sized) Object.assign(held[i], figures);
        measured[i][j].push(figures);
      }
    }
  }
  return measured;
}

const temporary = mkdtempSync(join(tmpdir(), 'anchorcoder-bench-'));
const folders = {
  anchored: longer(join(temporary, 'anchored'), options.model, options.model),
  twin: longer(join(temporary, 'twin'), options.twin, options.model),
};
const measured = await measureAll().finally(() => rmSync(temporary, { recursive: true }));

const quality = options.quality === '' ? {} : readJson(options.quality).figures;
const figures = contexts.flatMap((context, i) =>
  names.map((name, j) => {
    const rounds = measured[i][j].map((one) => ({ ...one, read: context / one.seconds }));
    return { context, case: name, ...summarise(rounds) };
  }),
);
const mebibytes = (figure) => figure.median / 2 ** 20;
const rows = figures.map((one) => {
  const { fullBytes } = figures.find(({ context }) => context === one.context);
  const loss = quality[one.case]?.all;
  return {
    context: one.context,
    case: one.case,
    ids: one.ids.median,
    rows: one.rows.median,
    'cache, MiB': mebibytes(one.bytes),
    'of full': one.bytes.median / fullBytes.median,
    'peak, MiB': mebibytes(one.peak),
    'read, tokens/s': one.read.median,
    'decode, tokens/s': one.decode.median,
    'anchors generated': one.anchorsGenerated.median,
    ...(options.quality === '' ? {} : { 'nats/byte': loss ? loss.nats / loss.bytes : '' }),
  };
});
report(options, model, rows, figures);
model.dispose();
