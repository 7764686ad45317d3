// Prefix reuse: the same bits with rows of the prefix cache or of another session, and no more
// memory than was allowed.
import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { CachePolicy, Model, Session, SessionOptions } from '../../types/api.js';
import { Random } from '../reference/random.js';
import { ANCHOR, policies, randomIds, shapes, type TinyModel, TinyModels } from './tiny.js';

const models = new TinyModels();
let tiny: TinyModel;
let plain: Model;
beforeAll(async () => {
  tiny = models.make(shapes['8 heads on 2'] as NonNullable<(typeof shapes)[string]>);
  plain = await loadModel(tiny.folder, { compute: 'exact' });
});
afterAll(() => {
  plain.dispose();
  models.remove();
});

const open = (bytes = 2 ** 28, maxMemory?: number) =>
  loadModel(tiny.folder, {
    compute: 'exact',
    prefixCache: { bytes },
    ...(maxMemory ? { maxMemory } : {}),
  });

const ids = (seed: number, length: number) => randomIds(new Random(seed), length, 12);

/** Logits of the last token and what is generated after it. */
async function answer(session: Session, text: number[]) {
  const logits = await session.append(text, { logits: 'last' });
  const chunks: [number, number | undefined][] = [];
  const options = { maxTokens: 12, temperature: 1, seed: 4, stopTokens: [], logprobs: true };
  for await (const { id, logprob } of session.generate(options)) chunks.push([id, logprob]);
  return { logits: [...(logits as Float32Array)], chunks };
}

async function ask(model: Model, text: number[], options?: SessionOptions) {
  using session = model.createSession(options);
  const result = await answer(session, text);
  return { ...result, reused: session.stats().reusedTokens };
}

describe('the prefix cache gives the bits of a fresh session', () => {
  test.each(Object.entries(policies))('%s', async (_, policy) => {
    using model = await open();
    const text = ids(1, 300);
    const turns = [text, text, [...text, ...ids(2, 40)], [...text.slice(0, 200), ...ids(3, 50)]];
    for (const [i, turn] of turns.entries()) {
      const { reused, ...result } = await ask(model, turn, { policy });
      const { reused: none, ...expected } = await ask(plain, turn, { policy });
      expect(result).toEqual(expected);
      expect(none).toBe(0);
      if (i === 0) expect(reused).toBe(0);
      // Down to a line's end at most: what was generated may have closed the last line.
      if (i === 1 || i === 2) expect(reused).toBeGreaterThanOrEqual(300 - 14);
    }
    const { prefixCache } = model.memory();
    expect(prefixCache.hits + prefixCache.misses).toBe(4);
    expect(prefixCache.hits).toBeGreaterThanOrEqual(2);
  });
});

test('a conversation is read once, whatever was generated and dropped between', async () => {
  using model = await open();
  const policy = policies['per 2'] as CachePolicy;
  let text = ids(5, 100);
  for (let turn = 0; turn < 6; ++turn) {
    using session = model.createSession({ policy });
    const before = text.length;
    await session.append(text);
    if (turn > 0) expect(session.stats().reusedTokens).toBeGreaterThanOrEqual(before - 31);
    const options = { maxTokens: 20, temperature: 1, seed: turn, stopTokens: [] };
    for await (const _ of session.generate(options));
    text = [...session.ids(), ...ids(10 + turn, 10), ANCHOR];
  }
});

test('what an aborted prompt has read is kept', async () => {
  using model = await open();
  const text = ids(6, 2000);
  const controller = new AbortController();
  {
    using session = model.createSession({ policy: { kind: 'full' } });
    const onProgress = ({ done }: { done: number }) => done > 0 && controller.abort();
    const reading = session.append(text, { signal: controller.signal, onProgress });
    const watch = setInterval(
      () => session.stats().position - session.stats().pending > 50 && controller.abort(),
      1,
    );
    await reading.catch((error: Error) => expect(error.name).toBe('AbortError'));
    clearInterval(watch);
  }
  using again = model.createSession({ policy: { kind: 'full' } });
  await again.append(text);
  expect(again.stats().reusedTokens).toBeGreaterThan(50);
  // No more than are left of them.
  using fork = again.fork(10);
  expect(fork.stats().reusedTokens).toBe(10);
  again.truncate(20);
  await again.append(text.slice(0, 5));
  expect(again.stats().reusedTokens).toBe(20);
});

// What its rows hold, only who saved them knows: it may be another instruction set's, or a lie.
test('nothing of a snapshot goes into it', async () => {
  using model = await open();
  const text = ids(15, 200);
  const options = { policy: { kind: 'full' } } as const;
  using other = plain.createSession(options);
  const wrong = [...text];
  wrong[3] = wrong[3] === 20 ? 21 : 20;
  await other.append(wrong);
  // The rows of another text under the ids of this one.
  const bytes = Buffer.from(await other.snapshot());
  const start = 20 + bytes.readUInt32LE(12);
  bytes.writeUInt32LE(text[3] as number, start + 4 * 3);
  const { length } = bytes;
  let checksum = bytes.readUInt32LE(start - 4);
  for (let at = start; at < length; at += 262148) {
    const end = Math.min(at + 262144, length - 4);
    checksum = crc32(bytes.subarray(at, end), checksum);
    bytes.writeUInt32LE(checksum, end);
  }
  const restored = await model.restore(bytes);
  expect([...restored.ids()]).toEqual(text);
  await answer(restored, [20, 21]);
  using fork = model.createSession({ from: restored });
  await fork.append([22]);
  restored.dispose();
  expect(model.memory().prefixCache).toMatchObject({ prefixes: 0, hits: 0, misses: 0 });
  const { reused, ...result } = await ask(model, text, options);
  const { reused: _, ...expected } = await ask(plain, text, options);
  expect(reused).toBe(0);
  expect(result).toEqual(expected);
});

