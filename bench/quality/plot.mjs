// Draws what measure.mjs wrote: nats per byte of text against the bytes of the cache's rows.
//   node bench/quality/plot.mjs bench/results/quality-policies.json docs/quality.svg
//   node bench/quality/plot.mjs bench/results/quality-smollm2.json docs/quality-smollm2.svg
import { readFileSync, writeFileSync } from 'node:fs';
import { scaleLinear, scaleLog } from 'd3-scale';
import { titles } from './cases.mjs';

const width = 760;
const left = 70;
const right = 20;
const plotHeight = 360;
const legendLine = 20;
const tickDistance = 24;

// Told apart by people who see few colours (Okabe and Ito), and by their shapes.
const lightColours = ['#0072b2', '#d55e00', '#007a5a', '#a6428c', '#8a6d00', '#56606b'];
const darkColours = ['#56b4e9', '#ff9a4d', '#2dc99a', '#e69ad0', '#f0e442', '#aab4bf'];
const shapes = ['M-6 0a6 6 0 1 0 12 0a6 6 0 1 0 -12 0', 'M-6 -6h12v12h-12z'];

function style() {
  const colours = (list) => list.map((colour, i) => `.c${i} { fill: ${colour}; }`).join(' ');
  return `  <style>
    text { font: 13px sans-serif; fill: #1f2933; }
    .title { font-weight: bold; font-size: 15px; }
    .page { fill: #ffffff; }
    .mark { stroke: #ffffff; }
    .grid { stroke: #d5dbe1; }
    ${colours(lightColours)}
    @media (prefers-color-scheme: dark) {
      text { fill: #e4e7eb; }
      .page { fill: #14181d; }
      .mark { stroke: #14181d; }
      .grid { stroke: #36404a; }
      ${colours(darkColours)}
    }
  </style>`;
}

/** Round losses, far enough from each other: the roundest ones first. */
function ticksOf(y, [low, high]) {
  const taken = [];
  for (const step of [1, 0.5, 0.2, 0.1, 0.05, 0.01]) {
    for (let i = Math.ceil(low / step); i * step <= high; ++i) {
      const at = y(i * step);
      const isFree = taken.every(({ at: other }) => Math.abs(other - at) >= tickDistance);
      if (isFree) taken.push({ at: at.toFixed(1), text: Number((i * step).toFixed(2)) });
    }
  }
  return taken;
}

function draw(points, files) {
  const top = 50 + legendLine * points.length;
  const bottom = top + plotHeight;
  const losses = points.map(({ loss }) => loss);
  // Logarithms of what exceeds a floor just below the best: most points are close to that.
  const best = Math.min(...losses);
  const floor = 0.97 * best;
  const range = [0.99 * best, 1.05 * Math.max(...losses)];
  const x = scaleLinear([0, 105], [left, width - right]);
  const above = scaleLog(
    range.map((loss) => loss - floor),
    [bottom, top],
  );
  const y = (loss) => above(loss - floor);
  const mark = (i, at) => {
    const shape = shapes[Math.floor(i / lightColours.length)];
    const colour = `c${i % lightColours.length}`;
    return `  <path class="mark ${colour}" transform="translate(${at})" d="${shape}"/>`;
  };
  const legend = points.map(({ title, loss, share }, i) => {
    const at = 50 + legendLine * i;
    const figures = `${loss.toFixed(4)} nats per byte, ${share.toFixed(1)} % of the bytes`;
    return `${mark(i, `${left + 8} ${at - 4}`)}
  <text x="${left + 24}" y="${at}">${title}: ${figures}</text>`;
  });
  const across = x.ticks(10).map((tick) => {
    const at = x(tick).toFixed(1);
    return `  <path class="grid" d="M${at} ${top}V${bottom}"/>
  <text x="${at}" y="${bottom + 18}" text-anchor="middle">${tick}</text>`;
  });
  const up = ticksOf(y, range).map(
    ({ at, text }) => `  <path class="grid" d="M${left} ${at}H${width - right}"/>
  <text x="${left - 8}" y="${Number(at) + 4}" text-anchor="end">${text}</text>`,
  );
  const marks = points.map(({ loss, share }, i) =>
    mark(i, `${x(share).toFixed(1)} ${y(loss).toFixed(1)}`),
  );
  const title = 'Nats per byte of text against bytes of the cache';
  const whole = points.some(({ name }) => name === 'twin')
    ? "the twin's full cache"
    : 'a full cache';
  const below = `% of the bytes of ${whole} in bf16, at the ends of ${files} texts`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${bottom + 50}" role="img" \
aria-labelledby="title">
  <title id="title">${title}</title>
${style()}
  <rect class="page" width="${width}" height="${bottom + 50}"/>
  <text class="title" x="${left}" y="24">${title}</text>
  <text x="${width - right}" y="24" text-anchor="end">lower is better; stretched scale</text>
${[...legend, ...across, ...up, ...marks].join('\n')}
  <text x="${(left + width - right) / 2}" y="${bottom + 37}" text-anchor="middle">${below}</text>
</svg>
`;
}

const [from, to] = process.argv.slice(2);
if (to === undefined) throw new Error('Expected a result file and the picture to write');
const { figures } = JSON.parse(readFileSync(from, 'utf8'));
const points = Object.keys(titles)
  .filter((name) => figures[name] !== undefined)
  .map((name) => {
    const { all, cache } = figures[name];
    const share = (100 * cache.liveBytes) / cache.fullBytes;
    return { name, title: titles[name], loss: all.nats / all.bytes, share };
  });
writeFileSync(to, draw(points, figures.files));
