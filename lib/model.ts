/** A loaded model. */
import type {
  CachePolicy,
  ChatMessage,
  ChatOptions,
  ChatPrompt,
  CompleteOptions,
  Completion,
  FillInTheMiddleOptions,
  FillInTheMiddlePrompt,
  FillInTheMiddleText,
  Model,
  ModelInfo,
  ModelMemory,
  Session,
  SessionOptions,
  SnapshotOptions,
  TokenizeOptions,
} from '../types/api.js';
import type { NativeModel } from '../types/native.js';
import type { ModelAnchors } from './anchors.js';
import { writeChat } from './chat/chat.js';
import { Codec } from './codec.js';
import { AnchorError, fromNative, throwIfAborted } from './errors.js';
import { fillInTheMiddle } from './fill-in-the-middle.js';
import {
  checkFimText,
  checkIds,
  checkMessages,
  checkText,
  invalid,
  parseOptions,
} from './options.js';
import { describe, nativePolicy } from './policy.js';
import { SessionHandle, type SessionModel } from './session.js';
import {
  hashPolicy,
  readSnapshot,
  type SnapshotModel,
  SnapshotWriter,
} from './snapshot/snapshot.js';
import { withSource } from './snapshot/snapshot-files.js';
import type { Tokenizer } from './tokenizer/tokenizer.js';

export class ModelHandle implements Model {
  readonly info: ModelInfo;
  readonly #native: NativeModel;
  readonly #anchors: ModelAnchors;
  readonly #codec: Codec | undefined;
  readonly #shared: SessionModel;
  /** See lib/snapshot/identity.ts. */
  readonly #identity: string;
  /** Weak, so that a session that nobody holds can go. */
  readonly #sessions = new Map<WeakKey, WeakRef<SessionHandle>>();
  readonly #gone = new FinalizationRegistry<WeakKey>((key) => this.#sessions.delete(key));
  #disposed = false;

  constructor(native: NativeModel, info: ModelInfo, anchors: ModelAnchors, identity: string) {
    this.info = info;
    this.#native = native;
    this.#anchors = anchors;
    this.#identity = identity;
    this.#codec = anchors.tokenizer && new Codec(anchors.tokenizer, anchors);
    this.#shared = this.#forSessions();
  }

