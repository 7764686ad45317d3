/** What a cached row loses: the values that a cache of some type gives back. */
import { fromBf16, fromF16, roundHalfEven, toBf16, toF16 } from './safetensors.js';

export type CacheRounding = 'f32' | 'f16' | 'bf16' | 'int8';

/** int8: one scale per row of a head, the largest magnitude becomes 127. */
function roundInt8(row: Float64Array): void {
  const largest = row.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const scale = Math.fround(largest / 127);
  if (scale === 0) return;
  for (let i = 0; i < row.length; i++) {
    row[i] = roundHalfEven((row[i] as number) / scale) * scale;
  }
}

/** Rounds keys or values (tokens, kvHeads, headDim) in place. */
export function roundRows(rows: Float64Array, headDim: number, type: CacheRounding): void {
  if (type === 'int8') {
    for (let i = 0; i < rows.length; i += headDim) roundInt8(rows.subarray(i, i + headDim));
    return;
  }
  for (let i = 0; i < rows.length; i++) {
    const value = Math.fround(rows[i] as number);
    if (type === 'f32') rows[i] = value;
    else rows[i] = type === 'f16' ? fromF16(toF16(value)) : fromBf16(toBf16(value));
  }
}
