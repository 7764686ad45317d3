/** The public interface of `anchorcoder`. Shapes are (outer, ..., inner); sizes are in bytes. */

import type { AnchorOptions, CachePolicy, CacheType } from './policy.js';
import type {
  ChatMessage,
  ChatOptions,
  ChatPrompt,
  FillInTheMiddleOptions,
  FillInTheMiddlePrompt,
  FillInTheMiddleText,
  FimOrder,
} from './prompts.js';
import type { ModelMemory, SessionStats, SnapshotOptions } from './state.js';

export type * from './check.js';
export type * from './compare.js';
export type * from './estimate.js';
export type * from './policy.js';
export type * from './prompts.js';
export type * from './state.js';

/** Stable `code` of an `AnchorError`. */
export type ErrorCode =
  | 'ERR_INVALID_ARGUMENT' // an argument or option has the wrong type, value or name
  | 'ERR_MODEL_NOT_FOUND' // the folder or a file in it is missing
  | 'ERR_MODEL_INVALID' // a file contradicts itself or another one
  | 'ERR_MODEL_UNSUPPORTED' // a model class or feature that the engine does not run
  | 'ERR_NO_TOKENIZER' // a call on text, but the folder has no tokenizer files
  | 'ERR_CONTEXT_LENGTH' // the tokens would exceed the session's context
  | 'ERR_POSITION' // a position outside the text, or whose rows have left the cache
  | 'ERR_BUSY' // the session is in the middle of another call
  | 'ERR_DISPOSED' // the model or session has been disposed
  | 'ERR_ABORTED' // aborted without a reason of the caller's own
  | 'ERR_OUT_OF_MEMORY' // an allocation failed, or would exceed `maxMemory`
  | 'ERR_DEVICE' // the device cannot be used
  | 'ERR_SNAPSHOT_INVALID' // a snapshot is damaged, or of another model, version or setting
  | 'ERR_FILE' // a file cannot be read or written
  | 'ERR_ADDON'; // the native addon is missing or does not fit this package

/** `exact`: float32 activations. `bf16`: products take inputs in bfloat16, sum in float32. */
export type ComputeMode = 'exact' | 'bf16';

/** Options of `loadModel`. */
export interface LoadOptions {
  /** `'auto'` takes a GPU when there is one that works. @default `'cpu'` */
  device?: 'auto' | 'cpu';
  /** Worker threads. @default the smallest of physical cores, affinity and cgroup quota */
  threads?: number;
  /** @default `'bf16'` when the weights are BF16, else `'exact'` */
  compute?: ComputeMode;
  anchors?: AnchorOptions;
  /**
   * Folder of a LoRA adapter for this model (`adapter_config.json`, `adapter_model.safetensors`),
   * merged into copies of the matrices that it changes. Its `anchors.json`, where there is one, has
   * the words of config.json's `anchors` block and wins over it, key by key.
   */
  adapter?: string;
  /**
   * Whether `generation_config.json` says how tokens are chosen where a call does not; its ends of
   * text count either way. @default `'model'`
   */
  generationConfig?: 'model' | 'ignore';
  /**
   * Bytes that weights, caches and activations may take together.
   * @default what the cgroup's limit leaves when the model is loaded; without one no limit
   */
  maxMemory?: number;
  /**
   * Rows of texts that sessions have read are kept for later sessions that begin alike, up to this
   * many bytes beyond what sessions hold themselves; the least recently used go first, and when
   * memory is short. @default nothing is kept
   */
  prefixCache?: { bytes: number };
  signal?: AbortSignal;
}

/**
 * Defaults of {@link GenerateOptions} from `generation_config.json`; what the file leaves out or
 * says wrongly is missing, and so is `temperature` unless the file has `do_sample: true`.
 */
export interface GenerationDefaults {
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
}

/** What a loaded model is, and how it runs. */
export interface ModelInfo {
  readonly folder: string;
  /** Folder of the adapter that is merged in. */
  readonly adapter: string | undefined;
  /** `architectures[0]` of the config. */
  readonly architecture: string;
  readonly parameters: number;
  readonly layers: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly weightType: 'F32' | 'F16' | 'BF16' | 'mixed';
  readonly weightBytes: number;
  readonly compute: ComputeMode;
  readonly device: string;
  readonly instructionSet: string;
  readonly threads: number;
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId: number | undefined;
  /** What calls choose tokens by that say nothing else; empty if `generationConfig` ignores it. */
  readonly generationDefaults: GenerationDefaults;
  readonly hasTokenizer: boolean;
  /** Names of the folder's chat templates, for {@link Model.chat}; empty where there is none. */
  readonly chatTemplates: readonly string[];
  /** Order of {@link Model.fillInTheMiddle}; undefined where the model has no marks for it. */
  readonly fillInTheMiddle: FimOrder | undefined;
  /** Whether the config says that the model was trained for anchors. */
  readonly trainedForAnchors: boolean;
  /** Policy of a session that names none. */
  readonly defaultPolicy: CachePolicy;
  /** Sentences that a user should read (an approximation in use, an ignored file, ...). */
  readonly warnings: readonly string[];
}

