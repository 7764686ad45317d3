// The model that the repository carries: as it was trained, against an independent float64
// implementation; and read as a plain Llama model, against transformers.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { AnchorOptions, Model } from '../../types/api.js';
import { goldenTop, tolerance } from '../golden/load.js';
import { best, Folders, readAll, rowOf } from './folders.js';
import { firstDifference } from './tiny.js';

const folder = fileURLToPath(new URL('../../models/anchor-code-23m', import.meta.url));

interface Parity {
  text: string;
  ids: number[];
  argmax: number[];
  /** (positions, 5) id and logit, rounded to 1e-4. */
  top5: [number, number][][];
  nats_per_text_token: number;
  nats_per_anchor: number;
  rows_after_last_id: { 'dense layers 0 and 8': number; 'other layers': number };
}

const parity = JSON.parse(readFileSync(join(folder, 'parity.json'), 'utf8')) as Parity;
const ids = Uint32Array.from(parity.ids);
const anchorId = 1;
const modes = ['exact', 'bf16'] as const;

/** -log of the probability of `id`. */
function nats(row: Float32Array, id: number): number {
  const largest = row.reduce((a, b) => Math.max(a, b));
  const sum = row.reduce((total, value) => total + Math.exp(value - largest), 0);
  return largest + Math.log(sum) - (row[id] as number);
}

function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

describe.each(modes)('with its own attention, %s', (compute) => {
  let model: Model;
  let logits: Float32Array;
  const row = (position: number) => rowOf(logits, position, model.info.vocabSize);
  const largest = Math.max(...parity.top5.flat().map(([, logit]) => Math.abs(logit)));
  beforeAll(async () => {
    model = await loadModel(folder, { compute });
    logits = await readAll(model, ids);
  });
  afterAll(() => model.dispose());

  test('the text has the ids', async () => {
    expect(await model.tokenize(parity.text)).toEqual(ids);
    expect(model.detokenize(ids)).toBe(parity.text);
  });

  test('the best logits are those of the float64 implementation', () => {
    const bound = tolerance[compute] * largest + 5e-5; // the file's rounding
    parity.top5.forEach((top, t) => {
      for (const [id, logit] of top) {
        expect(Math.abs((row(t)[id] as number) - logit)).toBeLessThan(bound);
      }
      const [first, second] = top as [[number, number], [number, number]];
      if (first[1] - second[1] > 2 * bound) expect(best(row(t))).toBe(parity.argmax[t]);
    });
  });

  test('the text costs as many nats', () => {
    const targets = [...ids.entries()].slice(1);
    const cost = targets.map(([t, id]) => ({ id, nats: nats(row(t - 1), id) }));
    const of = (anchors: boolean) =>
      mean(cost.filter(({ id }) => (id === anchorId) === anchors).map((target) => target.nats));
    const relative = compute === 'exact' ? 1e-5 : 1e-3;
    expect(Math.abs(of(false) / parity.nats_per_text_token - 1)).toBeLessThan(relative);
    // Differences of large logits: float32 leaves few digits of them.
    expect(Math.abs(of(true) - parity.nats_per_anchor)).toBeLessThan(2e-6);
  });

  test('the cache keeps as many rows', async () => {
    using session = model.createSession();
    await session.append(ids);
    const { 'dense layers 0 and 8': dense, 'other layers': others } = parity.rows_after_last_id;
    const expected = Array.from({ length: 16 }, (_, l) => (l === 0 || l === 8 ? dense : others));
    const stats = session.stats();
    expect(stats.rowsPerLayer).toEqual(expected);
    expect(stats).toMatchObject({ position: ids.length, pending: 0, mirrorRows: others });
    const anchors = parity.ids.filter((id) => id <= 3).length;
    expect(stats.anchors).toBe(anchors);
    expect(stats.full.rows).toBe(16 * ids.length);
  });

  test('chunks and single tokens give the same bits', async () => {
    const single = await readAll(
      model,
      ids,
      parity.ids.map(() => 1),
    );
    expect(firstDifference(single, logits)).toBe(-1);
    const third = await readAll(model, ids, [100, 1, 28, 200]);
    expect(firstDifference(third, logits)).toBe(-1);
  });

  test('its text continues the same from the text and from the ids', async () => {
    const options = { maxTokens: 24, stopTokens: [] };
    const fromText = await model.complete(parity.text, options);
    const fromIds = await model.complete(ids, options);
    expect(fromText.ids).toEqual(fromIds.ids);
    expect(fromText.text).toBe(fromIds.text);
  });
});

const plainAnchors: AnchorOptions = {
  ...{ tokens: [], insert: null, per: 1, sourceLayer: null, multiHeadPositions: false },
};

describe.each(modes)('as a plain Llama model, %s', (compute) => {
  const golden = goldenTop('shipped');
  const folders = new Folders();
  let stripped: string;
  beforeAll(() => {
    const names = ['per', 'anchor_layer', 'multilayer', 'anchor_token_ids'];
    const gone = Object.fromEntries(names.map((name) => [name, undefined]));
    stripped = folders.copyWith(folder, gone);
  });
  afterAll(() => folders.remove());

  const expectGolden = (logits: Float32Array, width: number) => {
    golden.top.forEach((top, t) => {
      const row = rowOf(logits, t, width);
      top.forEach((id, i) => {
        const error = Math.abs((row[id] as number) - (golden.logits[t]?.[i] as number));
        expect(error / golden.largest).toBeLessThan(tolerance[compute]);
      });
    });
  };

  test('by a config.json without anchor settings, and by options: the same bits', async () => {
    using model = await loadModel(stripped, { compute });
    expect(model.info.trainedForAnchors).toBe(false);
    const logits = await readAll(model, golden.ids);
    expectGolden(logits, model.info.vocabSize);
    using other = await loadModel(folder, { compute, anchors: plainAnchors });
    expect(firstDifference(await readAll(other, golden.ids), logits)).toBe(-1);
    using full = other.createSession({ policy: { kind: 'full' } });
    const rows = await full.append(golden.ids, { logits: 'all' });
    expect(firstDifference(rows as Float32Array, logits)).toBe(-1);
  });
});
