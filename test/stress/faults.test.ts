// Aborts, disposals, ended workers and a blocked thread, at every moment that a delay can meet, while
// sessions read, generate, are saved and restored: nothing is lost, nothing is left, nobody else
// notices.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { Model, Session } from '../../types/api.js';

const folder = fileURLToPath(new URL('../../models/anchor-code-23m', import.meta.url));
const library = new URL('../../dist/lib/index.js', import.meta.url).href;
const scratch = mkdtempSync(join(tmpdir(), 'anchorcoder-faults-'));
const prompt = '# adds\ndef add(a, b):\n    return a + b\n'.repeat(12);
const generation = { maxTokens: 24, stopTokens: [], temperature: 1, seed: 3 };

let model: Model;
let expected: number[];
beforeAll(async () => {
  model = await loadModel(folder, { prefixCache: { bytes: 1 << 24 } });
  using session = await read();
  expected = await generated(session);
});
// Whatever happened: no session is left, no file, and others get what they always got.
afterEach(async () => {
  expect(model.memory().sessions).toBe(0);
  expect(readdirSync(scratch)).toEqual([]);
  using session = await read();
  expect(await generated(session)).toEqual(expected);
});
afterAll(() => {
  model.dispose();
  rmSync(scratch, { recursive: true });
});

async function read(): Promise<Session> {
  const session = model.createSession();
  await session.append(prompt);
  return session;
}

async function generated(session: Session, signal?: AbortSignal): Promise<number[]> {
  const ids: number[] = [];
  const options = { ...generation, ...(signal && { signal }) };
  for await (const { id } of session.generate(options)) ids.push(id);
  return ids;
}

/** Runs a call that is aborted after some milliseconds; whether it ended before. */
async function aborted(delay: number, call: (signal: AbortSignal) => Promise<unknown>) {
  const reason = new Error('enough');
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(reason), delay);
  try {
    await call(controller.signal);
    return false;
  } catch (error) {
    expect(error).toBe(reason);
    return true;
  } finally {
    clearTimeout(timer);
  }
}

/** Calls with longer and longer delays, until one is not met any more; how many were. */
async function atEveryPoint(step: number, run: (delay: number) => Promise<boolean>) {
  let met = 0;
  for (let delay = 0; delay < 400; delay += step) {
    if (!(await run(delay))) return met;
    ++met;
  }
  return met;
}

test('an append is aborted at every point, and goes on', async () => {
  const met = await atEveryPoint(13, async (delay) => {
    using session = model.createSession({ prefixCache: false });
    const stopped = await aborted(delay, (signal) => session.append(prompt, { signal }));
    if (session.position === 0) await session.append(prompt);
    else if (session.stats().pending > 0) await session.append([]);
    expect(await generated(session)).toEqual(expected);
    return stopped;
  });
  expect(met).toBeGreaterThan(0);
}, 120_000);

test('a generation is aborted at every point, and goes on', async () => {
  using whole = await read();
  const met = await atEveryPoint(9, async (delay) => {
    using session = whole.fork();
    const ids: number[] = [];
    const stopped = await aborted(delay, async (signal) => {
      for await (const { id } of session.generate({ ...generation, signal })) ids.push(id);
    });
    const maxTokens = generation.maxTokens - ids.length;
    if (maxTokens > 0) {
      for await (const { id } of session.generate({ ...generation, maxTokens })) ids.push(id);
    }
    expect(ids).toEqual(expected);
    return stopped;
  });
  expect(met).toBeGreaterThan(0);
}, 120_000);

test('saving and restoring are aborted at every point', async () => {
  using session = await read();
  const file = join(scratch, 'session.snapshot');
  const bytes = await session.snapshot();
  await atEveryPoint(1, async (delay) => {
    const stopped = await aborted(delay, (signal) => session.saveSnapshot(file, { signal }));
    expect(existsSync(file)).toBe(!stopped);
    rmSync(file, { force: true });
    expect(readdirSync(scratch)).toEqual([]);
    return stopped;
  });
  await atEveryPoint(1, (delay) =>
    aborted(delay, async (signal) => {
      using restored = await model.restore(bytes, { signal });
      expect(await generated(restored)).toEqual(expected);
    }),
  );
  expect(model.memory().sessions).toBe(1);
}, 120_000);

