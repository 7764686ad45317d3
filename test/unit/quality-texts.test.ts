// What the benchmarks of quality ask of a text's ids: what goes on as before, and what is copied.
import { describe, expect, test } from '@jest/globals';

// By a variable, since the scripts have no types.
const scripts: string = '../../bench/quality/';
const { continuations, copies, readPieces, textOf } = await import(`${scripts}texts.mjs`);
const { collect } = await import(`${scripts}collect.mjs`);
const { Groups, Reference } = await import(`${scripts}scores.mjs`);

/** Ids of a text that is cut at `|`, and what each id stands for; `^` is a control token. */
function split(text: string) {
  const words = text.split('|');
  const pieces = [...new Set(words)];
  const ids = Uint32Array.from(words, (word) => pieces.indexOf(word));
  return { ids, pieces: pieces.map((piece) => (piece === '^' ? '' : piece)) };
}

interface Span {
  kind: string;
  first: number;
  end: number;
  distance: number;
  endedLine: boolean;
  beginsLine: boolean;
}

test('a 3-gram that goes on as it did before', () => {
  const ids = Uint32Array.of(7, 1, 2, 3, 4, 9, 1, 2, 3, 4, 5, 1, 2, 3, 8, 1, 2, 3, 4);
  const distances = continuations(ids);
  expect(distances[9]).toBe(5);
  // The last time 1, 2, 3 went on with another id, which is what counts.
  expect([distances[14], distances[18]]).toEqual([0, 0]);
  expect(distances.filter((distance: number) => distance > 0)).toHaveLength(1);
});

describe('copies', () => {
  test('names by distance, rare ones apart, with their places in the lines', () => {
    const { ids, pieces } = split('let| tot|al|;|\n|^|tot|al|(|x|)|;|\n|^|a| =| tot|al| +| b');
    const found: Span[] = copies(ids, pieces);
    expect(found).toEqual([
      { kind: 'name', first: 6, end: 8, distance: 5, endedLine: true, beginsLine: true },
      { kind: 'rare name', first: 6, end: 8, distance: 5, endedLine: true, beginsLine: true },
      { kind: 'name', first: 16, end: 18, distance: 10, endedLine: false, beginsLine: false },
    ]);
  });

  test('literals in quotes, without the quotes', () => {
    const { ids, pieces } = split('f(|"|one| two|"|)|\n|g(|"|one| two|"|)');
    const literals = copies(ids, pieces).filter(({ kind }: Span) => kind === 'literal');
    expect(literals).toHaveLength(1);
    expect(literals[0]).toMatchObject({ first: 9, end: 11, distance: 7 });
  });

  test('a name whose last id goes on is left out', () => {
    const { ids, pieces } = split('name|;|\n|name;');
    expect(copies(ids, pieces)).toEqual([]);
  });
});

test('pieces are the bytes of ids', () => {
  const pieces = readPieces('models/anchor-code-23m');
  expect(pieces).toHaveLength(8192);
  expect(pieces.slice(0, 4)).toEqual(['', '', '', '']);
  expect(pieces).toContain('\n');
  expect(pieces.slice(4).every((piece: string) => piece.length > 0)).toBe(true);
});

test('sums leave control tokens out and count the rest by position and copy', () => {
  const { ids, pieces } = split('^|ab|\n|^|ab|\n|^|cd');
  const text = textOf(ids, 'py', pieces, 100);
  const nats = Float64Array.from(ids, (_, at) => at);
  const hits = Uint8Array.of(0, 1, 1, 1, 0, 1, 1, 1);
  const stats = { rows: 6, mirrorRows: 2, bytes: 900, rowBytes: 100 };
  const groups = new Groups();
  const span = { kind: 'name', first: 4, end: 5, distance: 3 };
  collect(groups, text, [span], continuations(ids), { nats, kl: nats, hits, stats });
  const sums = Object.fromEntries(groups.entries());
  expect(sums.all).toMatchObject({ count: 5, nats: 1 + 2 + 4 + 5 + 7, bytes: 8, hits: 4 });
  expect(sums['language py']).toEqual(sums.all);
  expect(sums['control tokens']).toMatchObject({ count: 2, nats: 9, hits: 2 });
  expect(sums['name at 1-15']).toMatchObject({ count: 1, first: 0, whole: 0 });
  expect(sums.cache).toMatchObject({ rows: 8, liveBytes: 800, held: 900 });
});

test('divergence is from what the first case predicted', () => {
  const reference = new Reference();
  const logSum = Math.log(Math.exp(1) + Math.exp(2));
  expect(reference.compare(3, Float32Array.of(1, 2), logSum)).toBe(0);
  expect(reference.compare(3, Float32Array.of(1, 2), logSum)).toBeCloseTo(0, 6);
  const [p, q] = [Math.exp(1 - logSum), Math.exp(2 - logSum)];
  const expected = p * Math.log(p / 0.5) + q * Math.log(q / 0.5);
  expect(reference.compare(3, Float32Array.of(0, 0), Math.log(2))).toBeCloseTo(expected, 6);
  reference.clear();
  expect(reference.compare(3, Float32Array.of(0, 0), Math.log(2))).toBe(0);
});
