// Merging, against the plain algorithm: find the best pair, merge its first occurrence, repeat.
import { describe, expect, test } from '@jest/globals';
import { type MergeRules, Merger } from '../../lib/tokenizer/tokenizer-bpe.js';

function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Merges of random pieces over few letters, so that many pairs compete. */
function rules(seed: number, count: number, more: Partial<MergeRules> = {}): MergeRules {
  const draw = random(seed);
  const pieces = ['a', 'b', 'c', '\u00e9'];
  const merges: [string, string][] = [];
  while (merges.length < count) {
    const pair = [draw(pieces.length), draw(pieces.length)].map((i) => pieces[i] as string);
    const [left, right] = pair as [string, string];
    if (pieces.includes(left + right) || (left + right).length > 12) continue;
    pieces.push(left + right);
    merges.push([left, right]);
  }
  const vocabulary = new Map(pieces.map((piece, id) => [piece, id] as const));
  return {
    vocabulary,
    merges,
    banned: new Set(),
    unknown: undefined,
    fuseUnknown: false,
    byteFallback: false,
    ignoreMerges: false,
    ...more,
  };
}

function plainly(word: string, { merges, vocabulary }: MergeRules): string[] {
  const pieces = [...word].filter((letter) => vocabulary.has(letter));
  for (;;) {
    const rankAt = (i: number) => {
      const rank = merges.findIndex(([l, r]) => l === pieces[i] && r === pieces[i + 1]);
      return rank < 0 ? Number.POSITIVE_INFINITY : rank;
    };
    const ranks = pieces.slice(1).map((_, i) => rankAt(i));
    const best = Math.min(...ranks);
    if (best === Number.POSITIVE_INFINITY) return pieces;
    const at = ranks.indexOf(best);
    pieces.splice(at, 2, `${pieces[at]}${pieces[at + 1]}`);
  }
}

describe('merging', () => {
  test('equals the plain algorithm', () => {
    const draw = random(7);
    for (let seed = 1; seed <= 40; seed++) {
      const some = rules(seed, 30);
      const merger = new Merger(some);
      for (let n = 0; n < 20; n++) {
        const letters = Array.from({ length: 1 + draw(60) }, () => 'abc\u00e9'[draw(4)] as string);
        const word = letters.join('');
        expect([word, merger.encode([word])]).toEqual([word, plainly(word, some)]);
      }
    }
  });

  test('equals it for a word beyond the scratch space, and the next short one', () => {
    const some = rules(3, 30);
    const merger = new Merger(some);
    const draw = random(11);
    const word = Array.from({ length: 1500 }, () => 'abc'[draw(3)] as string).join('');
    expect(merger.encode([word, 'abcab'])).toEqual([
      ...plainly(word, some),
      ...plainly('abcab', some),
    ]);
  });

  test('spells unknown letters in bytes where all have a piece', () => {
    const { vocabulary, ...rest } = rules(1, 0);
    const more = new Map([...vocabulary, ['<0xE2>', 4], ['<0x82>', 5], ['<0xAC>', 6], ['?', 7]]);
    const some = { ...rest, vocabulary: more, byteFallback: true, unknown: '?' };
    const merger = new Merger(some);
    expect(merger.encode(['a\u20ac\u00f1\u00f1b'])).toEqual([
      'a',
      '<0xE2>',
      '<0x82>',
      '<0xAC>',
      '?',
      '?',
      'b',
    ]);
    const fused = new Merger({ ...some, fuseUnknown: true });
    expect(fused.encode(['\u00f1\u00f1b\u00f1\u20ac\u00f1'])).toEqual([
      '?',
      'b',
      '?',
      '<0xE2>',
      '<0x82>',
      '<0xAC>',
      '?',
    ]);
  });

  test('leaves out letters that nothing stands for', () => {
    const merger = new Merger(rules(1, 0));
    expect(merger.encode(['x', 'axb', ''])).toEqual(['a', 'b']);
  });

  test('takes whole words where merges are ignored', () => {
    const some = rules(1, 0, { ignoreMerges: true, banned: new Set(['<s>']) });
    const vocabulary = new Map([...some.vocabulary, ['abca', 4], ['<s>', 5], ['<', 6], ['s', 7]]);
    const merger = new Merger({ ...some, vocabulary });
    expect(merger.encode(['abca', 'abcab'])).toEqual(['abca', 'a', 'b', 'c', 'a', 'b']);
    expect(merger.encode(['<s>'])).toEqual(['<', 's']);
  });

  test('never makes a banned piece', () => {
    const some = rules(1, 0);
    const vocabulary = new Map([...some.vocabulary, ['ab', 4], ['abc', 5]]);
    const merges: [string, string][] = [
      ['a', 'b'],
      ['ab', 'c'],
    ];
    const merger = new Merger({ ...some, vocabulary, merges, banned: new Set(['abc', 'b']) });
    expect(merger.encode(['abc'])).toEqual(['a', 'c']);
    expect(
      new Merger({ ...some, vocabulary, merges, banned: new Set(['abc']) }).encode(['abc']),
    ).toEqual(['ab', 'c']);
  });

  test('refuses a merge outside the vocabulary', () => {
    expect(() => new Merger({ ...rules(1, 0), merges: [['a', 'b']] })).toThrow(
      '["a","b"] is not in the vocabulary',
    );
  });
});
