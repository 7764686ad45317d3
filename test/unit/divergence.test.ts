// KL divergence and its summary: by hand, against a plain double loop, and at the edges.
import { describe, expect, test } from '@jest/globals';
import { score, summarise } from '../../lib/compare/divergence.js';
import { Random } from '../reference/random.js';

const floats = (...values: number[]) => Float32Array.from(values);

/** One row each, with a target. */
function one(reference: Float32Array, logits: Float32Array, target = 0) {
  const rows = Uint32Array.of(0);
  const targets = Uint32Array.of(target);
  const { kl, nats, referenceNats, agrees } = score({
    ...{ reference, logits, rows, targets },
    vocabSize: reference.length,
  });
  return { kl: kl[0], nats: nats[0], referenceNats: referenceNats[0], agrees: agrees[0] };
}

describe('two rows', () => {
  test('by hand: p = (1/2, 1/4, 1/4) and q = (1/4, 1/4, 1/2)', () => {
    // The logits are logarithms rounded to float32, so 1e-7 is what can be asked.
    const [half, quarter] = [Math.log(1 / 2), Math.log(1 / 4)];
    const result = one(floats(half, quarter, quarter), floats(quarter, quarter, half), 2);
    // 1/2 log 2 + 0 + 1/4 log 1/2
    expect(result.kl).toBeCloseTo(Math.LN2 / 4, 7);
    expect(result.referenceNats).toBeCloseTo(2 * Math.LN2, 7);
    expect(result.nats).toBeCloseTo(Math.LN2, 7);
    expect(result.agrees).toBe(0);
  });

  test('by hand, with logits that float32 holds exactly', () => {
    // p = (e / (e + 1), 1 / (e + 1)), q = (1/2, 1/2)
    const { kl, nats, referenceNats, agrees } = one(floats(1, 0), floats(3, 3), 1);
    const p = Math.E / (Math.E + 1);
    expect(kl).toBeCloseTo(Math.LN2 + p * Math.log(p) + (1 - p) * Math.log(1 - p), 14);
    expect(nats).toBeCloseTo(Math.LN2, 14);
    expect(referenceNats).toBeCloseTo(Math.log(Math.E + 1), 14);
    expect(agrees).toBe(1); // of equals the first
  });

  test('equal rows are exactly 0 apart', () => {
    const random = new Random(1);
    const row = Float32Array.from({ length: 1000 }, () => 40 * random.uniform() - 20);
    expect(one(row, row.slice())).toMatchObject({ kl: 0, agrees: 1 });
    expect(one(row, row.slice()).nats).toBe(one(row, row.slice()).referenceNats);
  });

  test('a shift of all logits changes nothing, and large ones do not overflow', () => {
    const row = floats(3, -5, 0.5, 2);
    const { kl } = one(
      row,
      row.map((x) => x + 4096),
    );
    expect(kl).toBe(0);
    const far = one(floats(3e38, -3e38), floats(-3e38, 3e38), 1);
    expect(far.agrees).toBe(0);
    expect(far.kl).toBeGreaterThan(1e38);
    expect(far.nats).toBe(0);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])(
    'a logit of %p leaves no finite number',
    (odd) => {
      const { kl, nats } = one(floats(1, 2, 3), floats(1, odd, 3));
      expect(Number.isFinite((kl as number) + (nats as number))).toBe(false);
    },
  );
});

test('random rows against the formula as it stands', () => {
  const random = new Random(2);
  const [tokens, vocabSize] = [7, 501];
  const draw = () => Float32Array.from({ length: tokens * vocabSize }, () => 12 * random.uniform());
  const [reference, logits] = [draw(), draw()];
  const rows = Uint32Array.of(0, 2, 3, 6);
  const targets = Uint32Array.of(4, 500, 0, 77);
  const scores = score({ reference, logits, vocabSize, rows, targets });
  rows.forEach((row, i) => {
    const logs = [reference, logits].map((all) => {
      const own = Array.from(all.subarray(row * vocabSize, (row + 1) * vocabSize));
      const total = Math.log(own.reduce((sum, x) => sum + Math.exp(x), 0));
      return own.map((x) => x - total);
    });
    const [p, q] = logs as [number[], number[]];
    const kl = p.reduce((sum, log, id) => sum + Math.exp(log) * (log - (q[id] as number)), 0);
    expect(scores.kl[i]).toBeCloseTo(kl, 12);
    expect(scores.nats[i]).toBeCloseTo(-(q[targets[i] as number] as number), 12);
    expect(scores.referenceNats[i]).toBeCloseTo(-(p[targets[i] as number] as number), 12);
    const best = (log: number[]) => log.indexOf(Math.max(...log));
    expect(scores.agrees[i]).toBe(best(p) === best(q) ? 1 : 0);
  });
});

describe('a summary', () => {
  const of = (...kl: number[]) =>
    summarise({
      kl: Float64Array.from(kl),
      nats: Float64Array.from(kl, (value) => 2 * value),
      agrees: Uint8Array.from(kl, (value) => (value > 1 ? 0 : 1)),
    });

  test('of one target', () => {
    expect(of(0.5)).toEqual({
      klDivergence: { mean: 0.5, median: 0.5, p99: 0.5, max: 0.5 },
      nats: 1,
      agreed: 1,
    });
  });

  test('of an even number: the median is between two', () => {
    const { klDivergence, nats, agreed } = of(10, 1, 3, 2);
    expect(klDivergence).toEqual({ mean: 4, median: 2.5, p99: 10, max: 10 });
    expect({ nats, agreed }).toEqual({ nats: 32, agreed: 1 });
  });

  test('of many: 99 of 100 are at most the quantile, sorted as numbers', () => {
    const values = Array.from({ length: 100 }, (_, i) => 100 - i);
    expect(of(...values).klDivergence).toEqual({ mean: 50.5, median: 50.5, p99: 99, max: 100 });
    expect(of(...values, 0).klDivergence).toMatchObject({ median: 50, p99: 99 });
  });
});
