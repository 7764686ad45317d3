/** What a machine has, and what a model would take of it. Sizes are in bytes. */
import type { AnchorOptions, CachePolicy, CacheType } from './api.js';

/** What a model can compute on. */
export interface DeviceInfo {
  readonly name: 'cpu';
  /** Instruction sets that can be used, best last: `base`, `avx2`, ... */
  readonly instructionSets: readonly string[];
  /** Default number of worker threads. */
  readonly threads: number;
}

/** Memory that a model and one session would take, computed from the folder's headers. */
export interface Estimate {
  weightBytes: number;
  /** Bytes of a cache with `context` tokens, under the policy and under a full cache. */
  cacheBytes: number;
  fullCacheBytes: number;
  rows: number;
  fullRows: number;
  /** Share of anchors assumed. */
  anchorShare: number;
}

/** Options of `estimate`. */
export interface EstimateOptions {
  /** @default the model's context */
  context?: number;
  policy?: CachePolicy;
  cacheType?: CacheType;
  anchors?: AnchorOptions;
  /** Share of the tokens that are anchors. @default 0.09, of TypeScript and Python sources */
  anchorShare?: number;
}
