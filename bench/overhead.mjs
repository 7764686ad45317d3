// What the API adds to each token: `for await` over generate() against the same steps in plain C++
// (bench/native/generate_bench.cpp), same weights, same tokens, in turns.
//   node bench/overhead.mjs [--tokens 256] [--prompt 128] [--rounds 9] [--threads N] [--json FILE]
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { openModel } from '../dist/lib/load.js';
import { codeIds, readOptions, report, root, summarise } from './common.mjs';

const options = readOptions({ tokens: 256, prompt: 128, rounds: 9, threads: 0 });

function build() {
  const folder = join(root, 'build-bench');
  const jobs = ['--parallel', String(availableParallelism())];
  for (const args of [
    ['-S', root, '-B', folder, '-DCMAKE_BUILD_TYPE=Release'],
    ['--build', folder, '--target', 'generate_bench', ...jobs],
  ]) {
    const { status } = spawnSync('cmake', args, { stdio: ['ignore', 'ignore', 'inherit'] });
    if (status !== 0) throw new Error(`cmake ${args.join(' ')} failed`);
  }
  return join(folder, 'generate_bench');
}

/** The package's model, and what it told the addon about itself and its session. */
async function openWatched() {
  const addon = createRequire(import.meta.url)(join(root, 'build/Release/anchorcoder.node'));
  const told = {};
  const watched = {
    ...addon,
    loadModel: async (spec) => {
      told.model = spec;
      const native = await addon.loadModel(spec);
      return {
        ...native,
        createSession: (session) => {
          told.session = session;
          return native.createSession(session);
        },
      };
    },
  };
  const settings = options.threads > 0 ? { threads: options.threads } : undefined;
  return { model: await openModel(options.model, settings, () => watched), told };
}

/** The words that generate_bench reads. */
function specification({ model, session }, ids) {
  const list = (values) => [values.length, ...values];
  const { config, files, tensors, compute, threads } = model;
  const [rope] = config.ropes;
  const { policy } = session;
  const flags = [policy.firstIsAnchor, policy.anchorSeesAnchors, policy.line];
  const { layers, hiddenSize, intermediateSize, heads, kvHeads, headDim } = config;
  const words = [
    threads,
    ...[layers, hiddenSize, intermediateSize, heads, kvHeads, headDim],
    ...[config.vocabSize, config.contextLength, config.normEpsilon, compute],
    ...[rope.rotaryDims, Number(rope.interleaved), rope.scale, ...list(rope.inverseFrequencies)],
    files.length,
    ...files.map(({ path, size }) => `${size} ${path}`),
    tensors.length,
    ...tensors.flatMap((tensor) => [
      ...[tensor.name, tensor.dtype, tensor.file, tensor.offset, tensor.length],
      ...list(tensor.shape),
    ]),
    ...list(policy.anchorIds),
    ...[...flags, policy.multiHeadPositions].map(Number),
    ...[policy.window, policy.sinks, policy.sourceLayer, policy.consumersAbove],
    ...list(policy.dense),
    ...[session.contextLength, session.cacheType],
    ...list(ids),
  ];
  return words.join('\n');
}

const { model, told } = await openWatched();
const ids = (await codeIds(model, options.prompt)).slice(0, options.prompt);

/** Seconds from the first token to the last, the loop's own share of them, and the ids. */
async function generateHere() {
  const session = model.createSession();
  await session.append(ids);
  const generated = [];
  let start = 0;
  let use;
  // Sampled anchors, as the plain loop does it.
  const settings = { maxTokens: options.tokens, stopTokens: [], anchors: 'sampled' };
  for await (const { id } of session.generate(settings)) {
    generated.push(id);
    if (generated.length > 1) continue;
    start = performance.now();
    use = performance.eventLoopUtilization();
  }
  const seconds = (performance.now() - start) / 1000;
  const busy = performance.eventLoopUtilization(use).active / 1000;
  session.dispose();
  return { seconds, busy, generated };
}

const program = build();
const folder = mkdtempSync(join(tmpdir(), 'anchorcoder-overhead-'));
const path = join(folder, 'specification');
await generateHere(); // tells the session's settings
writeFileSync(path, specification(told, ids));
const child = spawn(program, [path], { stdio: ['pipe', 'pipe', 'inherit'] });
const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();

async function generateThere() {
  child.stdin.write(`${ids.length} ${options.tokens}\n`);
  const { value, done } = await answers.next();
  if (done) throw new Error('generate_bench has ended');
  const [seconds, ...generated] = value.split(' ').map(Number);
  return { seconds, generated };
}

const rounds = [];
await generateThere();
for (let round = 0; round < options.rounds; ++round) {
  const order = round % 2 === 0 ? [generateThere, generateHere] : [generateHere, generateThere];
  const results = new Map();
  for (const call of order) results.set(call, await call());
  const [there, here] = [results.get(generateThere), results.get(generateHere)];
  if (String(there.generated) !== String(here.generated)) throw new Error('The ids differ');
  const perToken = (seconds) => (seconds * 1e6) / (options.tokens - 1);
  rounds.push({
    native: perToken(there.seconds),
    api: perToken(here.seconds),
    difference: perToken(here.seconds - there.seconds),
    eventLoop: perToken(here.busy),
  });
}
child.stdin.end();
rmSync(folder, { recursive: true });
const summary = summarise(rounds);
const row = (what, { median, range }) => ({
  'microseconds per token': what,
  median,
  least: range[0],
  most: range[1],
});
const rows = [
  row('plain loop in C++', summary.native),
  row('for await over generate()', summary.api),
  row('difference', summary.difference),
  row('event loop busy', summary.eventLoop),
];
report(options, model, rows, summary);
model.dispose();
