// Sums of what a case predicted, by language, position, distance and place in the line.

const most = Number.POSITIVE_INFINITY;
const distances = [16, 64, 128, 256, 512, 1024, 2048, most];
const ranges = [16, 128, 2048, most];
const positions = [64, 256, 512, 1024, 2049, most];
const lengths = [2, 4, most];

function bucket(value, ends) {
  const i = ends.findIndex((end) => value < end);
  const last = Number.isFinite(ends[i]) ? `-${ends[i] - 1}` : ' or more';
  return `${i === 0 ? 1 : ends[i - 1]}${last}`;
}

/** Adds what one case predicted of one text to its sums: loss, copying, rows and bytes. */
export function collect(groups, text, spans, before, { nats, kl, hits, stats }) {
  const { ids, bytes, language, length } = text;
  for (let at = 1; at < ids.length; ++at) {
    const values = { bytes: bytes[at], nats: nats[at], kl: kl[at], hits: hits[at] };
    if (text.isControl(at)) {
      groups.add('control tokens', values);
      continue;
    }
    groups.add('all', values);
    groups.add(`language ${language}`, values);
    groups.add(`position ${bucket(at, positions)}`, values);
    if (at >= length / 2) groups.add('second half', values);
    if (before[at] > 0) {
      const probability = Math.exp(-nats[at]);
      groups.add(`3-gram at ${bucket(before[at], distances)}`, { hits: hits[at], probability });
    }
  }
  for (const span of spans) {
    const values = copyOf(span, nats, hits);
    groups.add(`${span.kind} at ${bucket(span.distance, distances)}`, values);
    groups.add(`${span.kind} of ${bucket(span.end - span.first, lengths)} ids`, values);
    if (span.kind === 'literal') continue;
    const range = bucket(span.distance, ranges);
    const then = span.endedLine ? "at a line's end" : 'within a line';
    const now = span.beginsLine ? 'first in its line' : 'within its line';
    groups.add(`${span.kind}, last ${then}, at ${range}`, values);
    groups.add(`${span.kind}, now ${now}, at ${range}`, values);
  }
  const { rows, mirrorRows, bytes: held, rowBytes } = stats;
  const live = rows + mirrorRows;
  const kept = { rows: live, held, liveBytes: live * rowBytes, ...text.full };
  groups.add('cache', kept);
  if (ids.length > text.input.length) groups.add(`cache of texts of ${length} ids`, kept);
}

/** First id right, the others right behind it, all right, and the probability of all. */
function copyOf({ first, end }, nats, hits) {
  const right = (from) => hits.subarray(from, end).every((hit) => hit === 1);
  const sum = nats.subarray(first, end).reduce((a, b) => a + b, 0);
  const rest = end - first > 1 ? { longer: 1, rest: Number(right(first + 1)) } : {};
  return { first: hits[first], whole: Number(right(first)), probability: Math.exp(-sum), ...rest };
}

/** Nats per byte of a group. */
export function lossOf({ nats, bytes }) {
  return nats / bytes;
}

/** Top-1 where a 3-gram of 64 ids ago and more goes on, of the groups of one case. */
export function copiedFar(groups) {
  const far = Object.entries(groups).filter(([name]) => /^3-gram at (64|128|256|512)-/.test(name));
  const sum = (key) => far.reduce((total, [, values]) => total + values[key], 0);
  return sum('hits') / sum('count');
}
