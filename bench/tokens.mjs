// Prefill and decode speed, time to the first token and the cache's size, by policy, type of the
// cache and length of the context.
//   node bench/tokens.mjs [--rounds 3] [--tokens 48] [--contexts 256,1024,2000] [--json FILE]
import { loadModel } from 'anchorcoder';
import { codeIds, readOptions, report, summarise } from './common.mjs';

const options = readOptions({
  rounds: 3,
  tokens: 48,
  contexts: '256,1024,2000',
  policies: 'anchor,full,window',
  types: 'bf16,f32,f16,int8',
});
const contexts = options.contexts.split(',').map(Number);
const policies = {
  anchor: { kind: 'anchor' },
  full: { kind: 'full' },
  window: { kind: 'window', size: 256, sinks: 4 },
};
const model = await loadModel(options.model);
const ids = await codeIds(model, Math.max(...contexts));

async function measure({ policy, cacheType, context }) {
  const session = model.createSession({ policy: policies[policy], cacheType });
  const start = performance.now();
  await session.append(ids.slice(0, context));
  const read = performance.now();
  const { rows, mirrorRows, bytes, full } = session.stats();
  let first = 0;
  let count = 0;
  const settings = { maxTokens: options.tokens, stopTokens: [] };
  for await (const _ of session.generate(settings)) {
    if (count++ === 0) first = performance.now();
  }
  const seconds = (performance.now() - first) / 1000;
  session.dispose();
  return {
    prefill: (1000 * context) / (read - start),
    firstToken: first - start,
    decode: (count - 1) / seconds,
    rows,
    mirrorRows,
    bytes,
    fullBytes: full.bytes,
  };
}

const cases = contexts.flatMap((context) =>
  options.policies
    .split(',')
    .flatMap((policy) =>
      options.types.split(',').map((cacheType) => ({ context, policy, cacheType })),
    ),
);
const measured = cases.map(() => []);
await measure(cases[0]);
// All cases take turns, so that a busy minute does not hit one of them alone.
for (let round = 0; round < options.rounds; ++round) {
  for (const [i, one] of cases.entries()) measured[i].push(await measure(one));
}
const figures = cases.map((one, i) => ({ ...one, ...summarise(measured[i]) }));
const rows = figures.map((one) => ({
  context: one.context,
  policy: one.policy,
  cache: one.cacheType,
  'prefill, tokens/s': one.prefill.median,
  'first token, ms': one.firstToken.median,
  'decode, tokens/s': one.decode.median,
  rows: one.rows.median + one.mirrorRows.median,
  'cache, KiB': one.bytes.median / 1024,
  'of full': one.bytes.median / one.fullBytes.median,
}));
report(options, model, rows, figures);
model.dispose();