test('is asked for by the model, and can be left out by a session', async () => {
  expect(plain.memory().prefixCache).toEqual({
    bytes: 0,
    prefixes: 0,
    hits: 0,
    misses: 0,
    reusedTokens: 0,
  });
  using model = await open();
  const text = ids(7, 100);
  await ask(model, text, { prefixCache: false });
  expect(model.memory().prefixCache).toMatchObject({ prefixes: 0, hits: 0, misses: 0 });
  await ask(model, text);
  expect((await ask(model, text, { prefixCache: false })).reused).toBe(0);
  const completion = await model.complete(text, { maxTokens: 3 });
  // The last token may have to run again for its logits.
  expect(completion.usage.reusedTokens).toBeGreaterThanOrEqual(99);
  expect(completion.stats.reusedTokens).toBe(completion.usage.reusedTokens);
});

test('stays within its bytes, and gives way to sessions', async () => {
  using model = await open(300_000);
  for (let i = 0; i < 20; ++i) {
    await ask(model, [...ids(8, 100), ...ids(20 + i, 60)]);
    const { prefixCache, caches } = model.memory();
    expect(prefixCache.bytes).toBeLessThanOrEqual(300_000);
    expect(caches).toBeLessThanOrEqual(prefixCache.bytes);
    expect(prefixCache.prefixes).toBeGreaterThan(0);
  }
  expect(model.memory().prefixCache.hits).toBeGreaterThan(15);

  const { mapped, weights } = plain.memory();
  using short = await open(2 ** 28, mapped + weights + 4_000_000);
  for (let i = 0; i < 20; ++i) await ask(short, ids(50 + i, 600), { policy: { kind: 'full' } });
  expect(short.memory().prefixCache.prefixes).toBeGreaterThan(0);
  expect(short.memory().prefixCache.prefixes).toBeLessThan(20);
});

test('sessions that read the same at once', async () => {
  using model = await open();
  const text = ids(9, 400);
  const { reused: _, ...expected } = await ask(plain, text);
  await ask(model, text);
  const all = await Promise.all(Array.from({ length: 12 }, () => ask(model, text)));
  for (const { reused, ...result } of all) {
    expect(result).toEqual(expected);
    expect(reused).toBeGreaterThanOrEqual(399);
  }
  expect(model.memory().sessions).toBe(0);
});

describe('a session that begins with another', () => {
  test('shares its rows up to a line, and answers as one that read them', async () => {
    const policy = policies['per 2, source 2'] as CachePolicy;
    using from = plain.createSession({ policy, contextLength: 500 });
    const text = ids(11, 300);
    await from.append(text);
    const at = text.lastIndexOf(ANCHOR, 150) + 1;
    const held = plain.memory().caches;
    using session = plain.createSession({ from, at });
    expect(plain.memory().caches).toBe(held);
    expect(session.position).toBe(at);
    expect(session.policy).toEqual(from.policy);
    expect(session.contextLength).toBe(500);
    using longer = plain.createSession({ from, contextLength: 1000 });
    expect([longer.position, longer.contextLength]).toEqual([300, 1000]);
    const rest = ids(12, 30);
    const { reused: _, ...expected } = await ask(plain, [...text.slice(0, at), ...rest], {
      policy,
    });
    expect(await answer(session, rest)).toEqual(expected);
    expect(from.position).toBe(300);
  });

  test('in one call', async () => {
    using from = plain.createSession({ policy: { kind: 'full' } });
    await from.append(ids(13, 50));
    const { ids: generated } = await plain.complete([20, 21], { from, maxTokens: 5 });
    const whole = [...ids(13, 50), 20, 21];
    const options = { policy: { kind: 'full' }, maxTokens: 5 } as const;
    expect(generated).toEqual((await plain.complete(whole, options)).ids);
    expect(from.position).toBe(50);
  });

  test('refuses what cannot be', async () => {
    using other = await open();
    using foreign = other.createSession();
    using from = plain.createSession({ policy: policies['no dense layer'] as CachePolicy });
    await from.append(ids(14, 100));
    const refused = (options: SessionOptions, code: string, message: RegExp) =>
      expect(() => plain.createSession(options)).toThrow(
        expect.objectContaining({ code, message: expect.stringMatching(message) }),
      );
    const argument = 'ERR_INVALID_ARGUMENT';
    refused({ from: foreign }, argument, /"from" to be a session of this model/);
    refused({ from: {} as Session }, argument, /"from" to be a session of this model/);
    refused({ from: 5 as never }, argument, /"from" to be a session, but/);
    refused({ at: 3 }, argument, /"at" to be given together with "from"/);
    refused({ from, policy: { kind: 'full' } }, argument, /"policy" to be left out/);
    refused({ from, cacheType: 'f32' }, argument, /"cacheType" to be left out/);
    refused({ from, prefixCache: false }, argument, /"prefixCache" to be left out/);
    refused({ from, at: 101 }, 'ERR_POSITION', /from 0 to 100/);
    refused({ from, contextLength: 99 }, 'ERR_CONTEXT_LENGTH', /at most 99 tokens/);
    refused({ from, contextLength: 2 ** 31 - 1 }, argument, /contextLength/);
    const inLine = from.ids().indexOf(ANCHOR) - 1;
    refused({ from, at: inLine }, 'ERR_POSITION', /whose rows have left/);
    const reading = from.append([20]);
    refused({ from }, 'ERR_BUSY', /busy with "append"/);
    await reading;
    from.dispose();
    refused({ from }, 'ERR_DISPOSED', /disposed/);
  });
});
