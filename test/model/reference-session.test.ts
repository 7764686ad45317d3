// Whatever was done to a session, it goes on with the bits of one that read its ids in one go:
// forks, cuts, generations, aborts, in random order.
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { CachePolicy, Model, Session } from '../../types/api.js';
import { windowStart } from '../reference/masks.js';
import { Random } from '../reference/random.js';
import { rowsPerLayer } from '../reference/rows.js';
import { type Settings, settingsOf } from '../reference/settings.js';
import {
  ANCHOR,
  anchored,
  firstDifference,
  policies,
  randomIds,
  readIn,
  shapes,
  type TinyModel,
  TinyModels,
} from './tiny.js';

const models = new TinyModels();
let tiny: TinyModel;
let model: Model;
beforeAll(async () => {
  tiny = models.make(shapes['8 heads of 8'] as NonNullable<(typeof shapes)[string]>);
  model = await loadModel(tiny.folder, { compute: 'exact' });
});
afterAll(() => {
  model.dispose();
  models.remove();
});

const codeOf = (error: unknown) => (error as { code?: unknown }).code;

/**
 * Whether a session of `ids` must be able to go back to `position`: a token there sees no open
 * line (the end of one, the text's start), or none whose start has left.
 */
function mustReach(ids: readonly number[], position: number, settings: Settings): boolean {
  if (settings.dense.every((dense) => dense)) return true;
  const from = windowStart(ids, position, settings);
  return from === position || from >= windowStart(ids, ids.length, settings);
}

/** Reads on in both, `probe` for one and everything for the other, and compares. */
async function expectSame(
  session: Session,
  ids: readonly number[],
  policy: CachePolicy,
  probe: number[],
): Promise<void> {
  const settings = settingsOf(policy, tiny.layers);
  expect([...session.ids()]).toEqual(ids);
  const logits = await readIn(session, probe, [probe.length]);
  using fresh = model.createSession({ policy });
  const all = [...ids, ...probe];
  const expected = (await readIn(fresh, all, [all.length])).subarray(ids.length * 64);
  expect(firstDifference(logits, expected)).toBe(-1);
  expect(session.stats().rowsPerLayer).toEqual(rowsPerLayer(all, settings));
  expect(session.stats()).toMatchObject({ position: all.length, pending: 0 });
}

/** One random life of a session; the ids are counted on our side. */
class Life {
  ids: number[] = [];
  session: Session;
  readonly #random: Random;
  readonly #policy: CachePolicy;
  readonly #settings: Settings;

  constructor(seed: number, policy: CachePolicy) {
    this.#random = new Random(seed);
    this.#policy = policy;
    this.#settings = settingsOf(policy, tiny.layers);
    this.session = model.createSession({ policy });
  }

  #some(longest: number): number[] {
    return randomIds(this.#random, this.#random.integer(1, longest + 1), 6);
  }

