// Many sessions: memory that comes back, and neighbours that notice nothing.
import { stat } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { Model, Session } from '../../types/api.js';
import { Random } from '../reference/random.js';

const folder = fileURLToPath(new URL('../../models/anchor-code-23m', import.meta.url));
let model: Model;
beforeAll(async () => {
  model = await loadModel(folder);
});
afterAll(() => model.dispose());

/** Collects what JavaScript has let go. */
setFlagsFromString('--expose-gc');
const collect: () => void = runInNewContext('gc');

const prompt = (i: number) => `# number ${i}\ndef f${i}(a, b):\n    `;

async function generated(session: Session, maxTokens: number, signal?: AbortSignal) {
  const ids: number[] = [];
  const options = { maxTokens, stopTokens: [], ...(signal ? { signal } : {}) };
  for await (const chunk of session.generate(options)) ids.push(chunk.id);
  return ids;
}

test('1,000 sessions leave nothing behind', async () => {
  const use = async (i: number) => {
    using session = model.createSession();
    await session.append(prompt(i));
    await generated(session, 4);
  };
  for (let i = 0; i < 100; ++i) await use(i);
  collect();
  const before = process.memoryUsage().rss;
  for (let i = 0; i < 1000; i += 8) {
    await Promise.all(Array.from({ length: 8 }, (_, k) => use(i + k)));
  }
  expect(model.memory().caches).toBe(0);
  expect(model.memory().sessions).toBe(0);
  collect();
  expect(process.memoryUsage().rss - before).toBeLessThan(128 << 20);
}, 120_000);

test('sessions that nobody disposes are collected before they pile up', async () => {
  const text = Array.from({ length: 200 }, (_, i) => 35 + (i % 50));
  let most = 0;
  for (let i = 0; i < 120; ++i) {
    await model.createSession({ policy: { kind: 'full' } }).append(text);
    most = Math.max(most, model.memory().sessions);
    await new Promise(setImmediate); // collections end between turns
  }
  expect(most).toBeLessThan(60);
}, 120_000);

test('200 sessions at once hold what their stats say, and give it back', async () => {
  const sessions = Array.from({ length: 200 }, () => model.createSession());
  await Promise.all(sessions.map((session) => session.append([0, 35, 36])));
  expect(model.memory().sessions).toBe(200);
  const caches = model.memory().caches;
  expect(caches).toBeGreaterThan(0);
  expect(caches).toBeLessThanOrEqual(
    sessions.reduce((sum, session) => sum + session.stats().bytes, 0),
  );
  for (const session of sessions) session.dispose();
  expect(model.memory().caches).toBe(0);
}, 120_000);

test('what is kept for the ends of lines counts as memory, too', async () => {
  using session = model.createSession();
  await session.append('x = 1\n'.repeat(50));
  const { bytes } = session.stats();
  expect(model.memory().caches).toBe(bytes);
  const { mapped, weights } = model.memory();
  // With room for the blocks of rows, but not for what is kept beside them.
  using short = await loadModel(folder, { maxMemory: mapped + weights + bytes - 4000 });
  using other = short.createSession();
  await expect(other.append('x = 1\n'.repeat(50))).rejects.toMatchObject({
    code: 'ERR_OUT_OF_MEMORY',
  });
}, 120_000);

test('aborts at random change no other session', async () => {
  const random = new Random(5);
  const alone: number[][] = [];
  for (let i = 0; i < 10; ++i) {
    using session = model.createSession();
    await session.append(prompt(i));
    alone.push(await generated(session, 24));
  }
  const runs = Array.from({ length: 100 }, async (_, i) => {
    using session = model.createSession();
    await session.append(prompt(i % 10));
    if (i % 2 === 0) return await generated(session, 24);
    const controller = new AbortController();
    setTimeout(() => controller.abort(), random.integer(0, 400));
    return await generated(session, 24, controller.signal).catch((error: Error) => {
      expect(error.name).toBe('AbortError');
    });
  });
  const results = await Promise.all(runs);
  for (let i = 0; i < 100; i += 2) expect(results[i]).toEqual(alone[i % 10]);
  expect(model.memory().caches).toBe(0);
}, 120_000);

test('dispose is safe at any time', async () => {
  for (let round = 0; round < 20; ++round) {
    const session = model.createSession();
    const reading = session.append(prompt(round).repeat(20));
    if (round % 2 === 0) await reading;
    const going = round % 2 === 0 ? generated(session, 200) : reading;
    setTimeout(() => session.dispose(), round);
    await expect(going).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    session.dispose();
    expect(() => session.stats()).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
  }
});

test("files are read while the engine is busy: it does not use libuv's threads", async () => {
  const sessions = Array.from({ length: 8 }, () => model.createSession());
  await Promise.all(sessions.map((session, i) => session.append(prompt(i))));
  let done = false;
  const work = Promise.all(sessions.map((session) => generated(session, 64))).then(() => {
    done = true;
  });
  for (let i = 0; i < 16; ++i) await stat(folder);
  expect(done).toBe(false);
  await work;
  for (const session of sessions) session.dispose();
});
