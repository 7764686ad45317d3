// Tables and plot of a comparison, from figures made by hand.
import { describe, expect, test } from '@jest/globals';
import { DOMParser } from '@xmldom/xmldom';
import { figure, showComparison } from '../../lib/cli/comparison.js';
import { movingAverage, plot } from '../../lib/cli/plot.js';
import type { ComparedCase, Comparison, ModelInfo } from '../../types/api.js';

function caseOf(name: string, kl: readonly number[]): ComparedCase {
  const tokenKl = Float64Array.from(kl);
  const mean = kl.reduce((a, b) => a + b, 0) / kl.length;
  return {
    name,
    policy: { kind: 'full' },
    cacheType: 'f32',
    klDivergence: { mean, median: mean, p99: mean, max: Math.max(...kl) },
    top1Agreement: 0.75,
    perplexity: 12.345,
    natsPerToken: Math.log(12.345),
    natsPerByte: 0.5,
    tokenKl,
    tokenNats: tokenKl,
    tokenAgrees: new Uint8Array(kl.length),
    stats: {
      ...{ position: 100, pending: 0, anchors: 10, rowsPerLayer: [100, 50], rowBytes: 4 },
      ...{ rows: 150, mirrorRows: 10, bytes: 1024, reusedTokens: 0 },
      full: { rows: 200, bytes: 2048 },
      fullWithoutAnchors: { rows: 180, bytes: 1536 },
    },
    peakBytes: 4096,
    prefill: { tokensPerSecond: 1234.5, ratio: 0.5 },
    decode: null,
  };
}

function comparisonOf(cases: ComparedCase[], tokens = cases[0]!.tokenKl.length + 11): Comparison {
  return {
    ids: new Uint32Array(tokens),
    insertedAnchors: 10,
    targets: cases[0]!.tokenKl.map((_, i) => i + 11) as never,
    targetBytes: 321,
    reference: caseOf('own attention', [0]),
    cases,
  };
}

const info = { layers: 2 } as ModelInfo;
const spread = (count: number, of: (i: number) => number) =>
  Array.from({ length: count }, (_, i) => of(i));

function parse(svg: string) {
  const problems: string[] = [];
  const parser = new DOMParser({
    onError: (level, message) => problems.push(`${level} ${message}`),
  });
  const document = parser.parseFromString(svg, 'image/svg+xml');
  expect(problems).toEqual([]);
  const texts = Array.from(document.getElementsByTagName('text'), (one) => one.textContent);
  const lines = Array.from(document.getElementsByTagName('polyline'), (line) =>
    (line.getAttribute('points') ?? '').split(' ').map((point) => point.split(',').map(Number)),
  );
  const [, , width = 0, height = 0] = (document.documentElement?.getAttribute('viewBox') ?? '')
    .split(' ')
    .map(Number);
  return { texts, lines, width, height };
}

describe('the plot', () => {
  test('has a line and a legend for each case, all points inside the picture', () => {
    const cases = [
      caseOf(
        'full',
        spread(5000, (i) => 1 + Math.sin(i / 100)),
      ),
      caseOf(
        'window:8',
        spread(5000, (i) => 1e-4 * (i + 1)),
      ),
    ];
    const { texts, lines, width, height } = parse(plot(comparisonOf(cases)));
    expect(lines).toHaveLength(2);
    for (const line of lines) {
      expect(line).toHaveLength(700);
      for (const [x = Number.NaN, y = Number.NaN] of line) {
        expect(x > 0 && x < width && y > 0 && y < height).toBe(true);
      }
    }
    // Larger is higher.
    expect(lines[1]!.at(-1)![1]).toBeLessThan(lines[1]![0]![1] as number);
    expect(texts).toContain('full: mean 1.00');
    expect(texts).toContain('position, tokens');
    expect(texts).toContain('2,000');
    expect(texts).toContain('0.1');
    expect(texts.join()).toContain('The first token and the 10 inserted anchors of 5,011 tokens');
    expect(texts.join()).toContain('over 64 targets');
  });

  test('of few targets, of one, and of a divergence that is 0', () => {
    const few = parse(
      plot(
        comparisonOf([
          caseOf(
            'few',
            spread(9, (i) => i / 10),
          ),
        ]),
      ),
    );
    expect(few.lines[0]).toHaveLength(8);
    const one = parse(plot(comparisonOf([caseOf('one', [0.3])])));
    expect(one.lines[0]).toHaveLength(1);
    const zero = parse(
      plot(
        comparisonOf([
          caseOf(
            'zero',
            spread(50, () => 0),
          ),
        ]),
      ),
    );
    expect(zero.lines[0]!.flat().every(Number.isFinite)).toBe(true);
    expect(new Set(zero.lines[0]!.map(([, y]) => y)).size).toBe(1);
    expect(zero.texts.join()).toContain('What is 0 is drawn at the lower edge');
    expect(few.texts.join()).not.toContain('lower edge');
  });

  test('names cannot break it, and many cases differ by colour and dash', () => {
    const name = '<a href="x">&\u0000\ud800]]></svg>';
    const cases = spread(24, (i) => i).map((i) => caseOf(`${name}${i}`, [0.1, 0.2]));
    const svg = plot(comparisonOf(cases));
    expect(parse(svg).texts).toContain('<a href="x">&??]]></svg>3: mean 0.150');
    const strokes = svg.match(/<polyline class="line c\d+"[^>]*? points/g) ?? [];
    const colourOf = (i: number) => new RegExp(`\\.c${i} \\{ stroke: (#\\w+)`).exec(svg)?.[1];
    const looks = strokes.map(
      (text, i) => `${colourOf(i)} ${/dasharray="[^"]*"/.exec(text) ?? ''}`,
    );
    expect(new Set(looks).size).toBe(24);
  });

  test('has colours for dark pages', () => {
    expect(plot(comparisonOf([caseOf('a', [1])]))).toContain('@media (prefers-color-scheme: dark)');
  });
});

