// The reference's multi-head positions, against the specification's table and edge cases.
import { describe, expect, test } from '@jest/globals';
import { anchorKeyPositions, headsPerPosition, keyPositions } from '../reference/mhpe.js';

const ANCHOR = 3;
const BOS = 1;
const ANCHORS = [ANCHOR, BOS];

/** Mean distance between an anchor and the positions that its keys turn by. */
function meanOffset(m: number, n: number): number {
  const positions = anchorKeyPositions(m, undefined, n);
  return positions.reduce((sum, position) => sum + m - position, 0) / n;
}

describe('multi-head positions', () => {
  test.each([
    [1, [32]],
    [2, [4, 28]],
    [3, [1, 7, 24]],
    [4, [0, 3, 9, 20]],
    [5, [0, 1, 4, 9, 18]],
    [8, [0, 0, 1, 2, 3, 5, 8, 13]],
    [10, [0, 0, 0, 1, 1, 2, 4, 5, 8, 11]],
    [16, [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7]],
  ])('a line of %i over 32 heads', (m, counts) => {
    expect(headsPerPosition(m, 32)).toEqual(counts);
  });

  test.each([
    [5, 1.6],
    [10, 2.5],
    [20, 4.5],
    [40, 8.2],
  ])('a line of %i: mean offset %f behind the anchor', (m, offset) => {
    expect(Number(meanOffset(m, 32).toFixed(1))).toBe(offset);
  });

  test('every head has one position, in order, whatever the sizes', () => {
    for (const n of [1, 2, 3, 5, 8, 32]) {
      for (const m of [1, 2, 3, 7, 33, 300, 5000]) {
        const positions = anchorKeyPositions(100 + m, 99, n);
        expect(positions).toHaveLength(n);
        expect(positions).toEqual([...positions].sort((a, b) => a - b));
        expect(positions[0]).toBeGreaterThanOrEqual(100);
        expect(positions[n - 1]).toBeLessThan(100 + m);
      }
    }
  });

  test('four heads on a line of ten: one each', () => {
    expect(anchorKeyPositions(10, undefined, 4)).toEqual([6, 7, 8, 9]);
  });

  test('lines: the first one, one after BOS, an empty one, one in mid-text', () => {
    const of = (ids: number[]) => keyPositions(ids, ANCHORS, 2);
    // No anchor before it: the line starts at 0 and 0 is part of it.
    expect(of([9, ANCHOR])).toEqual([
      [0, 0],
      [0, 0],
    ]);
    // An anchor at 0 has an empty line, and so has one right behind it.
    expect(of([BOS, ANCHOR])).toEqual([
      [0, 0],
      [1, 1],
    ]);
    expect(of([BOS, 9, ANCHOR, ANCHOR, 9, 9, BOS])).toEqual([
      [0, 0],
      [1, 1],
      [1, 1],
      [3, 3],
      [4, 4],
      [5, 5],
      [5, 5],
    ]);
  });
});