/** Options of {@link Model.createSession}. */
export interface SessionOptions {
  /** Tokens that the session may hold, anchors included. @default the model's */
  contextLength?: number;
  /** @default {@link ModelInfo.defaultPolicy} */
  policy?: CachePolicy;
  /** @default `'f32'` in `exact` mode, `'bf16'` in `bf16` mode */
  cacheType?: CacheType;
  /**
   * Begin with the first `at` tokens of this session of the same model, whose policy and type of
   * rows the new one has. Rows are shared, not copied, until one of the two changes them.
   */
  from?: Session;
  /** A position that {@link Session.truncate} could go back to. @default all of `from` */
  at?: number;
  /**
   * Share rows through the model's prefix cache: the first text that the session reads begins with
   * the longest prefix known, and what it holds after a call is kept for others. Whoever can time
   * calls can tell whether a prefix was known, so keep apart those who must not know of each other.
   * Not beside `from`, as which the session does. @default true where the model has one
   */
  prefixCache?: boolean;
}

/** Options of {@link Model.tokenize}. */
export interface TokenizeOptions {
  /** Text such as `<|endoftext|>` becomes the control token. @default false */
  parseSpecial?: boolean;
  /** Put the tokenizer's own first tokens (BOS) in front. @default true */
  addSpecial?: boolean;
  /** Insert anchors after newlines, where the model has an inserted anchor. @default true */
  insertAnchors?: boolean;
  signal?: AbortSignal;
}

/** Options of {@link Session.append}. */
export interface AppendOptions {
  /** @default `'none'` */
  logits?: 'none' | 'last' | 'all';
  /** Control tokens in a text prompt. @default false */
  parseSpecial?: boolean;
  /** Called on the JavaScript thread while a long prompt is read, about ten times a second. */
  onProgress?: (progress: { done: number; total: number }) => void;
  signal?: AbortSignal;
}

/**
 * Options of {@link Session.generate}. What a call leaves out is
 * {@link ModelInfo.generationDefaults}, and what these leave out is the default named here.
 */
export interface GenerateOptions {
  /** Tokens to generate at most; anchors are not counted. @default what the context has left */
  maxTokens?: number;
  /** 0 is greedy. @default 0 */
  temperature?: number;
  /** Sample among the k most probable; 0 is off. @default 0 */
  topK?: number;
  /** Sample among the most probable that together reach p. @default 1 */
  topP?: number;
  /** Drop what is less probable than this share of the best. @default 0 */
  minP?: number;
  /** Divides (multiplies, if negative) the logits of ids seen before. @default 1 */
  repetitionPenalty?: number;
  /** Same seed, same position, same text: same choice. @default a random one */
  seed?: number | bigint;
  /** Texts that end the generation; they are not part of its text. */
  stop?: string | readonly string[];
  /** Ids that end the generation. @default the model's EOS ids */
  stopTokens?: readonly number[];
  /** Report log-probabilities, and this many alternatives when a number. @default false */
  logprobs?: boolean | number;
  /**
   * `forced`: the anchor follows every newline in the same step. `sampled`: the model emits it as
   * any other token (the authors' procedure, for parity). @default `'forced'`
   */
  anchors?: 'forced' | 'sampled';
  signal?: AbortSignal;
}

/** An id and the natural logarithm of its probability. */
export interface TokenLogprob {
  id: number;
  logprob: number;
}

/** One generated token. */
export interface Chunk {
  id: number;
  /** Text that became certain with this token: whole characters only, may be empty. */
  text: string;
  /** Natural logarithm of the model's probability (before temperature and filters). */
  logprob?: number;
  /** The same of the anchor that was forced after it. */
  anchorLogprob?: number;
  /** Alternatives, most probable first. */
  top?: TokenLogprob[];
  /** On the last chunk. `stop`: EOS or a stop string; `length`: `maxTokens` or the context. */
  finish?: 'stop' | 'length';
}

/** Options of {@link Model.complete}. */
export interface CompleteOptions extends GenerateOptions, SessionOptions {
  /**
   * The text behind the completion: fills in the middle, and the prompt, a text, is what is before
   * it. The ids that end a middle are then `stopTokens` by default.
   */
  suffix?: string;
  /** Called with every token, before the next one is taken. */
  onChunk?: (chunk: Chunk) => void;
}

/** What {@link Model.complete} gives. */
export interface Completion {
  text: string;
  ids: Uint32Array;
  finish: 'stop' | 'length';
  usage: Usage;
  stats: SessionStats;
}

/** Tokens and time of a completion. */
export interface Usage {
  /** Tokens of the prompt and of the completion, anchors not counted. */
  promptTokens: number;
  completionTokens: number;
  /** Anchors in both. */
  anchors: number;
  /** Tokens of the prompt, anchors counted, whose rows came from the prefix cache. */
  reusedTokens: number;
  /** Seconds until the prompt was read, and for the tokens after it. */
  prefillSeconds: number;
  decodeSeconds: number;
}