test('sessions are disposed while they are saved, restored and generate', async () => {
  const file = join(scratch, 'session.snapshot');
  const disposed = expect.objectContaining({ code: 'ERR_DISPOSED' });
  for (let delay = 0; delay < 24; delay += 3) {
    const session = await read();
    const saving = session.saveSnapshot(file);
    const going = generated(session);
    setTimeout(() => session.dispose(), delay);
    await expect(going).rejects.toEqual(disposed);
    // Its state was taken before.
    await saving;
    using restored = await model.restore(file);
    rmSync(file);
    expect(await generated(restored)).toEqual(expected);
  }
}, 120_000);

test('a model is disposed while its sessions are saved and restored', async () => {
  using session = await read();
  const bytes = await session.snapshot();
  const file = join(scratch, 'session.snapshot');
  for (let delay = 0; delay < 20; delay += 4) {
    const other = await loadModel(folder);
    using restored = await other.restore(bytes);
    const calls = [
      other.restore(bytes),
      restored.saveSnapshot(file),
      generated(restored),
      other.restore(bytes),
    ].map((call) =>
      call.then(
        () => 'fine',
        (error: { code: string }) => error.code,
      ),
    );
    setTimeout(() => other.dispose(), delay);
    for (const outcome of await Promise.all(calls)) {
      expect(['fine', 'ERR_DISPOSED']).toContain(outcome);
    }
    rmSync(file, { force: true });
    expect(readdirSync(scratch)).toEqual([]);
  }
}, 120_000);

test('a thread that is blocked for seconds finds everything done', async () => {
  const sessions = await Promise.all(Array.from({ length: 4 }, read));
  const file = join(scratch, 'session.snapshot');
  const saving = (sessions[0] as Session).saveSnapshot(file);
  const going = sessions.map((session) => generated(session));
  await sleep(5);
  const until = Date.now() + 2000;
  while (Date.now() < until);
  for (const ids of await Promise.all(going)) expect(ids).toEqual(expected);
  await saving;
  using restored = await model.restore(file);
  expect(await generated(restored)).toEqual(expected);
  rmSync(file);
  for (const session of sessions) session.dispose();
}, 120_000);

// In a process of its own, which a fault ends.
test('workers are terminated while they generate, save and restore', async () => {
  const worker = `
    import { loadModel } from ${JSON.stringify(library)};
    const model = await loadModel(${JSON.stringify(folder)}, { prefixCache: { bytes: 1 << 22 } });
    const session = model.createSession();
    await session.append(${JSON.stringify(prompt)});
    const bytes = await session.snapshot();
    const forever = async (call) => { for (;;) await call(); };
    await Promise.all([
      forever(async () => (await model.restore(bytes)).dispose()),
      forever(() => session.snapshot()),
      forever(async () => {
        const fork = session.fork();
        for await (const _ of fork.generate({ maxTokens: 8 }));
        fork.dispose();
      }),
      forever(() => model.complete('x = ', { maxTokens: 4 })),
    ].map((call) => call.catch(() => {})));
  `;
  const url = `data:text/javascript,${encodeURIComponent(worker)}`;
  const source = `
    import { Worker } from 'node:worker_threads';
    import { setTimeout as sleep } from 'node:timers/promises';
    for (let round = 0; round < 8; ++round) {
      const worker = new Worker(new URL(${JSON.stringify(url)}));
      worker.on('error', (error) => console.log(error));
      await sleep(150 + 90 * round);
      await worker.terminate();
    }
    console.log('done');
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', source]);
  const [output, code] = await Promise.all([
    text(child.stdout),
    new Promise((resolve) => child.on('exit', (status, signal) => resolve(status ?? signal))),
  ]);
  expect(output).toBe('done\n');
  expect(code).toBe(0);
}, 120_000);

test('100 sessions, half of them aborted, disposed or saved at any moment', async () => {
  let state = 11;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const runs = Array.from({ length: 100 }, async (_, i) => {
    const session = await read();
    const delay = random(300);
    try {
      if (i % 4 === 1) await aborted(delay, (signal) => generated(session, signal));
      else if (i % 4 === 2) {
        setTimeout(() => session.dispose(), delay);
        await generated(session).catch(({ code }) => expect(code).toBe('ERR_DISPOSED'));
      } else if (i % 4 === 3) {
        const saving = session.snapshot();
        const [bytes] = await Promise.all([saving, generated(session)]);
        using restored = await model.restore(bytes);
        expect(await generated(restored)).toEqual(expected);
      } else expect(await generated(session)).toEqual(expected);
    } finally {
      session.dispose();
    }
  });
  await Promise.all(runs);
}, 240_000);