  async append(): Promise<void> {
    const ids = this.#some(30);
    await this.session.append(ids, { logits: this.#random.pick(['none', 'last', 'all']) });
    this.ids.push(...ids);
  }

  async abort(): Promise<void> {
    const ids = this.#some(300);
    const controller = new AbortController();
    const reason = new Error('enough');
    const read = this.session.append(ids, { signal: controller.signal });
    const wait = this.#random.integer(0, 3);
    for (let turn = 0; turn < wait; turn++) await new Promise(setImmediate);
    controller.abort(reason);
    // The read may have been faster; otherwise the rest is pending, or nothing has been taken.
    let aborted = false;
    await read.catch((error: unknown) => {
      expect(error).toBe(reason);
      aborted = true;
    });
    const nothingTaken = aborted && this.session.position === this.ids.length;
    if (!nothingTaken) this.ids.push(...ids);
  }

  async generate(): Promise<void> {
    if (this.ids.length === 0) return;
    const maxTokens = this.#random.integer(1, 25);
    const leaveAfter = this.#random.integer(1, 30);
    const temperature = this.#random.pick([0, 1]);
    const got: number[] = [];
    const options = { maxTokens, temperature, seed: 1, stopTokens: [] };
    try {
      for await (const { id } of this.session.generate(options)) {
        got.push(id);
        if (got.length === leaveAfter) break;
      }
    } catch (error) {
      // Back at the first row that is held, the last token cannot be run again for its logits.
      expect(codeOf(error)).toBe('ERR_POSITION');
      expect(this.#settings.window).toBeGreaterThan(0);
      expect(got).toEqual([]);
      return;
    }
    expect(got).toHaveLength(Math.min(maxTokens, leaveAfter));
    this.ids.push(...got);
  }

  /** Goes back, which may be refused where rows have left; a refusal changes nothing. */
  truncate(): void {
    const position = this.#random.integer(0, this.ids.length + 1);
    try {
      this.session.truncate(position);
      this.ids.length = position;
    } catch (error) {
      expect(codeOf(error)).toBe('ERR_POSITION');
      expect(mustReach(this.ids, position, this.#settings)).toBe(false);
    }
  }

  /** Goes on with the fork or with the original; what happens to the other does not matter. */
  async fork(): Promise<void> {
    const at = this.#random.integer(0, this.ids.length + 1);
    let other: Session;
    try {
      other = this.session.fork(at);
    } catch (error) {
      expect(codeOf(error)).toBe('ERR_POSITION');
      expect(mustReach(this.ids, at, this.#settings)).toBe(false);
      return;
    }
    const original = this.session;
    const noise = this.#some(40);
    if (this.#random.uniform() < 0.5) {
      this.session = other;
      this.ids.length = at;
      await original.append(noise);
      original.dispose();
    } else {
      await other.append(noise);
      other.dispose();
    }
  }

  async live(steps: number): Promise<void> {
    for (let step = 0; step < steps; step++) {
      const acts = [this.append, this.append, this.abort, this.generate, this.truncate, this.fork];
      await this.#random.pick(acts).call(this);
      expect(this.session.position).toBe(this.ids.length);
    }
    await expectSame(this.session, this.ids, this.#policy, this.#some(20));
    this.session.dispose();
  }
}

const lives: [string, CachePolicy][] = [
  'full',
  'no dense layer',
  'per 2, source 2',
  'per 2, source 0 for all, dense layers too',
  'line and window, source 0',
  'SepLLM: separators, window and sinks',
  'AnSAN',
  'StreamingLLM with a dense layer',
].map((name) => [name, policies[name] as CachePolicy]);

describe('random lives', () => {
  test.each(lives)('%s', async (_, policy) => {
    for (let seed = 0; seed < 120; seed++) await new Life(seed, policy).live(12);
  });
});

describe('going back', () => {
  const policy = anchored({ per: 2, sourceLayer: 2, consumersAbove: 2 });
  const line = [20, 21, 22, 23, ANCHOR];
  const ids = [1, ...line, ...line, 30, 31, 32];

  test('to the end of every line and within the open one', async () => {
    const reachable = [0, 1, 6, 11, 12, 13, 14];
    for (let position = 0; position <= ids.length; position++) {
      using session = model.createSession({ policy });
      await session.append(ids);
      const settings = settingsOf(policy, tiny.layers);
      expect(mustReach(ids, position, settings)).toBe(reachable.includes(position));
      if (!reachable.includes(position)) continue;
      session.truncate(position);
      await expectSame(session, ids.slice(0, position), policy, [40, 41, ANCHOR, 42]);
    }
  });

  test('regenerating gives the same text, and a fork gives it as well', async () => {
    const options = { maxTokens: 30, temperature: 1, seed: 11, stopTokens: [] };
    using session = model.createSession({ policy });
    await session.append(ids);
    const generate = async (from: Session) => {
      const got: number[] = [];
      for await (const { id } of from.generate(options)) got.push(id);
      return got;
    };
    using fork = session.fork();
    const first = await generate(session);
    expect(first).toHaveLength(30);
    expect(await generate(fork)).toEqual(first);
    using again = model.createSession({ policy });
    await again.append(ids);
    expect(await generate(again)).toEqual(first);
    await expectSame(session, [...ids, ...first], policy, [50, 51]);
  });
});

test('a long prompt that is aborted goes on where it stopped', async () => {
  const folder = fileURLToPath(new URL('../../models/anchor-code-23m', import.meta.url));
  using shipped = await loadModel(folder);
  const random = new Random(21);
  const ids = [0, ...Array.from({ length: 1500 }, () => random.integer(1, 8192))];
  using whole = shipped.createSession();
  const expected = (await whole.append(ids, { logits: 'last' })) as Float32Array;
  using session = shipped.createSession();
  const controller = new AbortController();
  const reason = new Error('enough');
  const read = session.append(ids, {
    signal: controller.signal,
    onProgress: () => controller.abort(reason),
  });
  await expect(read).rejects.toBe(reason);
  const { pending, position } = session.stats();
  expect(position).toBe(ids.length);
  expect(pending).toBeGreaterThan(0);
  expect(pending).toBeLessThan(ids.length);
  const logits = (await session.append([], { logits: 'last' })) as Float32Array;
  expect(firstDifference(logits, expected)).toBe(-1);
  expect(session.stats()).toMatchObject({ position: ids.length, pending: 0 });
});