/** A loaded model. Any number of sessions may run at a time. */
export interface Model {
  readonly info: ModelInfo;
  /** @throws `ERR_NO_TOKENIZER`; the signal's reason */
  tokenize(text: string, options?: TokenizeOptions): Promise<Uint32Array>;
  /** Text of ids; anchors and control tokens are left out. @throws `ERR_NO_TOKENIZER` */
  detokenize(ids: ArrayLike<number>): string;
  /**
   * A chat as the folder's template writes it. Text of the messages never becomes a control token.
   * @throws `ERR_MODEL_UNSUPPORTED` where there is no template, `ERR_MODEL_INVALID` for one that is
   * broken or takes more than 1.5 seconds or 128 MiB, `ERR_INVALID_ARGUMENT` also for messages that
   * the template refuses, `ERR_NO_TOKENIZER`; the signal's reason
   */
  chat(messages: readonly ChatMessage[], options?: ChatOptions): Promise<ChatPrompt>;
  /**
   * A prompt for the text between a prefix and a suffix, in the marks that the model's vocabulary
   * has. The texts are never parsed for control tokens.
   * @throws `ERR_MODEL_UNSUPPORTED` where there are no marks, `ERR_CONTEXT_LENGTH`,
   * `ERR_NO_TOKENIZER`, `ERR_INVALID_ARGUMENT`; the signal's reason
   */
  fillInTheMiddle(
    text: FillInTheMiddleText,
    options?: FillInTheMiddleOptions,
  ): Promise<FillInTheMiddlePrompt>;
  /** An empty session. @throws `ERR_INVALID_ARGUMENT`, `ERR_NO_TOKENIZER`, `ERR_OUT_OF_MEMORY` */
  createSession(options?: SessionOptions): Session;
  /**
   * A session from a snapshot, or from the file of one: it goes on as the session would have that
   * was saved, to the bit on the same instruction set. The model must be the same, loaded with the
   * same compute mode and anchor settings. The prefix cache takes nothing from it: what its rows
   * hold, only who saved them knows.
   * @throws `ERR_SNAPSHOT_INVALID`, `ERR_FILE`, `ERR_OUT_OF_MEMORY`; the signal's reason
   */
  restore(snapshot: Uint8Array | string, options?: SnapshotOptions): Promise<Session>;
  /**
   * A session of its own for one prompt: reads it, generates, disposes. Throws what `append`,
   * `generate` and, with a `suffix`, `fillInTheMiddle` throw.
   */
  complete(prompt: string | ArrayLike<number>, options?: CompleteOptions): Promise<Completion>;
  /** What the model holds now. */
  memory(): ModelMemory;
  /** Aborts running calls and frees the memory, its sessions' too. Idempotent. */
  dispose(): void;
  /** The same, for `using`. */
  [Symbol.dispose](): void;
}

/**
 * A text with its cache. One call at a time: a second one throws `ERR_BUSY`. Rows leave the cache
 * as the policy says, during a long prompt already.
 */
export interface Session {
  /** Tokens of the text, pending ones included. */
  readonly position: number;
  readonly contextLength: number;
  readonly policy: CachePolicy;
  readonly cacheType: CacheType;
  /** (position) the text's ids, inserted anchors included. */
  ids(): Uint32Array;
  /**
   * Reads text or ids. Logits: `last` (vocabSize) of the last token, `all` (tokens, vocabSize).
   * After an abort the unread rest stays pending: the next call goes on with it, `truncate` drops
   * it.
   * @throws `ERR_INVALID_ARGUMENT`, `ERR_CONTEXT_LENGTH`, `ERR_BUSY`, `ERR_OUT_OF_MEMORY`
   */
  append(
    prompt: string | ArrayLike<number>,
    options?: AppendOptions,
  ): Promise<Float32Array | undefined>;
  /** Streams tokens. Leaving the loop early keeps exactly the tokens that were yielded. */
  generate(options?: GenerateOptions): AsyncIterableIterator<Chunk>;
  /** What the cache holds now, and what a full one would. May be asked at any time. */
  stats(): SessionStats;
  /** An independent session with the same text (up to `at`); rows are shared until they change. */
  fork(at?: number): Session;
  /**
   * The session as bytes for {@link Model.restore}: text, pending tokens, settings and the rows
   * that its policy keeps. It is the state at the time of the call; the session may go on at once.
   * @throws `ERR_BUSY`, `ERR_OUT_OF_MEMORY`; the signal's reason
   */
  snapshot(options?: SnapshotOptions): Promise<Uint8Array>;
  /**
   * The same into a file, piece by piece; gives its bytes. The file appears when it is complete: a
   * failure leaves what was there before. A link stays one, and a file keeps its mode.
   * @throws `ERR_FILE`, also for what is there and no regular file; the signal's reason
   */
  saveSnapshot(file: string, options?: SnapshotOptions): Promise<number>;
  /**
   * Drops the tokens from `position` on. Always possible to the end of a line (anchored layers)
   * and within what is still held. Under a `window` policy, going back as far as that allows may
   * ask for another token before `generate`. @throws `ERR_POSITION`
   */
  truncate(position: number): void;
  /** Aborts what runs and frees the memory. Idempotent. */
  dispose(): void;
  /** The same, for `using`. */
  [Symbol.dispose](): void;
}
