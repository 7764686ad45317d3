/**
 * What the addon exports. Values that arrive here have been validated with sentences by `lib/`;
 * the addon checks again everything that memory safety depends on. A native failure is a plain
 * `Error` with a `code` of {@link ErrorCode}; `lib/errors.ts` turns it into an `AnchorError`.
 */
import type { CacheType, ComputeMode } from './api.js';

export interface NativeAddon {
  readonly version: string;
  /** Instruction sets that this machine can run, best last: "base", "avx2", ... */
  instructionSets(): string[];
  defaultThreads(): number;
  /** Maps the files, checks every bound, prepares the weights. Off the JavaScript thread. */
  loadModel(spec: NativeModelSpec): Promise<NativeModel>;
  /** Counts weights that are no numbers. Off the JavaScript thread. */
  countNonFinite(spec: NativeScanSpec): Promise<{ nan: number; infinite: number }>;
}

/** `length` bytes of a file of `size` bytes, from `offset` on. */
export interface NativeScanSpec {
  path: string;
  size: number;
  dtype: NativeDType;
  offset: number;
  length: number;
}

export type NativeDType = 'F32' | 'F16' | 'BF16';

/**
 * A tensor under its canonical name, whatever the file calls it:
 *
 *     model.embed_tokens.weight                    (vocabSize, hiddenSize)
 *     model.layers.L.input_layernorm.weight        before attention (and the MLP, parallelBlock)
 *                    self_attn.{q,k,v,o}_proj.weight
 *                    self_attn.{q,k}_norm.weight   (headDim) per head, after projection and bias,
 *                                                  before RoPE; of the kind `norm`
 *                    attention_output_norm.weight  on attention's output, before the residual
 *                    post_attention_layernorm.weight  before the MLP; absent if parallelBlock
 *                    mlp.{gate,up,down}_proj.weight   no gate: down(activation(up x))
 *                    mlp_output_norm.weight        on the MLP's output, before the residual
 *                    mlp.router.weight             (experts.count, hiddenSize): this layer has
 *                                                  experts instead of the three above
 *                    mlp.experts.E.{gate,up,down}_proj.weight
 *     model.norm.weight
 *     lm_head.weight                               absent: the embedding is the output matrix
 *
 * Beside every `weight` of a norm, a linear or the head there may be a `bias` (of a tied head too:
 * `lm_head.bias` alone). What is absent is not computed.
 */
export interface NativeTensor {
  name: string;
  dtype: NativeDType;
  shape: number[];
  /** Index into `files`. */
  file: number;
  /**
   * Byte offset in the file, and length in bytes. Several tensors may be row ranges of a tensor
   * that the file holds as one, so offsets keep to no order and to no alignment.
   */
  offset: number;
  length: number;
  /**
   * Where the rows lie in several places of the file: whole rows, in order. Then `offset` is the
   * first part's and `length` the sum of all.
   */
  parts?: { offset: number; length: number }[];
  /** A change of a matrix (rows, cols) by `scale` times b a, merged into a copy of it. */
  lora?: NativeLora;
}

export interface NativeLora {
  /** (rank, cols) */
  a: NativeTensor;
  /** (rows, rank) */
  b: NativeTensor;
  scale: number;
}

/** `rmsOnePlus`: times 1 + weight. `layer`: less the mean, over the deviation. */
export type NativeNorm = 'rms' | 'rmsOnePlus' | 'layer';
/** `gelu`: by the error function. */
export type NativeActivation = 'silu' | 'gelu' | 'geluTanh';

export interface NativeExperts {
  count: number;
  /** Of a token: those of the highest probability (softmax over all of them, in float32). */
  perToken: number;
  /** The probabilities of the chosen ones are divided by their sum. */
  normalize: boolean;
  /** In place of the model's `intermediateSize`. */
  intermediateSize: number;
}

export interface NativeRope {
  /** The first ones of a head; the others pass unchanged. */
  rotaryDims: number;
  /** Pairs are neighbours (2j, 2j + 1) instead of (j, j + rotaryDims / 2). */
  interleaved: boolean;
  /** Factor on cosine and sine (yarn, longrope). */
  scale: number;
  /** (rotaryDims / 2) radians per position. */
  inverseFrequencies: Float64Array;
}

