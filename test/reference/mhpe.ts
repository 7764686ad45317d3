/**
 * Multi-head positional encoding: the key of an anchor turns by positions of its line, spread over
 * the KV heads, low heads at the line's start.
 */

/**
 * How many of n heads each of m positions gets: shares in proportion to i^3, whole parts first,
 * then the largest remainders. In integers, so that no remainder is a matter of rounding.
 */
export function headsPerPosition(m: number, n: number): number[] {
  const weights = Array.from({ length: m }, (_, i) => BigInt(i + 1) ** 3n);
  const sum = weights.reduce((a, b) => a + b, 0n);
  const shares = weights.map((weight) => BigInt(n) * weight);
  const counts = shares.map((share) => Number(share / sum));
  const left = n - counts.reduce((a, b) => a + b, 0);
  const byRemainder = [...shares.keys()].sort((a, b) => {
    const difference = ((shares[b] as bigint) % sum) - ((shares[a] as bigint) % sum);
    return difference > 0n ? 1 : difference < 0n ? -1 : a - b;
  });
  for (const i of byRemainder.slice(0, left)) (counts[i] as number)++;
  return counts;
}

/**
 * Positions (n) that the key of an anchor at `anchor` turns by. The line begins after the previous
 * anchor; without one it begins at 0.
 */
export function anchorKeyPositions(
  anchor: number,
  previous: number | undefined,
  n: number,
): number[] {
  const first = previous === undefined ? 0 : previous + 1;
  const length = anchor - first;
  if (length === 0) return Array.from({ length: n }, () => anchor);
  return headsPerPosition(length, n).flatMap((count, i) =>
    Array.from({ length: count }, () => first + i),
  );
}

/** (tokens, n) positions that keys turn by. Position 0 is an anchor here only by its id. */
export function keyPositions(
  ids: readonly number[],
  anchorIds: readonly number[],
  n: number,
): number[][] {
  let previous: number | undefined;
  return ids.map((id, i) => {
    if (!anchorIds.includes(id)) return Array.from({ length: n }, () => i);
    const positions = anchorKeyPositions(i, previous, n);
    previous = i;
    return positions;
  });
}
