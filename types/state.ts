/** What sessions and models hold, and how a session is saved. Sizes are in bytes. */
import type { Model, Session } from './api.js';

/** Options of {@link Session.snapshot}, {@link Session.saveSnapshot} and {@link Model.restore}. */
export interface SnapshotOptions {
  signal?: AbortSignal;
}

/** What a session's cache holds, and what a full cache would hold. */
export interface SessionStats {
  /** Tokens of the text, anchors and pending tokens included. */
  position: number;
  /** Tokens that wait for the next pass: sampled, or left by an abort. */
  pending: number;
  /** Anchors among the tokens in the cache. */
  anchors: number;
  /** (layers) live rows: one key and value for every KV head. */
  rowsPerLayer: number[];
  /** Sum of `rowsPerLayer`, and copies of the source layer's kept rows beside them. */
  rows: number;
  mirrorRows: number;
  /** Memory of all blocks held, and of one row of one layer. */
  bytes: number;
  rowBytes: number;
  /** Tokens whose rows came from the prefix cache. */
  reusedTokens: number;
  /** A full cache of the same type, for the same ids and for the text without inserted anchors. */
  full: { rows: number; bytes: number };
  fullWithoutAnchors: { rows: number; bytes: number };
}

/** Bytes that a model holds, and its number of sessions. */
export interface ModelMemory {
  /** Mapped weight files, prepared copies, cache blocks of all sessions. */
  mapped: number;
  weights: number;
  caches: number;
  sessions: number;
  prefixCache: PrefixCacheStats;
}

/** What the prefix cache holds, and what it was good for. */
export interface PrefixCacheStats {
  /** Rows, each counted once however many prefixes share it; sessions may hold them too. */
  bytes: number;
  prefixes: number;
  /** Sessions that began with a known prefix, and those that looked for one in vain. */
  hits: number;
  misses: number;
  /** Tokens that were not read again. */
  reusedTokens: number;
}
