// Hours of everything at once:
//   node test/stress/run.mjs [--minutes N] [--parallel N] [--seed N] [--model FOLDER]
// Sessions that read, generate, fork, go back, are saved and restored, aborted, disposed or dropped;
// a prefix cache; models and worker threads that come and go; a thread that is blocked now and then.
// Undisturbed results have to stay the same and memory has to come back.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { loadModel } from 'anchorcoder';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    parallel: { type: 'string', default: '12' },
    seed: { type: 'string', default: String(Date.now() % 1e6) },
    model: {
      type: 'string',
      default: fileURLToPath(new URL('../../models/anchor-code-23m', import.meta.url)),
    },
  },
});
const folder = values.model;
const end = Date.now() + Number(values.minutes) * 60_000;
console.log(`seed ${values.seed}, ${values.minutes} minutes`);

let state = Number(values.seed) >>> 0;
/** An integer in [0, below). */
function random(below) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc');
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const running = () => Date.now() < end;

const prefixBytes = 32 << 20;
const model = await loadModel(folder, { prefixCache: { bytes: prefixBytes } });
const scratch = mkdtempSync(join(tmpdir(), 'anchorcoder-stress-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
let files = 0;
const policies = [
  undefined,
  { kind: 'full' },
  { kind: 'window', size: 48, sinks: 2 },
  { kind: 'anchor', per: 4, window: 8 },
];
const cacheTypes = ['f32', 'bf16', 'f16', 'int8'];
const prompts = Array.from({ length: 12 }, (_, i) => ({
  text: `# part ${i}\ndef f${i}(a, b):\n    """Adds."""\n    return a\n`.repeat(1 + (i % 5)),
  options: { policy: policies[i % 4], cacheType: cacheTypes[(i >> 1) % 4] },
  generation: { maxTokens: 32, temperature: i % 3, seed: i, stopTokens: [] },
}));

async function take(session, generation, at) {
  const ids = [];
  for await (const { id } of session.generate(generation)) {
    ids.push(id);
    if (ids.length === at) break;
  }
  return ids;
}

const suffixOf = (which) => `\n\nprint(f${which}(1, 2))\n`;
const fill = ({ text, options, generation }, which) =>
  model.complete(text, { ...options, ...generation, suffix: suffixOf(which), prefixCache: false });

const expected = [];
const filled = [];
for (const [which, prompt] of prompts.entries()) {
  const { text, options, generation } = prompt;
  filled.push((await fill(prompt, which)).text);
  const session = model.createSession({ ...options, prefixCache: false });
  await session.append(text);
  expected.push(await take(session, generation));
  session.dispose();
}

const counts = {};
const count = (name) => {
  counts[name] = (counts[name] ?? 0) + 1;
};
function same(ids, which) {
  if (ids.join() === expected[which].join()) return;
  throw new Error(`prompt ${which} gave ${ids}, not ${expected[which]} (seed ${values.seed})`);
}
/** Runs a call that may end early, and then with these codes only. */
async function allowing(codes, call) {
  try {
    await call();
  } catch (error) {
    if (!codes.includes(error.code) && !codes.includes(error.name)) throw error;
  }
}

// `own` disposes at the scene's end.
const scenes = {
  async whole(which, own) {
    const { text, options, generation } = prompts[which];
    const session = own(model.createSession(options));
    const ids = await model.tokenize(text);
    for (let at = 0; at < ids.length; ) {
      const size = 1 + random(70);
      await session.append(ids.subarray(at, at + size));
      at += size;
    }
    same(await take(session, generation), which);
  },
  async inParts(which, own) {
    const { text, options, generation } = prompts[which];
    const session = own(model.createSession(options));
    await session.append(text);
    const ids = await take(session, generation, 1 + random(31));
    same([...ids, ...(await take(session, { ...generation, maxTokens: 32 - ids.length }))], which);
  },
  async abortedPrompt(which, own) {
    const { text, options, generation } = prompts[which];
    const session = own(model.createSession(options));
    const signal = AbortSignal.timeout(random(30));
    await allowing(['TimeoutError'], () => session.append(text, { signal }));
    // Before the ids were handed over nothing is in the session.
    if (session.position === 0) return;
    if (session.stats().pending > 0) await session.append([]);
    same(await take(session, generation), which);
  },
  async abortedGeneration(which, own) {
    const { text, options, generation } = prompts[which];
    const session = own(model.createSession(options));
    await session.append(text);
    const ids = [];
    const signal = AbortSignal.timeout(random(120));
    await allowing(['TimeoutError'], async () => {
      for await (const { id } of session.generate({ ...generation, signal })) ids.push(id);
    });
    if (ids.length === 32) return same(ids, which);
    same([...ids, ...(await take(session, { ...generation, maxTokens: 32 - ids.length }))], which);
  },
  async forks(which, own) {
    const { text, options, generation } = prompts[which];
    const session = own(model.createSession(options));
    await session.append(text);
    const other = own(session.fork());
    const [ids] = await Promise.all([
      take(session, generation),
      other.append('x = 1\n'.repeat(20)),
    ]);
    same(ids, which);
  },
  async inMemory(which, own) {
    const { text, options, generation } = prompts[which];
    const session = own(model.createSession(options));
    await session.append(text);
    const ids = await take(session, generation, 1 + random(31));
    const saving = session.snapshot();
    const going = take(session, generation, 1 + random(31)); // while it is saved
    const restored = own(await model.restore(await saving));
    await going;
    const left = { ...generation, maxTokens: 32 - ids.length };
    same([...ids, ...(left.maxTokens > 0 ? await take(restored, left) : [])], which);
  },
  async inFile(which, own) {
    const { text, options, generation } = prompts[which];
    const session = own(model.createSession(options));
    await session.append(text);
    const file = join(scratch, String(files++));
    await session.saveSnapshot(file);
    const restored = await Promise.all([model.restore(file), model.restore(file)]);
    rmSync(file);
    for (const one of restored) own(one);
    for (const ids of await Promise.all(restored.map((one) => take(one, generation)))) {
      same(ids, which);
    }
  },
  async abortedFile(which, own) {
    const { text, options, generation } = prompts[which];
    const session = own(model.createSession(options));
    await session.append(text);
    const file = join(scratch, String(files++));
    const soon = () => ({ signal: AbortSignal.timeout(random(12)) });
    await allowing(['TimeoutError'], async () => {
      await session.saveSnapshot(file, soon());
      own(await model.restore(file, soon()));
    });
    rmSync(file, { force: true });
    same(await take(session, generation), which);
  },
  async disposedFile(which) {
    const { text, options } = prompts[which];
    const session = model.createSession(options);
    await session.append(text);
    const file = join(scratch, String(files++));
    setTimeout(() => session.dispose(), random(12));
    // What was taken before it was disposed is written; what is asked for later is refused.
    await session.saveSnapshot(file);
    await allowing(['ERR_DISPOSED'], () => session.snapshot());
    (await model.restore(file)).dispose();
    rmSync(file);
    session.dispose();
  },
  async fromOther(which, own) {
    const { text, options, generation } = prompts[which];
    const from = own(model.createSession(options));
    await from.append(text);
    const at = from.position;
    await from.append('y = 2\n');
    const sessions = [];
    // Its line's rows may have left, which is said.
    await allowing(['ERR_POSITION'], () => sessions.push(own(model.createSession({ from, at }))));
    for (const session of sessions) same(await take(session, generation), which);
  },
  async filledIn(which) {
    const { text } = await fill(prompts[which], which);
    if (text !== filled[which]) throw new Error(`hole ${which} gave ${text}, not ${filled[which]}`);
  },
  async blocked() {
    if (random(60) > 0) return;
    const until = Date.now() + 500 + random(2500);
    while (Date.now() < until);
  },
  async disposed(which) {
    const { text, options, generation } = prompts[which];
    const session = model.createSession(options);
    setTimeout(() => session.dispose(), random(60));
    await allowing(['ERR_DISPOSED'], async () => {
      await session.append(text);
      await take(session, generation);
    });
    session.dispose();
  },
  async dropped(which) {
    const { text, options, generation } = prompts[which];
    const session = model.createSession(options);
    await session.append(text);
    await session.generate(generation).next();
  },
  async ownModel(which) {
    if (random(8) > 0) return;
    const other = await loadModel(folder, { threads: 1 + random(3) });
    const { text, options, generation } = prompts[which];
    setTimeout(() => other.dispose(), random(300));
    await allowing(['ERR_DISPOSED'], async () => {
      const session = other.createSession(options);
      await session.append(text);
      await other.restore(await session.snapshot());
      await other.complete(text, { ...options, ...generation });
    });
    other.dispose();
  },
  async worker(which) {
    if (random(8) > 0) return;
    const library = import.meta.resolve('anchorcoder');
    const source = `
      import { loadModel } from ${JSON.stringify(library)};
      const model = await loadModel(${JSON.stringify(folder)});
      const session = model.createSession();
      await session.append(${JSON.stringify(prompts[which].text)});
      const saving = async () => {
        for (;;) (await model.restore(await session.snapshot())).dispose();
      };
      const generating = async () => {
        for await (const _ of session.fork().generate({ stopTokens: [] })) continue;
      };
      await Promise.all([generating(), saving()]);
    `;
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`));
    await sleep(random(600));
    await worker.terminate();
  },
};

async function actor() {
  const names = Object.keys(scenes);
  while (running()) {
    const name = names[random(names.length)];
    const owned = [];
    const own = (session) => {
      owned.push(session);
      return session;
    };
    try {
      await scenes[name](random(prompts.length), own);
    } finally {
      for (const session of owned) session.dispose();
    }
    count(name);
  }
}

const megabytes = (bytes) => (bytes / 2 ** 20).toFixed(0);
let settled;
async function observer() {
  let minute = 0;
  while (running()) {
    await sleep(Math.min(60_000, Math.max(0, end - Date.now())));
    // What nobody holds goes some turns of the event loop after it was found.
    for (let i = 0; i < 5; ++i) {
      collect();
      await sleep(20);
    }
    const { rss } = process.memoryUsage();
    const { sessions, caches } = model.memory();
    const scenesRun = Object.values(counts).reduce((a, b) => a + b, 0);
    console.log(
      `minute ${++minute}: ${scenesRun} scenes, RSS ${megabytes(rss)} MiB, ` +
        `${sessions} sessions, caches ${megabytes(caches)} MiB`,
    );
    // The first minutes fill pools and caches.
    if (minute === 5) settled = rss;
    if (settled !== undefined && rss > settled + (256 << 20)) {
      throw new Error(`RSS grew from ${megabytes(settled)} to ${megabytes(rss)} MiB`);
    }
  }
}

await Promise.all([...Array.from({ length: Number(values.parallel) }, actor), observer()]);
/** Sessions, and bytes of rows that are not the prefix cache's. */
function left() {
  const { sessions, caches, prefixCache } = model.memory();
  return { sessions, bytes: Math.max(0, caches - prefixCache.bytes) };
}
for (let i = 0; i < 500 && left().sessions + left().bytes > 0; ++i) {
  void collect();
  await sleep(10);
}
const { sessions, bytes } = left();
if (sessions !== 0 || bytes !== 0) {
  throw new Error(`${sessions} sessions and ${bytes} bytes of caches are left`);
}
const { prefixCache } = model.memory();
if (prefixCache.bytes > prefixBytes)
  throw new Error(`a prefix cache of ${prefixCache.bytes} bytes`);
const remains = readdirSync(scratch);
if (remains.length > 0) throw new Error(`files are left: ${remains}`);
console.log(counts, prefixCache);
