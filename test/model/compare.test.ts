// `compare` on small models, against logits of sessions of the test's own; aborts and odd input.
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { compare, loadModel } from 'anchorcoder';
import type { CachePolicy, Comparison, Model } from '../../types/api.js';
import { goldenModel } from '../golden/load.js';
import { best, Folders, readAll, rowOf, weightFile } from './folders.js';

const golden = goldenModel('smollm2');
const { ids } = golden.prompts.long;
const shipped = fileURLToPath(new URL('../../models/anchor-code-23m', import.meta.url));
const window: CachePolicy = { kind: 'window', size: 7, sinks: 1 };
const anchor: CachePolicy = { kind: 'anchor', tokens: [ids[5]!, ids[9]!], per: 2 };

let model: Model;
beforeAll(async () => {
  model = await loadModel(golden.folder, { compute: 'exact' });
});
afterAll(() => model.dispose());

/** -log of probabilities. */
function natsOf(row: Float32Array): number[] {
  const largest = row.reduce((a, b) => Math.max(a, b));
  const sum = row.reduce((total, value) => total + Math.exp(value - largest), 0);
  return Array.from(row, (value) => largest + Math.log(sum) - value);
}

/** The figures of a comparison that do not depend on time and chunks. */
function timeless({ reference, cases, ...text }: Comparison) {
  const each = [reference, ...cases].map(({ prefill, decode, peakBytes, ...rest }) => rest);
  return { ...text, each };
}

async function settled(condition: () => boolean): Promise<void> {
  for (let waited = 0; !condition() && waited < 5000; waited += 20) await sleep(20);
}

describe('figures', () => {
  test('a case that is the reference diverges by 0, with the same bits', async () => {
    const { reference, cases } = await compare(model, ids, [{}, { policy: { kind: 'full' } }]);
    expect(reference).toMatchObject({ policy: { kind: 'full' }, cacheType: 'f32' });
    expect(cases.map(({ name }) => name)).toEqual(['own attention', 'full']);
    for (const one of cases) {
      expect(one.klDivergence).toEqual({ mean: 0, median: 0, p99: 0, max: 0 });
      expect(one).toMatchObject({ top1Agreement: 1, perplexity: reference.perplexity });
      expect(one.tokenNats).toEqual(reference.tokenNats);
      expect(one.tokenKl.every((kl) => kl === 0)).toBe(true);
    }
  });

  test('equal those of whole logits, token by token', async () => {
    const options = { policy: window, cacheType: 'int8' } as const;
    const [p, q] = [await readAll(model, ids), await readAll(model, ids, undefined, options)];
    const { reference, cases, targets, ...text } = await compare(model, ids, [options]);
    const [one] = cases as [(typeof cases)[0]];
    expect(Array.from(targets)).toEqual(Array.from(ids.keys()).slice(1));
    expect(text).toMatchObject({ ids, insertedAnchors: 0, targetBytes: null });
    let [agreed, total] = [0, 0];
    targets.forEach((position, i) => {
      const [x, y] = [p, q].map((all) => rowOf(all, position - 1, golden.vocabulary));
      const [own, other] = [natsOf(x!), natsOf(y!)];
      const id = ids[position]!;
      const kl = own.reduce((sum, nats, k) => sum + Math.exp(-nats) * (other[k]! - nats), 0);
      expect(one.tokenKl[i]).toBeCloseTo(kl, 12);
      expect(one.tokenNats[i]).toBeCloseTo(other[id]!, 12);
      expect(reference.tokenNats[i]).toBeCloseTo(own[id]!, 12);
      expect(one.tokenAgrees[i]).toBe(best(x!) === best(y!) ? 1 : 0);
      agreed += one.tokenAgrees[i]!;
      total += other[id]!;
    });
    expect(one.klDivergence.mean).toBeGreaterThan(1e-3);
    expect(one.natsPerToken).toBeCloseTo(total / targets.length, 12);
    expect(one.perplexity).toBeCloseTo(Math.exp(total / targets.length), 8);
    expect(one.top1Agreement).toBe(agreed / targets.length);
    expect(one.natsPerByte).toBeNull();
  });

  test('do not depend on the size of chunks', async () => {
    const cases = [{ policy: window }, { policy: anchor }, { cacheType: 'int8' as const }];
    const whole = timeless(await compare(model, ids, cases));
    for (const chunkTokens of [1, 7, ids.length - 1, 10_000]) {
      expect(timeless(await compare(model, ids, cases, { chunkTokens }))).toEqual(whole);
    }
  });

  test('the cache is that of a session, its peak the most behind any chunk', async () => {
    const { reference, cases } = await compare(model, ids, [{ policy: anchor }], {
      chunkTokens: 16,
    });
    using session = model.createSession({ policy: anchor });
    let peak = 0;
    for (let at = 0; at < ids.length; at += 16) {
      await session.append(ids.subarray(at, at + 16));
      peak = Math.max(peak, session.stats().bytes);
    }
    expect(cases[0]).toMatchObject({ policy: session.policy, peakBytes: peak });
    expect(cases[0]?.stats).toEqual(session.stats());
    expect(reference.stats.rows).toBe(reference.stats.full.rows);
  });

  test('speeds are those of this run, against the reference', async () => {
    const { reference, cases } = await compare(model, ids, [{ policy: window }], {
      decodeTokens: 8,
    });
    expect(reference.prefill.ratio).toBe(1);
    expect(reference.decode?.ratio).toBe(1);
    const [one] = cases as [(typeof cases)[0]];
    for (const kind of ['prefill', 'decode'] as const) {
      const [own, base] = [one[kind]!, reference[kind]!];
      expect(own.ratio).toBeCloseTo(own.tokensPerSecond / base.tokensPerSecond, 9);
      expect(own.tokensPerSecond).toBeGreaterThan(0);
    }
    // What was generated is not in the figures of the text.
    expect(one.stats.position).toBe(ids.length);
    const { cases: plain } = await compare(model, ids, [{}]);
    expect(plain[0]?.decode).toBeNull();
  });
});

