// What a session predicts along a text, target by target, and how far that is from a reference.

const chunkIds = 256;

/**
 * Reads a text in chunks. (ids) each, by target: `nats` of the target, `hits` where it is the most
 * probable id, `kl` in nats from the reference's distributions, which `reference` holds.
 */
export async function readText(session, { ids, input }, reference) {
  const nats = new Float64Array(ids.length);
  const kl = new Float64Array(ids.length);
  const hits = new Uint8Array(ids.length);
  for (let start = 0; start < input.length; start += chunkIds) {
    const chunk = input.subarray(start, start + chunkIds);
    const logits = await session.append(chunk, { logits: 'all' });
    const size = logits.length / chunk.length;
    for (let i = 0; i < chunk.length; ++i) {
      const at = start + i + 1;
      if (at >= ids.length) break;
      const row = logits.subarray(i * size, (i + 1) * size);
      const { best, logSum } = normalise(row);
      nats[at] = logSum - row[ids[at]];
      hits[at] = best === ids[at] ? 1 : 0;
      kl[at] = reference.compare(at, row, logSum);
    }
  }
  return { nats, kl, hits, stats: session.stats() };
}

function normalise(row) {
  let best = 0;
  for (let i = 1; i < row.length; ++i) if (row[i] > row[best]) best = i;
  let sum = 0;
  for (let i = 0; i < row.length; ++i) sum += Math.exp(row[i] - row[best]);
  return { best, logSum: row[best] + Math.log(sum) };
}

/** The distributions of the first session that reads a text; the others are compared with them. */
export class Reference {
  /** By target; the arrays are used again for the next text, since they are large. */
  probabilities = [];
  /** Sum of p log p of each. */
  negativeEntropies = [];

  /** Forgets the text. */
  clear() {
    this.negativeEntropies = [];
  }

  /** KL divergence of the row's distribution, 0 for the first one that is seen of a target. */
  compare(at, row, logSum) {
    const negativeEntropy = this.negativeEntropies[at];
    if (negativeEntropy === undefined) {
      this.keep(at, row, logSum);
      return 0;
    }
    const known = this.probabilities[at];
    let expected = 0;
    for (let i = 0; i < row.length; ++i) expected += known[i] * row[i];
    return Math.max(0, negativeEntropy - expected + logSum);
  }

  keep(at, row, logSum) {
    this.probabilities[at] ??= new Float32Array(row.length);
    const known = this.probabilities[at];
    let sum = 0;
    for (let i = 0; i < row.length; ++i) {
      known[i] = Math.exp(row[i] - logSum);
      sum += known[i] * (row[i] - logSum);
    }
    this.negativeEntropies[at] = sum;
  }
}

/** Sums by name, such as `language py`. */
export class Groups {
  #groups = new Map();

  /** Adds values to a group's sums and one to its `count`. */
  add(name, values) {
    const sums = this.#groups.get(name) ?? { count: 0 };
    this.#groups.set(name, sums);
    sums.count += 1;
    for (const [key, value] of Object.entries(values)) sums[key] = (sums[key] ?? 0) + value;
  }

  entries() {
    return [...this.#groups];
  }
}
