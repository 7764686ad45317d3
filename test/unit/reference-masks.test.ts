// The reference's masks and row counts, against the specification's vector and against step-by-step
// simulations that know no formula.
import { describe, expect, test } from '@jest/globals';
import { anchorMask, ansanMask, causalMask, type Mask, policyMask } from '../reference/masks.js';
import { Random } from '../reference/random.js';
import { anchoredRows, mirrorRows, rowsPerLayer } from '../reference/rows.js';
import { plainSettings, type Settings, settingsOf } from '../reference/settings.js';

const ANCHOR = 3;
const BOS = 1;
const ANCHORS = [ANCHOR, BOS];

/** Ids with anchors of either kind, adjacent ones and long lines among them. */
function randomIds(random: Random): number[] {
  const share = random.pick([0, 0.05, 0.2, 0.6, 1]);
  return Array.from({ length: random.integer(1, 40) }, () =>
    random.uniform() < share ? random.pick(ANCHORS) : random.integer(4, 64),
  );
}

function eachCase(check: (ids: number[], random: Random) => void): void {
  for (let seed = 0; seed < 300; seed++) {
    const random = new Random(seed);
    check(randomIds(random), random);
  }
}

/** The mask of a cache that is read and changed token by token: `sees` returns what i may read. */
function simulate(ids: readonly number[], sees: (i: number) => Iterable<number>): Mask {
  return ids.map((_, i) => {
    const row = ids.map(() => false);
    for (const j of sees(i)) row[j] = true;
    return row;
  });
}

const text = (mask: Mask) => mask.map((row) => row.map(Number).join(''));

describe('masks', () => {
  test('the vector of the specification', () => {
    const ids = [9, 9, 9, 9, ANCHOR, 9, 9, 9, ANCHOR, 9];
    const rows =
      '1000000000 1100000000 1110000000 1111000000 1111100000 ' +
      '1000110000 1000111000 1000111100 1000111110 1000100011';
    expect(text(anchorMask(ids, ANCHORS))).toEqual(rows.split(' '));
  });

  test('AnchorCoder: the published cache, which drops a line one step late', () => {
    eachCase((ids) => {
      let cache: number[] = [];
      let afterAnchor = false;
      const mask = simulate(ids, (i) => {
        const isAnchor = (j: number) => j === 0 || ANCHORS.includes(ids[j] as number);
        if (afterAnchor) cache = cache.filter(isAnchor);
        cache.push(i);
        afterAnchor = isAnchor(i);
        return cache;
      });
      expect(anchorMask(ids, ANCHORS)).toEqual(mask);
    });
  });

  test('AnLLM: a list of anchors and a list for the sequence', () => {
    eachCase((ids) => {
      const anchors: number[] = [];
      let own: number[] = [];
      const mask = simulate(ids, (i) => {
        own.push(i);
        if (!ANCHORS.includes(ids[i] as number)) return [...anchors, ...own];
        const seen = own;
        anchors.push(i);
        own = [];
        return seen;
      });
      expect(ansanMask(ids, ANCHORS)).toEqual(mask);
    });
  });

  test('the general policy contains both, and a dense layer', () => {
    eachCase((ids) => {
      const anchor = settingsOf({ kind: 'anchor', tokens: ANCHORS, per: 4 }, 8);
      expect(policyMask(ids, anchor)).toEqual(anchorMask(ids, ANCHORS));
      const ansan = settingsOf({ kind: 'ansan', tokens: ANCHORS }, 8);
      expect(policyMask(ids, ansan)).toEqual(ansanMask(ids, ANCHORS));
      const window = settingsOf({ kind: 'window', size: ids.length, sinks: 0 }, 8);
      expect(policyMask(ids, window)).toEqual(causalMask(ids.length));
    });
  });

  test('StreamingLLM: a queue of the last tokens, the first ones beside it', () => {
    eachCase((ids, random) => {
      const size = random.integer(1, 12);
      const sinks = random.integer(0, 5);
      const queue: number[] = [];
      const mask = simulate(ids, (i) => {
        queue.push(i);
        if (queue.length > size) queue.shift();
        return [...queue, ...[...ids.keys()].filter((j) => j < sinks && j <= i)];
      });
      const settings = settingsOf({ kind: 'window', size, sinks }, 4);
      expect(policyMask(ids, settings)).toEqual(mask);
    });
  });

  test('line and window together: the union of the two', () => {
    eachCase((ids, random) => {
      const window = random.integer(1, 9);
      const sinks = random.integer(1, 5);
      const common = { kind: 'anchor', tokens: ANCHORS, sinks } as const;
      const policy = (own: { line: boolean; window: number }) =>
        policyMask(ids, settingsOf({ ...common, ...own }, 4));
      const line = policy({ line: true, window: 0 });
      const last = policy({ line: false, window });
      const both = policy({ line: true, window });
      const union = line.map((row, i) => row.map((sees, j) => sees || last[i]?.[j] === true));
      expect(both).toEqual(union);
    });
  });
});