export interface NativeModelSpec {
  files: { path: string; size: number }[];
  tensors: NativeTensor[];
  config: {
    layers: number;
    hiddenSize: number;
    intermediateSize: number;
    heads: number;
    kvHeads: number;
    headDim: number;
    vocabSize: number;
    contextLength: number;
    normEpsilon: number;
    norm: NativeNorm;
    activation: NativeActivation;
    /** x + attention(norm x) + mlp(norm x), with one norm a layer (CodeGen). */
    parallelBlock: boolean;
    /** Factor on the embeddings, rounded as `compute` asks for; 1: none. */
    embeddingScale: number;
    /** Factor on the products of queries and keys, mostly 1 / sqrt(headDim). */
    attentionScale: number;
    /** Then scores become cap * tanh(score / cap); 0: they don't. */
    attentionSoftcap: number;
    /** The same for logits. */
    logitSoftcap: number;
    /**
     * (layers) Last tokens that a token sees, itself included; 0: all. Rows that a policy keeps
     * (anchors, sinks) stay visible beyond it in anchored layers; a dense layer is bounded by it.
     */
    windows: Int32Array;
    ropes: NativeRope[];
    /** (layers) index into `ropes` */
    layerRopes: Uint8Array;
    /**
     * 0: none (`layerRopes` says all). Else (longrope) `ropes` are two, and `layerRopes` all 0:
     * every layer turns by `ropes[0]` in a session whose `contextLength` is at most this, and by
     * `ropes[1]` in any other. So a session never changes its table, and results don't depend on
     * chunks. A fork has its parent's table; one pass may hold sessions of both.
     */
    originalContext: number;
    experts: NativeExperts | null;
  };
  compute: ComputeMode;
  /** 0: the machine's default. */
  threads: number;
  /** '' : the best of the machine. */
  instructionSet: string;
  /** Bytes that weights, caches and activations may take; 0: what the cgroup's limit leaves. */
  maxMemory: number;
  /** Bytes of rows that are kept for later sessions; 0: none are. */
  prefixCacheBytes: number;
}

export interface NativeModel {
  readonly instructionSet: string;
  readonly threads: number;
  createSession(spec: NativeSessionSpec): NativeSession;
  /** A session with this state, whose rows are still to be written. */
  restore(
    spec: Omit<NativeSessionSpec, 'usesPrefixes'> & NativeSessionState,
  ): Promise<NativeRestore>;
  memory(): {
    weights: number;
    mapped: number;
    caches: number;
    sessions: number;
    prefixBytes: number;
    prefixEntries: number;
    prefixHits: number;
    prefixMisses: number;
    reusedTokens: number;
  };
  /** Refuses new work, aborts what runs; memory goes with the last session. Idempotent. */
  dispose(): void;
}

/** The cache policy, resolved to what the engine needs. See docs/anchors.md. */
export interface NativePolicy {
  /** Ids whose rows never leave and which close a line. */
  anchorIds: Uint32Array;
  /** Position 0 is an anchor whatever its id (AnchorCoder); false for AnLLM's mask. */
  firstIsAnchor: boolean;
  /** An anchor sees the anchors before it (AnchorCoder); false: its own line only (AnLLM). */
  anchorSeesAnchors: boolean;
  /** In anchored layers a token sees its line from the last anchor on. */
  line: boolean;
  /** In anchored layers a token sees this many last tokens, itself included; 0: none. */
  window: number;
  /** Positions 0 to sinks - 1 never leave. */
  sinks: number;
  /** (layers) 1: dense, keeps every row. */
  dense: Uint8Array;
  /** Layer whose rows the consumers also attend to; -1: no layer-wise attention. */
  sourceLayer: number;
  /** Consumers are the layers above this one. */
  consumersAbove: number;
  /** Keys of anchors turn by positions of their line, spread over the heads (MHPE). */
  multiHeadPositions: boolean;
  /** Id that is inserted after newlines, so that it can be counted; -1: none. */
  insertedAnchor: number;
}

export interface NativeSessionSpec {
  contextLength: number;
  policy: NativePolicy;
  cacheType: CacheType;
  /** The session may begin with rows of the prefix cache, and leaves its own there. */
  usesPrefixes: boolean;
}

/** A session but for its rows. */
export interface NativeSessionState {
  /** (position) pending ones included. */
  ids: Uint32Array;
  /** Of them, in the cache. */
  cached: number;
  /** (layers) lowest row that each layer still holds. */
  released: Uint32Array;
  /** Positions whose residual rows are saved, ascending. */
  saved: Uint32Array;
  /** Length of the rows as a stream; native/core/snapshot.h says what is in it. */
  rowBytes: number;
}

