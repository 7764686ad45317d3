/** The figures that a generation ends with. */
import type { CachePolicy, CacheType, ModelInfo, SessionStats, Usage } from '../../types/api.js';
import { bytes, count, describePolicy, many, percent, table } from './format.js';

/** What `generate` found out; `--json` prints it. */
export interface GenerateReport {
  text: string;
  ids: number[];
  finish: 'stop' | 'length' | 'aborted';
  usage: Usage;
  /** A string where it is too large for a JSON number; null where nothing was sampled. */
  seed: number | string | null;
  policy: CachePolicy;
  cacheType: CacheType;
  contextLength: number;
  stats: SessionStats;
  model: ModelInfo;
}

/** The report in lines for stderr. */
export function showFigures(report: GenerateReport): string {
  const { usage, stats, policy, model, finish, seed } = report;
  const inserted = stats.full.rows > stats.fullWithoutAnchors.rows;
  const held = stats.rows + stats.mirrorRows;
  const against = (full: SessionStats['full']) =>
    `${percent(held, full.rows)} of the rows, ${percent(stats.bytes, full.bytes)} of the ` +
    'bytes of a full cache';
  const size = (full: SessionStats['full']) => `(${many(full.rows, 'row')}, ${bytes(full.bytes)})`;
  const rows = [
    ['prompt', timed(usage.promptTokens, usage.prefillSeconds)],
    ['generated', `${timed(usage.completionTokens, usage.decodeSeconds)}, ${ending(finish)}`],
    ['cache', `${many(held, 'row')} in ${bytes(stats.bytes)}, ${report.cacheType}`],
  ];
  // An interrupt may come before the first token is read.
  if (stats.full.rows > 0) {
    rows.push(['', `${against(stats.full)} of the same ids ${size(stats.full)}`]);
  }
  if (inserted) {
    const { fullWithoutAnchors: plain } = stats;
    rows.push(['', `${against(plain)} of the text without anchors ${size(plain)}`]);
  }
  rows.push(['policy', describePolicy(policy, model.layers)]);
  rows.push(['engine', engine(model)]);
  if (seed !== null) rows.push(['seed', String(seed)]);
  return table(rows, []);
}

function engine({ compute, instructionSet, threads }: ModelInfo): string {
  return `${compute} on ${instructionSet}, ${many(threads, 'thread')}`;
}

function timed(tokens: number, seconds: number): string {
  const text = `${many(tokens, 'token')} in ${seconds.toFixed(2)} s`;
  if (tokens === 0 || seconds === 0) return text;
  const speed = tokens / seconds;
  return `${text}, ${speed < 9.95 ? speed.toFixed(1) : count(Math.round(speed))} tokens/s`;
}

function ending(finish: GenerateReport['finish']): string {
  if (finish === 'stop') return 'ended by itself or by a stop text';
  return finish === 'length' ? 'cut at the length' : 'interrupted';
}
