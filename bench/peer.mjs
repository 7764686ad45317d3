// Against transformers on PyTorch (peer.py): the same weights read as a plain Llama model, the same
// ids, the same number of threads, in turns. The anchored cache, which the peer does not have, is
// measured beside it.
//   pip install -r bench/requirements.txt
//   node bench/peer.mjs [--python python3] [--threads 2] [--prompt 512] [--tokens 64] [--rounds 5]
//                       [--json FILE]
import { spawn } from 'node:child_process';
import {
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { loadModel } from 'anchorcoder';
import { codeIds, readOptions, report, summarise } from './common.mjs';

const options = readOptions({
  python: 'python3',
  threads: availableParallelism(),
  prompt: 512,
  tokens: 64,
  rounds: 5,
});
const { threads, prompt, tokens } = options;

/** A copy of the model without its anchor settings. */
function plainCopy(to) {
  for (const file of readdirSync(options.model)) {
    if (/\.(json|safetensors)$/.test(file)) copyFileSync(join(options.model, file), join(to, file));
  }
  const path = join(to, 'config.json');
  const config = JSON.parse(readFileSync(path, 'utf8'));
  for (const key of ['per', 'anchor_layer', 'multilayer', 'anchor_token_ids']) delete config[key];
  writeFileSync(path, JSON.stringify(config));
}

const folder = mkdtempSync(join(tmpdir(), 'anchorcoder-peer-'));
plainCopy(folder);
const script = fileURLToPath(new URL('peer.py', import.meta.url));
const child = spawn(options.python, [script, folder, String(threads)], {
  stdio: ['pipe', 'pipe', 'inherit'],
});
const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
async function answer() {
  const { value, done } = await answers.next();
  if (done) throw new Error('peer.py has ended');
  return JSON.parse(value);
}
const versions = await answer();

const exact = await loadModel(folder, { threads, compute: 'exact' });
const bf16 = await loadModel(folder, { threads, compute: 'bf16' });
const anchored = await loadModel(options.model, { threads, compute: 'bf16' });
const all = await codeIds(exact, 8 * prompt);

/** Reads each prompt and generates after it, all sessions at once. */
async function run(model, prompts) {
  const sessions = prompts.map(() => model.createSession());
  const start = performance.now();
  let first = 0;
  let known = 0;
  const settings = { maxTokens: tokens, stopTokens: [], anchors: 'sampled' };
  const ids = await Promise.all(
    sessions.map(async (session, i) => {
      await session.append(prompts[i]);
      const generated = [];
      for await (const { id } of session.generate(settings)) {
        generated.push(id);
        if (generated.length === 1 && ++known === prompts.length) first = performance.now();
      }
      return generated;
    }),
  );
  const end = performance.now();
  for (const session of sessions) session.dispose();
  return { prefill: (first - start) / 1000, decode: (end - first) / 1000, ids };
}

async function runPeer(type, prompts) {
  const ids = prompts.map((row) => [...row]);
  child.stdin.write(`${JSON.stringify({ type, ids, tokens })}\n`);
  return await answer();
}

const contestants = {
  'transformers float32': (prompts) => runPeer('float32', prompts),
  'anchorcoder exact': (prompts) => run(exact, prompts),
  'transformers bfloat16': (prompts) => runPeer('bfloat16', prompts),
  'anchorcoder bf16': (prompts) => run(bf16, prompts),
  'anchorcoder bf16, anchored': (prompts) => run(anchored, prompts),
};
const batches = [1, 8];
const cases = batches.flatMap((batch) => Object.keys(contestants).map((name) => ({ batch, name })));
const measured = cases.map(() => []);
let agree = 0;
for (let round = -1; round < options.rounds; ++round) {
  const texts = new Map();
  for (const [i, { batch, name }] of cases.entries()) {
    const prompts = Array.from({ length: batch }, (_, j) =>
      all.slice(j * prompt, (j + 1) * prompt),
    );
    const { prefill, decode, ids } = await contestants[name](prompts);
    texts.set(`${name} ${batch}`, String(ids));
    if (round < 0) continue; // warming up
    measured[i].push({
      prefill: (batch * prompt) / prefill,
      decode: (batch * (tokens - 1)) / decode,
    });
  }
  for (const batch of batches) {
    const [peer, own] = ['transformers float32', 'anchorcoder exact'];
    if (texts.get(`${peer} ${batch}`) === texts.get(`${own} ${batch}`)) ++agree;
  }
}
const figures = cases.map((one, i) => ({ ...one, ...summarise(measured[i]) }));
// Each against the peer's faster type, so that the peer is not held to its slower one.
const rows = figures.map(({ batch, name, prefill, decode }) => {
  const peers = figures.filter((other) => other.batch === batch && /^transf/.test(other.name));
  const best = (what) => Math.max(...peers.map((other) => other[what].median));
  return {
    engine: name,
    batch,
    'prefill, tokens/s': prefill.median,
    'of the best peer': prefill.median / best('prefill'),
    'decode, tokens/s': decode.median,
    'of the best peer ': decode.median / best('decode'),
  };
});
const compared = (options.rounds + 1) * batches.length;
const sameText = `${agree} of ${compared} float32 batches`;
report(options, bf16, rows, { versions, prompt, tokens, threads, sameText, figures });
console.log(
  `\nPyTorch ${versions.torch}, transformers ${versions.transformers}, ${threads} threads`,
);
console.log(`the same greedy ids from both in ${sameText}`);
child.stdin.end();
for (const model of [exact, bf16, anchored]) model.dispose();
rmSync(folder, { recursive: true });
