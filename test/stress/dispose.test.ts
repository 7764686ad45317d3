// Models and sessions that are disposed at any time: what runs ends with ERR_DISPOSED, iterators
// end, and later calls say why they fail.
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { Model, Session } from '../../types/api.js';
import { goldenModel } from '../golden/load.js';

const { folder, prompts } = goldenModel('tinyllama');
const ids = prompts.short?.ids ?? [];
const disposed = expect.objectContaining({ name: 'AnchorError', code: 'ERR_DISPOSED' });

setFlagsFromString('--expose-gc');
const collect: () => void = runInNewContext('gc');

let model: Model;
beforeAll(async () => {
  model = await loadModel(folder);
});
afterAll(() => model.dispose());

const endless = { stopTokens: [], maxTokens: 1000 };

/** Everything that can be asked of a session, each as a promise. */
function callsOf(session: Session): Promise<unknown>[] {
  const later = (call: () => unknown) => Promise.resolve().then(call);
  return [
    later(() => session.append(ids)),
    later(() => session.append([])),
    later(() => session.generate().next()),
    later(() => session.truncate(0)),
    later(() => session.fork()),
    later(() => session.ids()),
    later(() => session.stats()),
  ];
}

async function expectDisposed(session: Session): Promise<void> {
  for (const result of await Promise.allSettled(callsOf(session))) {
    expect(result).toEqual({ status: 'rejected', reason: disposed });
  }
  session.dispose();
  session[Symbol.dispose]();
}

describe('a session', () => {
  test('before anything', async () => {
    const session = model.createSession();
    session.dispose();
    await expectDisposed(session);
  });

  test('while it reads', async () => {
    const session = model.createSession();
    const reading = session.append(ids);
    session.dispose();
    await expect(reading).rejects.toEqual(disposed);
    await expectDisposed(session);
  });

  test.each([0, 1, 5, 20])('after %i tokens of a generation, which ends', async (count) => {
    const session = model.createSession();
    await session.append(ids);
    const chunks = session.generate(endless);
    for (let i = 0; i < count; ++i) expect((await chunks.next()).done).toBe(false);
    const waiting = count % 2 === 0 ? [chunks.next(), chunks.next()] : [];
    session.dispose();
    const results = await Promise.allSettled([...waiting, chunks.next(), chunks.next()]);
    // Tokens that were there already, one failure, then nothing.
    const failed = results.findIndex(({ status }) => status === 'rejected');
    expect(results[failed]).toEqual({ status: 'rejected', reason: disposed });
    results.forEach((result, i) => {
      if (i !== failed) expect(result).toMatchObject({ value: { done: i > failed } });
    });
    expect(await chunks.next()).toEqual({ done: true, value: undefined });
    expect(await chunks.return?.()).toEqual({ done: true, value: undefined });
    await expectDisposed(session);
  });

  test('inside the loop over its tokens', async () => {
    const session = model.createSession();
    await session.append(ids);
    let count = 0;
    const loop = async () => {
      for await (const _ of session.generate(endless)) if (++count === 3) session.dispose();
    };
    await expect(loop()).rejects.toEqual(disposed);
    expect(count).toBe(3);
  });

  test('by `using`, at the end of its scope', async () => {
    const keep: Session[] = [];
    {
      using session = model.createSession();
      keep.push(session);
      await session.append(ids);
    }
    await expectDisposed(keep[0] as Session);
  });

  test('leaves its forks alone', async () => {
    const session = model.createSession();
    await session.append(ids);
    const expected = await take(session.fork(), 8);
    const forks = [session.fork(), session.fork(ids.length - 1)];
    session.dispose();
    expect(await take(forks[0] as Session, 8)).toEqual(expected);
    await forks[1]?.append(ids.slice(-1));
    expect(await take(forks[1] as Session, 8)).toEqual(expected);
  });
});

async function take(session: Session, maxTokens: number): Promise<number[]> {
  const all: number[] = [];
  for await (const { id } of session.generate({ stopTokens: [], maxTokens })) all.push(id);
  session.dispose();
  return all;
}

describe('a model', () => {
  test('with sessions that read, generate, wait and do nothing', async () => {
    const own = await loadModel(folder);
    const sessions = Array.from({ length: 8 }, () => own.createSession());
    const [reading, generating, waiting, idle] = sessions as [Session, Session, Session, Session];
    await Promise.all([generating.append(ids), waiting.append(ids), idle.append(ids)]);
    const chunks = generating.generate(endless);
    await chunks.next();
    const unread = waiting.generate(endless);
    await unread.next();
    const pending = [reading.append(ids), chunks.next(), own.complete(ids, endless)];
    const settled = Promise.allSettled(pending);
    own.dispose();
    own.dispose();
    for (const result of await settled) {
      // A token may have been there already.
      if (result.status === 'rejected') expect(result.reason).toEqual(disposed);
    }
    for (const session of sessions) await expectDisposed(session);
    expect(() => own.createSession()).toThrow(disposed);
    expect(() => own.memory()).toThrow(disposed);
    expect(() => own.detokenize([1])).toThrow(disposed);
    await expect(own.tokenize('x')).rejects.toEqual(disposed);
    await expect(own.complete(ids)).rejects.toEqual(disposed);
    expect(own.info.layers).toBe(model.info.layers);
  });

  test('again and again at moments of all kinds, and others notice nothing', async () => {
    const session = model.createSession();
    await session.append(ids);
    const expected = await take(session, 12);
    for (let round = 0; round < 30; ++round) {
      const own = await loadModel(folder, { threads: 1 + (round % 3) });
      const runs = Array.from({ length: 4 }, async () => {
        const each = own.createSession();
        for (;;) {
          await each.append(ids);
          for await (const _ of each.generate({ stopTokens: [], maxTokens: 4 }));
          each.truncate(0);
        }
      });
      const ended = Promise.allSettled(runs);
      const other = model.createSession();
      await other.append(ids);
      const going = take(other, 12);
      await sleep(round % 7);
      own.dispose();
      for (const result of await ended) {
        expect(result).toEqual({ status: 'rejected', reason: disposed });
      }
      expect(await going).toEqual(expected);
    }
  }, 60_000);
});

test('a large cache is freed off the thread that disposes it', async () => {
  const shipped = fileURLToPath(new URL('../../models/anchor-code-23m', import.meta.url));
  using large = await loadModel(shipped);
  const session = large.createSession({ policy: { kind: 'full' }, cacheType: 'f32' });
  await session.append(Array.from({ length: 1000 }, (_, i) => 20 + (i % 1000)));
  const { caches } = large.memory();
  expect(caches).toBeGreaterThan(16 << 20);
  session.dispose();
  for (let i = 0; i < 200 && large.memory().caches > 0; ++i) await sleep(10);
  expect(large.memory()).toMatchObject({ sessions: 0, caches: 0 });
});

test('a generation that is left without a word goes with its session', async () => {
  const leave = async () => {
    const session = model.createSession();
    await session.append(ids);
    await session.generate(endless).next();
  };
  for (let i = 0; i < 20; ++i) await leave();
  const held = () => model.memory().sessions + model.memory().caches;
  for (let i = 0; i < 200 && held() > 0; ++i) {
    collect();
    await sleep(10);
  }
  expect(model.memory()).toMatchObject({ sessions: 0, caches: 0 });
});