  /** What `compare` needs beside the public interface. @throws `ERR_INVALID_ARGUMENT` */
  static partsOf(model: unknown): { insertId: number; codec: Codec | undefined } {
    if (typeof model === 'object' && model !== null && #anchors in model) {
      return { insertId: model.#anchors.insertId, codec: model.#codec };
    }
    throw invalid('the model', 'one that this package has loaded', model);
  }

  async tokenize(text: string, options?: TokenizeOptions): Promise<Uint32Array> {
    this.#guard();
    const parsed = parseOptions.tokenize(options);
    const codec = this.#shared.requireCodec('"tokenize"');
    return codec.encode(checkText(text, 'the text'), {
      parseSpecial: parsed.parseSpecial ?? false,
      addSpecial: parsed.addSpecial ?? true,
      insertAnchors: parsed.insertAnchors ?? true,
      continued: false,
      signal: parsed.signal,
    });
  }

  detokenize(ids: ArrayLike<number>): string {
    this.#guard();
    const codec = this.#shared.requireCodec('"detokenize"');
    return codec.decode(checkIds(ids, this.info.vocabSize, 'list'));
  }

  async chat(messages: readonly ChatMessage[], options?: ChatOptions): Promise<ChatPrompt> {
    this.#guard();
    const parsed = parseOptions.chat(options);
    const checked = checkMessages(messages);
    const codec = this.#shared.requireCodec('"chat"');
    const tokenizer = this.#anchors.tokenizer as Tokenizer;
    return writeChat(checked, parsed, this.info.folder, tokenizer, codec);
  }

  async fillInTheMiddle(
    text: FillInTheMiddleText,
    options?: FillInTheMiddleOptions,
  ): Promise<FillInTheMiddlePrompt> {
    this.#guard();
    const parsed = parseOptions.fillInTheMiddle(options);
    const checked = checkFimText(text);
    const codec = this.#shared.requireCodec('"fillInTheMiddle"');
    return fillInTheMiddle(checked, parsed, codec, { ...this.info, anchors: this.#anchors });
  }

  createSession(options?: SessionOptions): Session {
    return this.#open(parseOptions.session(options));
  }

  async complete(
    prompt: string | ArrayLike<number>,
    options?: CompleteOptions,
  ): Promise<Completion> {
    const parsed = parseOptions.complete(options);
    const { contextLength, policy, cacheType, from, at, prefixCache, ...rest } = parsed;
    const { onChunk, suffix, ...generation } = rest;
    const { signal } = generation;
    const started = performance.now();
    using session = this.#open({ contextLength, policy, cacheType, from, at, prefixCache });
    const hole = suffix === undefined ? undefined : await this.#around(prompt, suffix, signal);
    if (hole) generation.stopTokens ??= [...hole.stopTokens];
    // Before the prompt is read, since reading may take long.
    const chunks = session.generate(generation);
    await session.append(hole?.ids ?? prompt, { signal });
    const promptIds = session.position;
    const { reusedTokens } = session.stats();
    const read = performance.now();
    const text: string[] = [];
    let finish: 'stop' | 'length' = 'length';
    for await (const chunk of chunks) {
      text.push(chunk.text);
      finish = chunk.finish ?? finish;
      onChunk?.(chunk);
    }
    const decoded = performance.now();
    const all = session.ids();
    const plain = (ids: Uint32Array) => this.#codec?.withoutAnchors(ids) ?? ids;
    const ids = plain(all.subarray(promptIds)).slice();
    const promptTokens = plain(all.subarray(0, promptIds)).length;
    const usage = {
      promptTokens,
      completionTokens: ids.length,
      anchors: all.length - promptTokens - ids.length,
      prefillSeconds: (read - started) / 1000,
      decodeSeconds: (decoded - read) / 1000,
      reusedTokens,
    };
    return { text: text.join(''), ids, finish, usage, stats: session.stats() };
  }

  async restore(snapshot: Uint8Array | string, options?: SnapshotOptions): Promise<Session> {
    this.#guard();
    const { signal } = parseOptions.snapshot(options);
    throwIfAborted(signal);
    const host = {
      model: this.#snapshotModel(),
      native: this.#native,
      nativePolicy: (policy: CachePolicy) => nativePolicy(policy, this.#anchors),
    };
    const { native, settings } = await withSource(snapshot, (source) =>
      readSnapshot(source, host, signal),
    );
    if (this.#disposed) native.dispose();
    this.#guard();
    return new SessionHandle(this.#shared, native, settings);
  }

  memory(): ModelMemory {
    this.#guard();
    const { weights, mapped, caches, sessions, ...prefixes } = this.#native.memory();
    const prefixCache = {
      bytes: prefixes.prefixBytes,
      prefixes: prefixes.prefixEntries,
      hits: prefixes.prefixHits,
      misses: prefixes.prefixMisses,
      reusedTokens: prefixes.reusedTokens,
    };
    return { mapped, weights, caches, sessions, prefixCache };
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const session of [...this.#sessions.values()]) session.deref()?.dispose();
    this.#native.dispose();
    this.#codec?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async #around(
    prompt: unknown,
    suffix: string,
    signal: AbortSignal | undefined,
  ): Promise<FillInTheMiddlePrompt> {
    const prefix = checkText(prompt, 'the prompt before a suffix');
    return this.fillInTheMiddle({ prefix, suffix }, { signal });
  }

  #guard(): void {
    if (this.#disposed) throw new AnchorError('ERR_DISPOSED', 'The model has been disposed');
  }

  #open(options: SessionOptions): SessionHandle {
    this.#guard();
    const { contextLength: longest, compute, defaultPolicy } = this.info;
    const { from, contextLength = longest, policy = defaultPolicy } = options;
    const { cacheType = compute === 'exact' ? 'f32' : 'bf16' } = options;
    if (contextLength > longest) {
      throw invalid('option "contextLength"', `an integer from 1 to ${longest}`, contextLength);
    }
    if (from) {
      const { from: _, ...others } = options;
      return SessionHandle.forkOf(from, this.#shared, others);
    }
    if (options.at !== undefined) {
      throw invalid('option "at"', 'given together with "from"', options.at);
    }
    const spec = {
      contextLength,
      cacheType,
      policy: nativePolicy(policy, this.#anchors),
      usesPrefixes: options.prefixCache ?? true,
    };
    const settings = { contextLength, cacheType, policy: describe(policy, this.#anchors) };
    try {
      return new SessionHandle(this.#shared, this.#native.createSession(spec), settings);
    } catch (error) {
      throw fromNative(error);
    }
  }

  #snapshotModel(): SnapshotModel {
    const { architecture, compute, layers, contextLength } = this.info;
    return { identity: this.#identity, architecture, compute, layers, contextLength };
  }

  #forSessions(): SessionModel {
    const { vocabSize, eosTokenIds, generationDefaults, folder } = this.info;
    const codec = this.#codec;
    const keys = new WeakMap<SessionHandle, WeakKey>();
    return {
      vocabSize,
      eosTokenIds,
      generationDefaults,
      codec,
      insertId: this.#anchors.insertId,
      adopt: (session) => {
        const key = {};
        keys.set(session, key);
        this.#sessions.set(key, new WeakRef(session));
        this.#gone.register(session, key, key);
      },
      forget: (session) => {
        const key = keys.get(session);
        if (key) this.#sessions.delete(key);
      },
      snapshotWriter: (native, settings) => {
        const hash = hashPolicy(nativePolicy(settings.policy, this.#anchors));
        return new SnapshotWriter(native, this.#snapshotModel(), settings, hash);
      },
      requireCodec: (what) => {
        if (codec) return codec;
        const message = `${what} needs a tokenizer, but "${folder}" has no tokenizer.json`;
        throw new AnchorError('ERR_NO_TOKENIZER', message);
      },
    };
  }
}
