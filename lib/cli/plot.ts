/** The divergence along the text as an SVG picture that reads on light and dark pages. */
import { type ScaleLinear, type ScaleLogarithmic, scaleLinear, scaleLog } from 'd3-scale';
import type { ComparedCase, Comparison } from '../../types/api.js';
import { figure } from './comparison.js';
import { count, many } from './format.js';

const width = 860;
const plotHeight = 320;
const left = 70;
const right = 20;
const legendLine = 20;
/** Points of a line at most: more than one a pixel would not show. */
const mostPoints = 700;
const mostTargets = 64;

/** Told apart by people who see few colours (Okabe and Ito), and by their dashes. */
const lightColours = ['#0072b2', '#d55e00', '#007a5a', '#a6428c', '#8a6d00', '#56606b'];
const darkColours = ['#56b4e9', '#ff9a4d', '#2dc99a', '#e69ad0', '#f0e442', '#aab4bf'];
const dashes = ['', '7 3', '2 3', '10 3 2 3'];

interface Point {
  position: number;
  kl: number;
}

interface Axes {
  x: ScaleLinear<number, number>;
  y: ScaleLogarithmic<number, number>;
  top: number;
}

/** A line for each case: the moving average of its divergence over the last targets. */
export function plot(comparison: Comparison): string {
  const { cases, ids, targets } = comparison;
  const span = Math.min(mostTargets, Math.ceil(targets.length / 8));
  const lines = cases.map((one) => movingAverage(one.tokenKl, targets, span));
  const top = 50 + legendLine * cases.length;
  const bottom = top + plotHeight;
  const axes: Axes = {
    x: scaleLinear([0, ids.length], [left, width - right]),
    y: scaleLog(rangeOf(lines.flat()), [bottom, top]).clamp(true),
    top,
  };
  const height = bottom + 88;
  const below = notes(comparison, span);
  const title = `KL divergence from ${comparison.reference.name} along the text`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" \
aria-labelledby="title about">
  <title id="title">${escapeXml(title)}</title>
  <desc id="about">${escapeXml(below.join(' '))}</desc>
${style(cases.length)}
  <rect class="page" width="${width}" height="${height}"/>
  <text class="title" x="${left}" y="24">${escapeXml(`${title}, nats`)}</text>
${cases.map((one, i) => legend(one, i)).join('\n')}
${xAxis(axes, bottom)}
${yAxis(axes)}
${lines.map((line, i) => polyline(line, i, axes)).join('\n')}
${below.map((line, i) => note(line, bottom + 60 + 18 * i)).join('\n')}
</svg>
`;
}

/** Means of the last `span` values, at most `mostPoints` of them, evenly spread. */
export function movingAverage(values: Float64Array, positions: Uint32Array, span: number): Point[] {
  const all = values.length - span + 1;
  const points = Math.min(all, mostPoints);
  return Array.from({ length: points }, (_, i) => {
    const first = points === 1 ? 0 : Math.round((i * (all - 1)) / (points - 1));
    const sum = values.subarray(first, first + span).reduce((a, b) => a + b, 0);
    return { position: positions[first + span - 1]!, kl: sum / span };
  });
}

// Whole powers of ten; what is 0 has no logarithm and is drawn at the lower end.
function rangeOf(points: readonly Point[]): [number, number] {
  const positive = points.map(({ kl }) => kl).filter((kl) => kl > 0);
  if (positive.length === 0) return [0.001, 1];
  const least = positive.reduce((a, b) => Math.min(a, b));
  const most = positive.reduce((a, b) => Math.max(a, b));
  const end = Math.floor(Math.log10(most)) + 1;
  // More than eight powers would press everything else flat.
  const start = Math.max(Math.floor(Math.log10(least)), end - 8);
  return [10 ** start, 10 ** end];
}

function notes({ ids, insertedAnchors, cases }: Comparison, span: number): string[] {
  const mean = `Moving average over ${many(span, 'target')}, logarithmic scale.`;
  const isZero = cases.some(({ tokenKl }) => tokenKl.every((kl) => kl === 0));
  const zero = isZero ? ' What is 0 is drawn at the lower edge.' : '';
  if (insertedAnchors === 0) return [mean + zero, 'The first token is not counted as a target.'];
  const anchors = `The first token and the ${many(insertedAnchors, 'inserted anchor')}`;
  return [mean + zero, `${anchors} of ${count(ids.length)} tokens are not counted as targets.`];
}

function note(line: string, y: number): string {
  return `  <text x="${left}" y="${y}">${escapeXml(line)}</text>`;
}

function style(lines: number): string {
  const colours = (list: readonly string[]) =>
    Array.from({ length: lines }, (_, i) => `.c${i} { stroke: ${list[i % list.length]}; }`);
  return `  <style>
    text { font: 13px sans-serif; fill: #1f2933; }
    .title { font-weight: bold; font-size: 15px; }
    .page { fill: #ffffff; }
    .grid { stroke: #d5dbe1; }
    .axis { stroke: #52606d; }
    .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
    ${colours(lightColours).join('\n    ')}
    @media (prefers-color-scheme: dark) {
      text { fill: #e4e7eb; }
      .page { fill: #14181d; }
      .grid { stroke: #36404a; }
      .axis { stroke: #9aa5b1; }
      ${colours(darkColours).join('\n      ')}
    }
  </style>`;
}

function dash(i: number): string {
  const pattern = dashes[Math.floor(i / lightColours.length) % dashes.length];
  return pattern ? ` stroke-dasharray="${pattern}"` : '';
}

function legend({ name, klDivergence }: ComparedCase, i: number): string {
  const y = 50 + legendLine * i;
  const text = `${shorten(name)}: mean ${figure(klDivergence.mean)}`;
  return `  <path class="line c${i}"${dash(i)} d="M${left} ${y - 4}h34"/>
  <text x="${left + 44}" y="${y}">${escapeXml(text)}</text>`;
}

function xAxis({ x, top }: Axes, bottom: number): string {
  const ticks = x.ticks(8).filter(Number.isInteger);
  const marks = ticks.map((tick) => {
    const at = round(x(tick));
    return `  <path class="grid" d="M${at} ${top}V${bottom}"/>
  <text x="${at}" y="${bottom + 18}" text-anchor="middle">${count(tick)}</text>`;
  });
  const middle = (left + width - right) / 2;
  return `${marks.join('\n')}
  <path class="axis" d="M${left} ${bottom}H${width - right}"/>
  <text x="${middle}" y="${bottom + 37}" text-anchor="middle">position, tokens</text>`;
}

function yAxis({ y, top }: Axes): string {
  const powers = y.ticks(8).filter((tick) => Number.isInteger(round(Math.log10(tick))));
  const marks = powers.map((tick) => {
    const at = round(y(tick));
    const label = tick < 0.001 ? tick.toExponential() : String(tick);
    return `  <path class="grid" d="M${left} ${at}H${width - right}"/>
  <text x="${left - 8}" y="${at + 4}" text-anchor="end">${label}</text>`;
  });
  return `${marks.join('\n')}
  <path class="axis" d="M${left} ${top}v${plotHeight}"/>`;
}

function polyline(points: readonly Point[], i: number, { x, y }: Axes): string {
  const at = ({ position, kl }: Point) => {
    const lowest = y.domain()[0]!;
    return `${round(x(position))},${round(y(Math.max(kl, lowest)))}`;
  };
  return `  <polyline class="line c${i}"${dash(i)} points="${points.map(at).join(' ')}"/>`;
}

function round(value: number): number {
  return Math.round(100 * value) / 100;
}

function shorten(name: string): string {
  const letters = [...name];
  return letters.length > 90 ? `${letters.slice(0, 89).join('')}…` : name;
}

// XML has no place for most control characters and for halves of characters.
function escapeXml(text: string): string {
  return text
    .replace(/[^\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/gu, '?')
    .replace(/&/g, '&amp;')
    .replace(/</g, '&lt;')
    .replace(/>/g, '&gt;');
}