describe('rows', () => {
  const policies: [string, Settings][] = [
    ['AnchorCoder', settingsOf({ kind: 'anchor', tokens: ANCHORS, per: 2 }, 4)],
    ['AnLLM', settingsOf({ kind: 'ansan', tokens: ANCHORS }, 4)],
    ['StreamingLLM', settingsOf({ kind: 'window', size: 6, sinks: 4 }, 4)],
    [
      'SepLLM',
      settingsOf({ kind: 'anchor', tokens: ANCHORS, line: false, window: 5, sinks: 3 }, 4),
    ],
    ['line and window', settingsOf({ kind: 'anchor', tokens: ANCHORS, window: 5, sinks: 2 }, 4)],
    ['no rows kept', settingsOf({ kind: 'window', size: 1, sinks: 0 }, 4)],
    ['full', plainSettings(4)],
  ];

  test('AnchorCoder: anchors and the tokens since the last one', () => {
    const settings = settingsOf({ kind: 'anchor', tokens: ANCHORS, per: 4 }, 8);
    eachCase((ids) => {
      // The published procedure, counted when it has dropped what the last token closed.
      let anchors = 0;
      let open = 0;
      ids.forEach((id, i) => {
        if (i === 0 || ANCHORS.includes(id)) {
          anchors++;
          open = 0;
        } else open++;
      });
      const t = ids.length;
      const rows = [t, 1, 1, 1, t, 1, 1, 1].map((n) => (n === t ? t : anchors + open));
      if (t > 1) expect(rowsPerLayer(ids, settings)).toEqual(rows);
      expect(anchoredRows(ids, settings)).toBe(anchors + open);
    });
  });

  // A cache that knows the future: a row lives while some later token may read it. Any text may
  // follow, so the next token is tried as an ordinary one and as an anchor.
  test.each(policies)('%s: what a later token may read', (_, settings) => {
    eachCase((ids) => {
      const readers = [
        [...ids, 9],
        [...ids, ANCHOR, 9, 9, 9, 9, 9, 9, 9],
      ];
      const live = new Set<number>();
      for (const longer of readers) {
        for (const row of policyMask(longer, settings).slice(ids.length)) {
          row.forEach((sees, j) => void (sees && j < ids.length && live.add(j)));
        }
      }
      expect(anchoredRows(ids, settings)).toBe(live.size);
    });
  });

  test('the mirror holds what is kept, where an anchored layer consumes a dense one', () => {
    const ids = [5, 6, ANCHOR, 7, ANCHOR, ANCHOR, 8];
    const base = { kind: 'anchor', tokens: ANCHORS, per: 2, sinks: 2 } as const;
    const rows = (own: object) => mirrorRows(ids, settingsOf({ ...base, ...own }, 5));
    expect(rows({ sourceLayer: 2, consumersAbove: 2 })).toBe(5);
    expect(rows({})).toBe(0);
    // The only consumer, layer 4, is dense.
    expect(rows({ sourceLayer: 2, consumersAbove: 3 })).toBe(0);
    expect(rows({ sourceLayer: 2, consumersAbove: 2, per: 'none' })).toBe(0);
  });
});
