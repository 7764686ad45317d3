/** How far two distributions over the vocabulary are apart; runs in a worker thread. */
import type { KlDivergence } from '../../types/api.js';

/** Two models' logits of the same tokens. */
export interface LogitPair {
  /** (tokens, vocabSize) each. */
  reference: Float32Array;
  logits: Float32Array;
  vocabSize: number;
  /** (targets) rows to look at, and the ids that follow there. */
  rows: Uint32Array;
  targets: Uint32Array;
}

/** (targets) each; what is not a number comes of logits that are not finite. */
export interface Scores {
  /** KL divergence of `logits` from `reference`, in nats. */
  kl: Float64Array;
  /** -log of the target's probability. */
  nats: Float64Array;
  referenceNats: Float64Array;
  /** 1 where the largest logit is the same one; the first of equals counts. */
  agrees: Uint8Array;
}

/** Compares row by row. */
export function score({ reference, logits, vocabSize, rows, targets }: LogitPair): Scores {
  const scores: Scores = {
    kl: new Float64Array(rows.length),
    nats: new Float64Array(rows.length),
    referenceNats: new Float64Array(rows.length),
    agrees: new Uint8Array(rows.length),
  };
  rows.forEach((row, i) => {
    const start = row * vocabSize;
    const x = reference.subarray(start, start + vocabSize);
    const y = logits.subarray(start, start + vocabSize);
    const [xBest, yBest] = [largest(x), largest(y)];
    const sums = compareRows(x, y, x[xBest]!, y[yBest]!);
    const target = targets[i]!;
    scores.kl[i] = sums.kl;
    scores.referenceNats[i] = Math.log(sums.x) + x[xBest]! - x[target]!;
    scores.nats[i] = Math.log(sums.y) + y[yBest]! - y[target]!;
    scores.agrees[i] = xBest === yBest ? 1 : 0;
  });
  return scores;
}

function largest(row: Float32Array): number {
  let best = 0;
  for (let i = 1; i < row.length; ++i) if (row[i]! > row[best]!) best = i;
  return best;
}

// With p = exp(x - xMax) / X and q = exp(y - yMax) / Y, the sum of p log(p / q) is that of
// p ((x - xMax) - (y - yMax)), less log(X / Y): one pass, no overflow, exactly 0 for equal rows.
function compareRows(x: Float32Array, y: Float32Array, xMax: number, yMax: number) {
  let [xSum, ySum, weighted] = [0, 0, 0];
  for (let i = 0; i < x.length; ++i) {
    const a = x[i]! - xMax;
    const b = y[i]! - yMax;
    const weight = Math.exp(a);
    xSum += weight;
    ySum += Math.exp(b);
    weighted += weight * (a - b);
  }
  const kl = weighted / xSum - Math.log(xSum) + Math.log(ySum);
  // Rounding may leave a hair less than nothing.
  return { x: xSum, y: ySum, kl: Math.max(kl, 0) };
}

/** Figures of all targets of a text. */
export interface Summary {
  klDivergence: KlDivergence;
  /** Sum, and number of targets where both agree. */
  nats: number;
  agreed: number;
}

/** Expects one target at least. */
export function summarise({ kl, nats, agrees }: Pick<Scores, 'kl' | 'nats' | 'agrees'>): Summary {
  const sorted = kl.slice().sort();
  const { length } = sorted;
  const at = (index: number) => sorted[index]!;
  return {
    klDivergence: {
      mean: sum(kl) / length,
      median: (at((length - 1) >> 1) + at(length >> 1)) / 2,
      p99: at(Math.ceil(0.99 * length) - 1),
      max: at(length - 1),
    },
    nats: sum(nats),
    agreed: sum(agrees),
  };
}

function sum(values: Float64Array | Uint8Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
