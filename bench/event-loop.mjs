// Delay of the event loop while a long prompt is read and eight sessions generate, and of an idle
// loop beside it. The histogram's timer itself waits a millisecond, which is part of every figure.
//   node bench/event-loop.mjs [--seconds 10] [--sessions 8] [--prompt 2000] [--json FILE]
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadModel } from 'anchorcoder';
import { codeIds, readOptions, report } from './common.mjs';

const options = readOptions({ seconds: 10, sessions: 8, prompt: 2000 });
const model = await loadModel(options.model);
const ids = await codeIds(model, options.prompt);
const text = model.detokenize(ids.slice(0, options.prompt));
const histogram = monitorEventLoopDelay({ resolution: 1 });

/** Percentiles in milliseconds while `work` runs. */
async function observe(work) {
  histogram.reset();
  histogram.enable();
  await work();
  histogram.disable();
  const milliseconds = (percentile) => histogram.percentile(percentile) / 1e6;
  return {
    p50: milliseconds(50),
    p90: milliseconds(90),
    p99: milliseconds(99),
    'p99.9': milliseconds(99.9),
    max: histogram.max / 1e6,
    samples: histogram.count,
  };
}

let generated = 0;
let read = 0;
let until = 0;

async function generate(number) {
  while (performance.now() < until) {
    const session = model.createSession();
    await session.append(ids.slice(number * 100, number * 100 + 100));
    for await (const _ of session.generate({ maxTokens: 500, stopTokens: [] })) {
      ++generated;
      if (performance.now() >= until) break;
    }
    session.dispose();
  }
}

async function readPrompts() {
  while (performance.now() < until) {
    const session = model.createSession({ policy: { kind: 'full' } });
    // A text, so that the tokenizer works as well.
    await session.append(text);
    read += session.position;
    session.dispose();
  }
}

const milliseconds = options.seconds * 1000;
const idle = await observe(() => sleep(milliseconds));
until = performance.now() + milliseconds;
const start = performance.now();
const busy = await observe(() =>
  Promise.all([readPrompts(), ...Array.from({ length: options.sessions }, (_, i) => generate(i))]),
);
const seconds = (performance.now() - start) / 1000;
const rates = { generated: generated / seconds, read: read / seconds };
const rows = [
  { 'delay in ms': 'idle', ...idle },
  { 'delay in ms': 'reading and generating', ...busy },
];
report(options, model, rows, { idle, busy, tokensPerSecond: rates });
console.log(
  `\nmeanwhile ${rates.generated.toFixed(0)} tokens/s generated and ${rates.read.toFixed(0)} read`,
);
model.dispose();
