/** How many rows a cache holds, by formula. */
import { keptPositions, windowStart } from './masks.js';
import type { Settings } from './settings.js';

/**
 * Live rows of an anchored layer after all of `ids`: what the next token may still see, whatever
 * it is. For AnchorCoder these are the anchors and the open line.
 */
export function anchoredRows(ids: readonly number[], settings: Settings): number {
  const start = windowStart(ids, ids.length, settings);
  const below = keptPositions(ids, settings).filter((position) => position < start);
  return below.length + (ids.length - start);
}

/** (layers) live rows after all of `ids`. */
export function rowsPerLayer(ids: readonly number[], settings: Settings): number[] {
  const anchored = anchoredRows(ids, settings);
  return settings.dense.map((dense) => (dense ? ids.length : anchored));
}

/**
 * Copies of a dense source layer's kept rows that are read: those that lie before what a token sees
 * of the layer itself. Only anchored consumers need them (a dense one reads the whole layer), and
 * an anchored source holds no other rows than theirs.
 */
export function mirrorRows(ids: readonly number[], settings: Settings): number {
  const { sourceLayer, consumersAbove, dense } = settings;
  if (sourceLayer === null || !dense[sourceLayer]) return 0;
  if (!dense.slice(consumersAbove + 1).includes(false)) return 0;
  const start = windowStart(ids, ids.length, settings);
  return keptPositions(ids, settings).filter((position) => position < start).length;
}