test('moving averages', () => {
  const values = Float64Array.of(1, 2, 3, 4, 10);
  const positions = Uint32Array.of(1, 2, 4, 5, 7);
  expect(movingAverage(values, positions, 2)).toEqual([
    { position: 2, kl: 1.5 },
    { position: 4, kl: 2.5 },
    { position: 5, kl: 3.5 },
    { position: 7, kl: 7 },
  ]);
  const long = Float64Array.from({ length: 10_000 }, (_, i) => i);
  const points = movingAverage(long, Uint32Array.from(long), 1);
  expect(points).toHaveLength(700);
  expect([points[0], points.at(-1)]).toEqual([
    { position: 0, kl: 0 },
    { position: 9999, kl: 9999 },
  ]);
});

describe('the tables', () => {
  test('have all figures, and name their denominators', () => {
    const text = showComparison(comparisonOf([caseOf('mine', [0.5])]), info);
    expect(text).toMatch(/^reference +own attention, rows in f32$/m);
    expect(text).toMatch(/^targets +1: all but the first token and inserted anchors, 321 bytes$/m);
    expect(text).toMatch(/^mine +0\.500 +0\.500 +0\.500 +0\.500 +75\.0 % +12\.3 +2\.51 +0\.500$/m);
    expect(text).toContain('A: of a full cache of the same ids in f32 (200 rows, 2.00 KiB)');
    expect(text).toContain('B: of the text without inserted anchors (180 rows, 1.50 KiB)');
    const cache = /^mine +160 +80\.0 % +88\.9 % +1\.00 KiB +50\.0 % +66\.7 % +4\.00 KiB$/m;
    expect(text).toMatch(cache);
    expect(text).toMatch(/^mine +1,235 +0\.50$/m);
    expect(text).not.toContain('decode');
  });

  test('without inserted anchors, without a tokenizer, with decoding', () => {
    const one = caseOf('mine', [0.5]);
    one.natsPerByte = null;
    one.decode = { tokensPerSecond: 99, ratio: 1.5 };
    const comparison = { ...comparisonOf([one]), insertedAnchors: 0, targetBytes: null };
    comparison.reference.stats.fullWithoutAnchors = comparison.reference.stats.full;
    const text = showComparison(comparison, info);
    expect(text).toMatch(/^targets +1: all but the first token$/m);
    expect(text).not.toContain('B:');
    expect(text).toMatch(/^mine +160 +80\.0 % +1\.00 KiB +50\.0 % +4\.00 KiB$/m);
    expect(text).toMatch(/2\.51 +-$/m);
    expect(text).toMatch(/^ +prefill +ratio +decode +ratio$/m);
    expect(text).toMatch(/^mine +1,235 +0\.50 +99\.0 +1\.50$/m);
  });

  test.each([
    [0, '0'],
    [1.23456e-7, '1.2e-7'],
    [0.00123, '0.00123'],
    [0.5, '0.500'],
    [12.345, '12.3'],
    [999.4, '999'],
    [999.6, '1,000'],
    [1234.5, '1,235'],
  ])('the figure %p', (value, text) => {
    expect(figure(value)).toBe(text);
  });
});
