// Small random models in a temporary folder, policies for them, and ways to read ids into a
// session: what the tests of the engine against the reference share.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CachePolicy, Session } from '../../types/api.js';
import { relativeError } from '../golden/load.js';
import { Random } from '../reference/random.js';
import type { StoredType } from '../reference/safetensors.js';
import {
  loadReference,
  type ReferenceModel,
  randomModel,
  type Sizes,
  saveModel,
} from '../reference/weights.js';

export const BOS = 1;
export const ANCHOR = 3;
export const NEWLINE = 10;
export const ANCHORS = [ANCHOR, BOS];
const VOCAB = 64;
/** Ids below this one have a meaning, the others are words. */
const WORDS = 11;

/** Error allowed in exact mode with rows in float32, relative to the largest logit. */
export const EXACT = 1e-4;

export interface TinyModel {
  folder: string;
  reference: ReferenceModel;
  layers: number;
}

const size = (layers: number, hiddenSize: number, heads: number, kvHeads: number, dim: number) => ({
  layers,
  hiddenSize,
  intermediateSize: hiddenSize + 20,
  heads,
  kvHeads,
  headDim: dim,
  vocabSize: VOCAB,
});

/** Multi-head positions hardly show with few KV heads, so two have many. */
export const shapes: Record<string, Sizes> = {
  '8 heads of 8': size(5, 32, 8, 8, 8),
  '32 heads of 8, wider than the hidden size': size(4, 48, 32, 32, 8),
  '8 heads on 2': size(6, 48, 8, 2, 16),
  '4 heads on 1': size(5, 40, 4, 1, 12),
};

/** Makes folders until `remove` takes them away. */
export class TinyModels {
  readonly #root = mkdtempSync(join(tmpdir(), 'anchorcoder-tiny-'));
  #count = 0;