/** The state of a session at one moment; the session may go on meanwhile. */
export interface NativeSnapshot extends NativeSessionState {
  /** Fills `bytes` with what comes next of the rows; fewer bytes only at the end. */
  read(bytes: Uint8Array): number;
  dispose(): void;
}

export interface NativeRestore {
  /** Takes what comes next of the rows. */
  write(bytes: Uint8Array): void;
  /** The session, once all its rows are there. Call it once. */
  finish(): NativeSession;
  dispose(): void;
}

/** Token ids of one `read`, in order; anchors that were forced are not among them. */
export interface NativeBatch {
  ids: Uint32Array;
  /** Session length in tokens after each id, with the anchor that was forced after it. */
  ends: Uint32Array;
  /** (ids) natural logarithm of the probability; empty when not asked for. */
  logprobs: Float32Array;
  /** (ids) of the forced anchor after the id, NaN where there is none; empty when not asked for. */
  anchorLogprobs: Float32Array;
  /** (ids, topLogprobs) best alternatives, most probable first. */
  topIds: Uint32Array;
  topLogprobs: Float32Array;
  /**
   * '' while generating goes on; anything else comes with at least one id. `stop`: the last id is
   * one of `eosIds`, which does not enter the session (its end is the length before it).
   */
  finish: '' | 'stop' | 'length';
}

export interface NativeGenerateSpec {
  /** Tokens to generate at most, forced anchors not counted. */
  maxTokens: number;
  /** 0: greedy. */
  temperature: number;
  /** 0: off. */
  topK: number;
  /** 1: off. */
  topP: number;
  /** 0: off. */
  minP: number;
  /** 1: off. */
  repetitionPenalty: number;
  /** 64 bits. */
  seed: bigint;
  eosIds: Uint32Array;
  /** Ids that are never produced. */
  bannedIds: Uint32Array;
  /** Anchor forced after every id of `newlineIds`; -1: none. */
  forcedAnchor: number;
  newlineIds: Uint32Array;
  logprobs: boolean;
  topLogprobs: number;
}

export type LogitsWanted = 'none' | 'last' | 'all';

export interface NativeSession {
  /**
   * Adds ids (they may be empty: the pending ones are run) and runs the model over everything that
   * is not yet in the cache. `last`: (vocabSize); `all`: (ids.length, vocabSize).
   */
  append(ids: Uint32Array, logits: LogitsWanted): Promise<Float32Array | undefined>;
  /** Starts a generation; tokens are fetched with `read`, which gives credit back. */
  startGenerate(spec: NativeGenerateSpec): void;
  /** Tokens sampled since the last call, at least one or a finish. Commits up to `commit`. */
  read(commit: number): Promise<NativeBatch>;
  /** Ends a generation at any point and truncates the session to `position`. */
  endGenerate(position: number): Promise<void>;
  /** Makes the call in progress reject with ERR_ABORTED within one pass. Safe at any time. */
  abort(): void;
  /** Drops the tokens from `position` on; throws ERR_POSITION where rows before it have left. */
  truncate(position: number): void;
  /**
   * A session of its own with the first `position` tokens; throws like `truncate`. `contextLength`
   * 0: this session's.
   */
  fork(position: number, contextLength: number): NativeSession;
  snapshot(): NativeSnapshot;
  /** Tokens whose rows are in the cache; may be read while a call runs (progress). */
  readonly cached: number;
  ids(): Uint32Array;
  stats(): NativeStats;
  dispose(): void;
}

export interface NativeStats {
  /** Tokens of the text so far, and how many of them have their rows in the cache. */
  position: number;
  cached: number;
  /** Anchors among the cached tokens. */
  anchors: number;
  /** Of them, those of the id `insertedAnchor`. */
  insertedAnchors: number;
  /** (layers) live rows of each layer, the mirror's not counted. */
  rows: Uint32Array;
  /** Copies of the source layer's kept rows for its consumers. */
  mirrorRows: number;
  /** Bytes of the blocks held (shared ones counted in full), and of one row of one layer. */
  bytes: number;
  rowBytes: number;
  /** Tokens whose rows came from the prefix cache. */
  reused: number;
}