test('the prefix cache of a model has no part in it', async () => {
  const other = await loadModel(golden.folder, { prefixCache: { bytes: 2 ** 24 } });
  const before = other.memory();
  const { reference } = await compare(other, ids, [{}, { policy: window }]);
  expect(reference.stats.reusedTokens).toBe(0);
  expect(other.memory().prefixCache).toEqual(before.prefixCache);
  other.dispose();
});

describe('while it runs', () => {
  test('progress counts the tokens of all sessions', async () => {
    const seen: number[] = [];
    let all = 0;
    const onProgress = ({ done, total }: { done: number; total: number }) => {
      seen.push(done);
      all = total;
    };
    await compare(model, ids, [{}, { policy: window }], { chunkTokens: 50, onProgress });
    expect(all).toBe(3 * ids.length);
    expect(seen.at(-1)).toBe(all);
    expect(seen).toHaveLength(3 * Math.ceil(ids.length / 50));
    expect([...seen].sort((a, b) => a - b)).toEqual(seen);
  });

  test('an abort in the middle disposes the sessions and gives the memory back', async () => {
    const before = model.memory();
    const reason = new Error('enough');
    const controller = new AbortController();
    let during = 0;
    const onProgress = ({ done }: { done: number }) => {
      during = model.memory().sessions;
      if (done > ids.length) controller.abort(reason);
    };
    const { signal } = controller;
    const running = compare(
      model,
      ids,
      [{}, {}].map((one, i) => ({ ...one, name: `${i}` })),
      {
        ...{ chunkTokens: 8, onProgress, signal },
      },
    );
    await expect(running).rejects.toBe(reason);
    expect(during).toBe(before.sessions + 3);
    await settled(() => model.memory().caches === before.caches);
    expect(model.memory()).toEqual(before);
  });

  test('an abort before it begins', async () => {
    const before = model.memory();
    const gone = AbortSignal.abort();
    await expect(compare(model, ids, [{}], { signal: gone })).rejects.toBe(gone.reason);
    expect(model.memory()).toEqual(before);
  });

  test('a callback that throws ends it with its error', async () => {
    const before = model.memory();
    const error = new Error('from the callback');
    const onProgress = () => {
      throw error;
    };
    await expect(compare(model, ids, [{}], { onProgress })).rejects.toBe(error);
    await settled(() => model.memory().caches === before.caches);
    expect(model.memory()).toEqual(before);
  });

  test('a model that is disposed meanwhile', async () => {
    const other = await loadModel(golden.folder);
    const onProgress = () => other.dispose();
    const running = compare(other, ids, [{}], { chunkTokens: 8, onProgress });
    await expect(running).rejects.toMatchObject({ name: 'AnchorError', code: 'ERR_DISPOSED' });
    await expect(compare(other, ids, [{}])).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
  });
});