  make(sizes: Sizes, extra: Record<string, unknown> = {}, dtype: StoredType = 'F32'): TinyModel {
    const folder = join(this.#root, String(this.#count++));
    saveModel(
      randomModel(sizes, 100 + sizes.heads),
      folder,
      { bos_token_id: BOS, ...extra },
      dtype,
    );
    // Read back: the weights are those that the folder holds, rounded to its type.
    return { folder, reference: loadReference(folder), layers: sizes.layers };
  }

  remove(): void {
    rmSync(this.#root, { recursive: true, force: true });
  }
}

/** An AnchorCoder policy over the anchors of the tiny models, with multi-head positions. */
export function anchored(own: Partial<Extract<CachePolicy, { kind: 'anchor' }>>): CachePolicy {
  return { kind: 'anchor', tokens: ANCHORS, multiHeadPositions: true, ...own };
}

export const policies: Record<string, CachePolicy> = {
  full: { kind: 'full' },
  'no dense layer': anchored({ per: 'none' }),
  'no dense layer, plain positions': anchored({ per: 'none', multiHeadPositions: false }),
  'no dense layer, source 1': anchored({ per: 'none', sourceLayer: 1, consumersAbove: 1 }),
  'all layers dense': anchored({ per: 1 }),
  'all layers dense, plain positions': anchored({ per: 1, multiHeadPositions: false }),
  'all layers dense, source 1': anchored({ per: 1, sourceLayer: 1, consumersAbove: 1 }),
  'per 2': anchored({ per: 2 }),
  'per 2, plain positions': anchored({ per: 2, multiHeadPositions: false }),
  'per 2, source 2': anchored({ per: 2, sourceLayer: 2, consumersAbove: 2 }),
  'per 2, source 0 for all, dense layers too': anchored({
    per: 2,
    sourceLayer: 0,
    consumersAbove: 0,
  }),
  'per 2, source 0, plain positions': anchored({
    per: 2,
    sourceLayer: 0,
    consumersAbove: 1,
    multiHeadPositions: false,
  }),
  'per 4': anchored({ per: 4 }),
  'per 4, source 0': anchored({ per: 4, sourceLayer: 0, consumersAbove: 1 }),
  'listed dense layers, source 1': anchored({
    denseLayers: [1, 2],
    sourceLayer: 1,
    consumersAbove: 2,
  }),
  'line and window': anchored({ per: 2, window: 7, sinks: 2 }),
  'line and window, source 0': anchored({
    per: 4,
    window: 3,
    sinks: 4,
    sourceLayer: 0,
    consumersAbove: 0,
  }),
  'SepLLM: separators, window and sinks': anchored({
    per: 'none',
    line: false,
    window: 6,
    sinks: 3,
    multiHeadPositions: false,
  }),
  'window over the block size, source 0': anchored({
    per: 3,
    line: false,
    window: 40,
    sinks: 1,
    sourceLayer: 0,
    consumersAbove: 1,
  }),
  AnSAN: { kind: 'ansan', tokens: ANCHORS },
  window: { kind: 'window', size: 9, sinks: 0 },
  'window of 1': { kind: 'window', size: 1, sinks: 1 },
  'StreamingLLM with a dense layer': { kind: 'window', size: 33, sinks: 4, denseLayers: [1] },
};

/** Words, `count` of them. */
function words(random: Random, count: number): number[] {
  return Array.from({ length: count }, () => random.integer(WORDS, VOCAB));
}

/** Lines of the given lengths, each closed by a newline and its anchor. */
function lines(random: Random, lengths: readonly number[]): number[] {
  return lengths.flatMap((length) => [...words(random, length), NEWLINE, ANCHOR]);
}

/** Texts with everything that a mask could get wrong; every prefix of them is a text as well. */
export function texts(seed: number): Record<string, number[]> {
  const random = new Random(seed);
  const twice = [BOS, ...lines(random, [4, 0, 9, 1]), ...words(random, 5), BOS];
  return {
    'lines after BOS, blank ones, in mid-line at the end': [
      BOS,
      ...lines(random, [3, 12, 0, 0, 1, 36]),
      ...words(random, 4),
    ],
    'two documents: BOS in a line, adjacent anchors': [
      ...twice,
      ...lines(random, [2]),
      ANCHOR,
      ANCHOR,
      BOS,
      ...lines(random, [6]),
    ],
    'no BOS, and anchors without a newline': [
      ...words(random, 6),
      ANCHOR,
      ...words(random, 3),
      ANCHOR,
      ...lines(random, [5, 2]),
      NEWLINE,
    ],
    'no anchor at all': words(random, 45),
    'only anchors': [ANCHOR, ANCHOR, BOS, ANCHOR, ANCHOR],
    'one word': words(random, 1),
    'one anchor': [ANCHOR],
  };
}

/** A line that is longer than several cache blocks and a group of keys, between short ones. */
export function longText(seed: number): number[] {
  const random = new Random(seed);
  return [BOS, ...lines(random, [4, 310, 3, 0]), ...words(random, 9), NEWLINE];
}

/** Random ids, about one in `every` an anchor. */
export function randomIds(random: Random, length: number, every: number): number[] {
  return Array.from({ length }, () =>
    random.uniform() * every < 1 ? random.pick(ANCHORS) : random.integer(WORDS - 1, VOCAB),
  );
}

/** Logits (tokens, vocabSize) of ids that are read in chunks of these sizes. */
export async function readIn(
  session: Session,
  ids: readonly number[],
  sizes: readonly number[],
  afterEach: (read: number) => void = () => {},
): Promise<Float32Array> {
  const all = new Float32Array(ids.length * VOCAB);
  let done = 0;
  for (const length of sizes) {
    const logits = await session.append(ids.slice(done, done + length), { logits: 'all' });
    if (logits?.length !== length * VOCAB) throw new Error(`${logits?.length} logits`);
    all.set(logits, done * VOCAB);
    done += length;
    afterEach(done);
  }
  return all;
}

/** Largest error relative to the largest expected logit. */
export function errorOf(actual: Float32Array, expected: Float64Array): number {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return relativeError(actual, expected, largest);
}

/** Index of the first element whose bits differ, -1 where there is none. */
export function firstDifference(a: Float32Array, b: Float32Array): number {
  const [x, y] = [a, b].map((v) => new Uint32Array(v.buffer, v.byteOffset, v.length)) as [
    Uint32Array,
    Uint32Array,
  ];
  if (x.length !== y.length) return Math.min(x.length, y.length);
  return x.findIndex((bits, i) => bits !== y[i]);
}
