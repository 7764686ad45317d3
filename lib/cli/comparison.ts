/** A comparison in tables. */
import type { ComparedCase, ComparedSpeed, Comparison, ModelInfo } from '../../types/api.js';
import { bytes, count, describePolicy, many, percent, table } from './format.js';

/** What was compared, then quality, cache and speed of every case. */
export function showComparison(comparison: Comparison, { layers }: ModelInfo): string {
  const { reference, cases } = comparison;
  const all = [reference, ...cases];
  return [
    about(comparison, layers),
    quality(all),
    cache(all, reference),
    speed(all),
    table(
      cases.map(({ name, policy }) => [name, describePolicy(policy, layers)]),
      [],
    ),
  ].join('\n');
}

function about(comparison: Comparison, layers: number): string {
  const { ids, insertedAnchors, targets, targetBytes, reference } = comparison;
  const anchors = insertedAnchors === 0 ? '' : ' and inserted anchors';
  const bytesRead = targetBytes === null ? '' : `, ${count(targetBytes)} bytes`;
  const inserted = insertedAnchors === 0 ? '' : `, ${count(insertedAnchors)} inserted anchors`;
  return table(
    [
      ['reference', `${reference.name}, rows in ${reference.cacheType}`],
      ['', describePolicy(reference.policy, layers)],
      ['text', `${many(ids.length, 'token')}${inserted}`],
      ['targets', `${count(targets.length)}: all but the first token${anchors}${bytesRead}`],
    ],
    [],
  );
}

function quality(all: readonly ComparedCase[]): string {
  const head = ['', 'KL mean', 'median', '99 %', 'max', 'top-1', 'perplexity', 'nats/token'];
  const rows = all.map((one) => {
    const { mean, median, p99, max } = one.klDivergence;
    return [
      one.name,
      ...[mean, median, p99, max].map(figure),
      percent(one.top1Agreement, 1),
      figure(one.perplexity),
      figure(one.natsPerToken),
      one.natsPerByte === null ? '-' : figure(one.natsPerByte),
    ];
  });
  const title =
    'KL divergence from the reference in nats; top-1: both find the same token the most probable';
  return `${title}\n${columns([[...head, 'nats/byte'], ...rows])}`;
}

function cache(all: readonly ComparedCase[], { cacheType, stats }: ComparedCase): string {
  const { full, fullWithoutAnchors: plain } = stats;
  const hasAnchors = full.rows > plain.rows;
  const size = (one: typeof full) => `${many(one.rows, 'row')}, ${bytes(one.bytes)}`;
  const denominators = [`A: of a full cache of the same ids in ${cacheType} (${size(full)})`];
  if (hasAnchors) denominators.push(`B: of the text without inserted anchors (${size(plain)})`);
  const shares = (held: number, of: 'rows' | 'bytes') =>
    [full, ...(hasAnchors ? [plain] : [])].map((whole) => percent(held, whole[of]));
  const names = hasAnchors ? ['A', 'B'] : ['A'];
  const rows = all.map(({ name, peakBytes, stats: own }) => {
    const held = own.rows + own.mirrorRows;
    return [
      ...[name, count(held), ...shares(held, 'rows')],
      ...[bytes(own.bytes), ...shares(own.bytes, 'bytes'), bytes(peakBytes)],
    ];
  });
  const head = ['', 'rows', ...names, 'bytes', ...names, 'peak'];
  return `Cache behind the text\n${denominators.join('\n')}\n${columns([head, ...rows])}`;
}

function speed(all: readonly ComparedCase[]): string {
  const cells = (speed: ComparedSpeed | null) =>
    speed === null ? [] : [figure(speed.tokensPerSecond), speed.ratio.toFixed(2)];
  const head = ['', 'prefill', 'ratio'];
  if (all.some(({ decode }) => decode)) head.push('decode', 'ratio');
  const rows = all.map(({ name, prefill, decode }) => [name, ...cells(prefill), ...cells(decode)]);
  const title = 'Tokens a second in this one run, and against the reference: noisy';
  return `${title}\n${columns([head, ...rows])}`;
}

function columns(rows: readonly (readonly string[])[]): string {
  return table(
    rows,
    Array.from({ length: 12 }, (_, i) => i + 1),
  );
}

/** Three digits or more of a number that is not negative. */
export function figure(value: number): string {
  if (value === 0) return '0';
  if (value < 0.001) return value.toExponential(1);
  return value >= 999.5 ? count(Math.round(value)) : value.toPrecision(3);
}
