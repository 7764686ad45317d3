/** What `compare` takes and gives: one text under several policies and types of the cache. */
import type { CachePolicy, CacheType, SessionStats } from './api.js';

/** One way to run a model. */
export interface ComparisonCase {
  /** Unlike all other cases' names. @default made of the rest, such as `window:512,4, int8` */
  name?: string;
  /** @default {@link ModelInfo.defaultPolicy} */
  policy?: CachePolicy;
  /** @default `'f32'` in `exact` mode, `'bf16'` in `bf16` mode */
  cacheType?: CacheType;
}

/** Options of `compare`. */
export interface CompareOptions {
  /** Control tokens in a text. @default false */
  parseSpecial?: boolean;
  /**
   * Tokens that all sessions read before any goes on; their logits take about
   * 12 * chunkTokens * vocabSize bytes in all.
   * @default 256, fewer where a chunk's logits of one session would exceed 32 MiB
   */
  chunkTokens?: number;
  /** Tokens that every session generates in the end, to time it; 2 or more. @default none */
  decodeTokens?: number;
  /** Tokens read, summed over all sessions. Called on the JavaScript thread after each chunk. */
  onProgress?: (progress: { done: number; total: number }) => void;
  signal?: AbortSignal;
}

/**
 * KL divergence of a case from the reference at the targets, in nats: the sum over the vocabulary
 * of p log(p / q), where p is the reference's distribution and q the case's. 0 where both have the
 * same logits.
 */
export interface KlDivergence {
  mean: number;
  median: number;
  /** 99 % of the targets (rounded up) have this value or a smaller one. */
  p99: number;
  max: number;
}

/** Tokens a second, on a clock that other programs disturb. */
export interface ComparedSpeed {
  tokensPerSecond: number;
  /** The same as a multiple of the reference's in the same run. */
  ratio: number;
}

/** How one case read the text. Arrays have a value for each of {@link Comparison.targets}. */
export interface ComparedCase {
  name: string;
  /** With every default filled in. */
  policy: CachePolicy;
  cacheType: CacheType;
  klDivergence: KlDivergence;
  /** Share of the targets where case and reference find the same id the most probable. */
  top1Agreement: number;
  /** e to the power of `natsPerToken`. */
  perplexity: number;
  /** Mean of -log(probability of the target). */
  natsPerToken: number;
  /** Sum of the same over {@link Comparison.targetBytes}; null without a tokenizer. */
  natsPerByte: number | null;
  /** (targets) divergence in nats. */
  tokenKl: Float64Array;
  /** (targets) -log of the target's probability. */
  tokenNats: Float64Array;
  /** (targets) 1 where the most probable ids are the same. */
  tokenAgrees: Uint8Array;
  /** The cache behind the last token. Both full caches in it are of the case's own type. */
  stats: SessionStats;
  /**
   * The most that {@link SessionStats.bytes} was behind any chunk. What a pass takes while it runs
   * and gives back at its end is not seen.
   */
  peakBytes: number;
  /** Reading the text, with the logits of every token. */
  prefill: ComparedSpeed;
  /** Generating greedily behind the text, from the first token on; null where not asked for. */
  decode: ComparedSpeed | null;
}

/** What `compare` gives. */
export interface Comparison {
  /** (tokens) the text as all sessions read it, inserted anchors included. */
  ids: Uint32Array;
  /** Anchors among them that the library inserts, or would insert. */
  insertedAnchors: number;
  /**
   * (targets) positions of the tokens that are predicted: all but the first token and inserted
   * anchors. Figures at a target are those of the logits of the token before it.
   */
  targets: Uint32Array;
  /** Bytes that the targets add to the text as the model reads it; null without a tokenizer. */
  targetBytes: number | null;
  /** The model's own attention: its default policy and type of rows. Its divergence is 0. */
  reference: ComparedCase;
  /** In the order given. */
  cases: ComparedCase[];
}
