/** What a cache holds, and the two full caches that it is compared with. */
import type { SessionStats } from '../types/api.js';
import type { NativeStats } from '../types/native.js';

/** A full cache holds one row per token and layer, with the same bytes per row. */
export function sessionStats(native: NativeStats): SessionStats {
  const { position, cached, anchors, mirrorRows, bytes, rowBytes, reused } = native;
  const rowsPerLayer = Array.from(native.rows);
  const full = (tokens: number) => {
    const rows = rowsPerLayer.length * tokens;
    return { rows, bytes: rows * rowBytes };
  };
  return {
    position,
    pending: position - cached,
    anchors,
    rowsPerLayer,
    rows: rowsPerLayer.reduce((sum, rows) => sum + rows, 0),
    mirrorRows,
    bytes,
    rowBytes,
    reusedTokens: reused,
    full: full(cached),
    fullWithoutAnchors: full(cached - native.insertedAnchors),
  };
}