describe('what is refused', () => {
  const many = new Uint32Array(2 ** 16);
  const twice = [{ policy: window }, { name: 'window:7,1' }];
  const layer: CachePolicy = { kind: 'window', size: 4, denseLayers: [99] };

  test.each<[string, unknown, unknown, unknown, string, RegExp]>([
    ['no cases', ids, undefined, {}, 'ERR_INVALID_ARGUMENT', /argument "cases" to be a list/],
    ['an empty list', ids, [], {}, 'ERR_INVALID_ARGUMENT', /list of one case or more/],
    [
      'an unknown word',
      ids,
      [{ polcy: 1 }],
      {},
      'ERR_INVALID_ARGUMENT',
      /mean "cases\[0\].policy"/,
    ],
    ['an unknown type', ids, [{ cacheType: 'q4' }], {}, 'ERR_INVALID_ARGUMENT', /cases\[0\]/],
    ['an empty name', ids, [{ name: '' }], {}, 'ERR_INVALID_ARGUMENT', /not empty/],
    ['a name twice', ids, twice, {}, 'ERR_INVALID_ARGUMENT', /two are "window:7,1"/],
    ['a layer that is not there', ids, [{ policy: layer }], {}, 'ERR_INVALID_ARGUMENT', /The case/],
    ['no ids', [], [{}], {}, 'ERR_INVALID_ARGUMENT', /a token to predict/],
    ['one id', [5], [{}], {}, 'ERR_INVALID_ARGUMENT', /of its 1 tokens 0 are/],
    ['an id outside the vocabulary', [1, 1e6], [{}], {}, 'ERR_INVALID_ARGUMENT', /id 1 of/],
    ['a prompt that is none', 7, [{}], {}, 'ERR_INVALID_ARGUMENT', /list of token ids/],
    ['a text without a tokenizer', 'x', [{}], {}, 'ERR_NO_TOKENIZER', /tokenizer/],
    ['a text beyond the context', many, [{}], {}, 'ERR_CONTEXT_LENGTH', /context is/],
    ['too many to decode', ids, [{}], { decodeTokens: 4096 }, 'ERR_CONTEXT_LENGTH', /4096 more/],
    ['one to decode', ids, [{}], { decodeTokens: 1 }, 'ERR_INVALID_ARGUMENT', /from 2/],
    ['a chunk of none', ids, [{}], { chunkTokens: 0 }, 'ERR_INVALID_ARGUMENT', /chunkTokens/],
    ['a signal that is none', ids, [{}], { signal: 1 }, 'ERR_INVALID_ARGUMENT', /AbortSignal/],
  ])('%s', async (_, prompt, cases, options, code, message) => {
    const before = model.memory();
    const running = compare(model, prompt as never, cases as never, options as never);
    const error = { name: 'AnchorError', code, message: expect.stringMatching(message) };
    await expect(running).rejects.toMatchObject(error);
    expect(model.memory()).toEqual(before);
  });

  test('weights that give no finite logits', async () => {
    const folders = new Folders();
    const path = join(folders.copy(golden.folder), weightFile);
    const bytes = readFileSync(path);
    const start = 8 + Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, start));
    const [from, to] = header['model.norm.weight'].data_offsets as [number, number];
    bytes.fill(0x7f, start + from, start + to); // 3.4e38 in bf16
    writeFileSync(path, bytes);
    const damaged = await loadModel(dirname(path), { compute: 'exact' });
    const error = { code: 'ERR_MODEL_INVALID', message: expect.stringContaining('of token 0') };
    await expect(compare(damaged, ids, [{}])).rejects.toMatchObject(error);
    expect(damaged.memory().sessions).toBe(0);
    damaged.dispose();
    folders.remove();
  });

  test.each([[undefined], [null], ['model'], [{ info: {} }]])('the model %p', async (other) => {
    const running = compare(other as never, ids, [{}]);
    await expect(running).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' });
  });
});

describe('the model that the repository carries', () => {
  const text =
    'class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, x):';
  let trained: Model;
  beforeAll(async () => {
    trained = await loadModel(shipped);
  });
  afterAll(() => trained.dispose());

  test('its anchors are the reference, and no targets', async () => {
    const cases = [{ policy: { kind: 'full' as const } }, { cacheType: 'int8' as const }];
    const all = await compare(trained, text, cases, { decodeTokens: 4 });
    const ids = await trained.tokenize(text);
    expect(all.ids).toEqual(ids);
    expect(all.insertedAnchors).toBe(4);
    expect(all.targets).toHaveLength(ids.length - 1 - 4);
    expect(Array.from(all.targets).some((position) => ids[position] === 1)).toBe(false);
    expect(all.targetBytes).toBe(Buffer.byteLength(text));
    const { reference } = all;
    const [full, int8] = all.cases as [(typeof all.cases)[0], (typeof all.cases)[0]];
    expect(reference.policy).toEqual(trained.info.defaultPolicy);
    expect(reference.natsPerByte).toBeCloseTo(
      (reference.natsPerToken * all.targets.length) / Buffer.byteLength(text),
      12,
    );
    expect(full.klDivergence.mean).toBeGreaterThan(int8.klDivergence.mean);
    expect(int8.klDivergence.mean).toBeGreaterThan(0);
    expect(int8.stats.bytes).toBeLessThan(reference.stats.bytes);
    expect(reference.stats.full.rows).toBe(16 * ids.length);
    expect(reference.stats.fullWithoutAnchors.rows).toBe(16 * (ids.length - 4));
  });

  test('an abort while tokens are generated', async () => {
    const before = trained.memory();
    const controller = new AbortController();
    const onProgress = ({ done, total }: { done: number; total: number }) => {
      // Little is left to do but to generate, which takes seconds.
      if (done === total) setTimeout(() => controller.abort(), 300);
    };
    const { signal } = controller;
    const running = compare(trained, text, [{}], { decodeTokens: 1900, onProgress, signal });
    await expect(running).rejects.toMatchObject({ name: 'AbortError' });
    await settled(() => trained.memory().caches === before.caches);
    expect(trained.memory()).toMatchObject({ caches: before.caches, sessions: before.sessions });
  });

  test('control tokens of a text, where they are asked for', async () => {
    const plain = await compare(trained, 'a<|endoftext|>b', [{}]);
    const parsed = await compare(trained, 'a<|endoftext|>b', [{}], { parseSpecial: true });
    expect(parsed.ids.length).toBeLessThan(plain.ids.length);
    expect(parsed.targetBytes).toBe(2);
  });
});
