/**
 * Which tokens see which, as explicit (T, T) matrices: `mask[i][j]` says that token i sees token j.
 * One function per formula of the specification; tests hold them against each other.
 */
import type { Settings } from './settings.js';

export type Mask = boolean[][];

function build(length: number, sees: (i: number, j: number) => boolean): Mask {
  return Array.from({ length }, (_, i) => Array.from({ length }, (_, j) => j <= i && sees(i, j)));
}

/** An ordinary transformer, and the dense layers. */
export function causalMask(length: number): Mask {
  return build(length, () => true);
}

/** Largest element strictly below i. */
function largestBelow(positions: readonly number[], i: number): number | undefined {
  return positions.filter((position) => position < i).at(-1);
}

function positionsOf(ids: readonly number[], wanted: readonly number[]): number[] {
  return [...ids.keys()].filter((i) => wanted.includes(ids[i] as number));
}

/** AnchorCoder's anchored layers: all earlier anchors, and the line from the last anchor on. */
export function anchorMask(ids: readonly number[], anchorIds: readonly number[]): Mask {
  const anchors = [...new Set([0, ...positionsOf(ids, anchorIds)])];
  const previous = ids.map((_, i) => largestBelow(anchors, i) ?? 0);
  return build(ids.length, (i, j) => anchors.includes(j) || j >= (previous[i] as number));
}

/** AnLLM: as above without position 0, and an anchor sees its own line only. */
export function ansanMask(ids: readonly number[], anchorIds: readonly number[]): Mask {
  const anchors = positionsOf(ids, anchorIds);
  const last = ids.map((_, i) => largestBelow(anchors, i) ?? -1);
  return build(ids.length, (i, j) => {
    if (j > (last[i] as number)) return true;
    return !anchors.includes(i) && j < i && anchors.includes(j);
  });
}

/** Anchor positions of the mask. */
export function anchorPositions(ids: readonly number[], settings: Settings): number[] {
  const anchors = new Set(positionsOf(ids, settings.anchorIds));
  if (settings.firstIsAnchor && ids.length > 0) anchors.add(0);
  return [...anchors].sort((a, b) => a - b);
}

/** Positions whose rows never leave an anchored layer. */
export function keptPositions(ids: readonly number[], settings: Settings): number[] {
  const anchors = anchorPositions(ids, settings);
  return [...ids.keys()].filter((i) => i < settings.sinks || anchors.includes(i));
}

/** First position from which on token i sees everything. Token i itself may be still unknown. */
export function windowStart(ids: readonly number[], i: number, settings: Settings): number {
  const before = anchorPositions(ids.slice(0, i), settings);
  const lineStart = (before.at(-1) ?? -1) + 1;
  const starts = [i];
  if (settings.line) starts.push(lineStart);
  if (settings.window > 0) starts.push(Math.max(0, i - settings.window + 1));
  return Math.min(...starts);
}

/** The anchored layers of any policy: kept positions, and everything from `windowStart` on. */
export function policyMask(ids: readonly number[], settings: Settings): Mask {
  const kept = keptPositions(ids, settings);
  const anchors = anchorPositions(ids, settings);
  const starts = ids.map((_, i) => windowStart(ids, i, settings));
  return build(ids.length, (i, j) => {
    if (j >= (starts[i] as number)) return true;
    return kept.includes(j) && (settings.anchorSeesAnchors || !anchors.includes(i));
  });
}
