/** A text with its cache. */
import type {
  AppendOptions,
  CachePolicy,
  CacheType,
  Chunk,
  GenerateOptions,
  GenerationDefaults,
  Session,
  SessionOptions,
  SessionStats,
  SnapshotOptions,
} from '../types/api.js';
import type { NativeGenerateSpec, NativeSession, NativeSnapshot } from '../types/native.js';
import type { Codec } from './codec.js';
import { AnchorError, abortReason, codeOf, fromNative, throwIfAborted } from './errors.js';
import { type GenerateHost, generateTokens } from './generate.js';
import { checkIds, invalid, type Parsed, parseOptions } from './options.js';
import type { SnapshotWriter } from './snapshot/snapshot.js';
import { checkFile, writeToFile, writeToMemory } from './snapshot/snapshot-files.js';
import { sessionStats } from './stats.js';
import { defined, expected } from './validate.js';

const progressMilliseconds = 100;

/** What a session needs of its model. */
export interface SessionModel {
  readonly vocabSize: number;
  readonly eosTokenIds: readonly number[];
  readonly generationDefaults: GenerationDefaults;
  /** Undefined where the folder has no tokenizer. */
  readonly codec: Codec | undefined;
  /** Id of the inserted anchor, -1: none. */
  readonly insertId: number;
  /** Sessions that `Model.dispose` disposes. */
  adopt(session: SessionHandle): void;
  forget(session: SessionHandle): void;
  snapshotWriter(native: NativeSnapshot, settings: SessionSettings): SnapshotWriter;
  /** @throws `ERR_NO_TOKENIZER` */
  requireCodec(what: string): Codec;
}

export interface SessionSettings {
  readonly contextLength: number;
  readonly policy: CachePolicy;
  readonly cacheType: CacheType;
}

export class SessionHandle implements Session {
  readonly contextLength: number;
  readonly policy: CachePolicy;
  readonly cacheType: CacheType;
  #position: number;
  /** Name of the call that runs. */
  #call: string | undefined;
  #disposed = false;
  readonly #native: NativeSession;
  readonly #model: SessionModel;

  constructor(model: SessionModel, native: NativeSession, settings: SessionSettings) {
    this.contextLength = settings.contextLength;
    this.policy = settings.policy;
    this.cacheType = settings.cacheType;
    this.#model = model;
    this.#native = native;
    this.#position = native.stats().position;
    model.adopt(this);
  }

  /** Begins with the tokens of `from`, which has to be a session of the same model. */
  static forkOf(
    from: Session,
    model: SessionModel,
    { at, contextLength, ...others }: Omit<SessionOptions, 'from'>,
  ): SessionHandle {
    if (!(#model in from) || from.#model !== model) {
      throw invalid('option "from"', 'a session of this model', from);
    }
    for (const [name, value] of Object.entries(others)) {
      const instead = 'left out, since the session has that of "from"';
      if (value !== undefined) throw invalid(`option "${name}"`, instead, value);
    }
    return from.#fork(at ?? from.position, contextLength ?? from.contextLength);
  }

  get position(): number {
    return this.#position;
  }

  ids(): Uint32Array {
    return this.#now('ids', () => this.#native.ids());
  }

  async append(
    prompt: string | ArrayLike<number>,
    options?: AppendOptions,
  ): Promise<Float32Array | undefined> {
    const parsed = parseOptions.append(options);
    const { signal, logits = 'none' } = parsed;
    const release = this.#claim('append');
    try {
      throwIfAborted(signal);
      const ids = await this.#idsOf(prompt, parsed);
      this.#guard(signal);
      this.#admit(ids.length);
      this.#requireWork(ids, logits);
      return await this.#read(ids, logits, parsed);
    } finally {
      release();
    }
  }

  generate(options?: GenerateOptions): AsyncIterableIterator<Chunk> {
    const parsed = parseOptions.generate(options);
    const { stop = [], signal, logprobs, stopTokens } = parsed;
    const stops = typeof stop === 'string' ? [stop] : stop;
    const { vocabSize } = this.#model;
    if (stops.length > 0) this.#model.requireCodec('The option "stop"');
    if (stopTokens) checkIds(stopTokens, vocabSize, 'option "stopTokens"');
    if (typeof logprobs === 'number' && logprobs > vocabSize) {
      throw invalid('option "logprobs"', `a number up to ${vocabSize}, the vocabulary`, logprobs);
    }
    const host = this.#host();
    return generateTokens(host, { spec: () => this.#generateSpec(parsed), stops, signal });
  }

  stats(): SessionStats {
    this.#guard(undefined);
    return sessionStats(this.#native.stats());
  }

  fork(at: number = this.#position): Session {
    return this.#fork(at, this.contextLength);
  }

  async snapshot(options?: SnapshotOptions): Promise<Uint8Array> {
    const { signal } = parseOptions.snapshot(options);
    throwIfAborted(signal);
    return this.#withSnapshot((writer) => writeToMemory(writer, signal));
  }

  async saveSnapshot(file: string, options?: SnapshotOptions): Promise<number> {
    const path = checkFile(file, 'the file', 'a path');
    const { signal } = parseOptions.snapshot(options);
    throwIfAborted(signal);
    return this.#withSnapshot(async (writer) => {
      await writeToFile(writer, path, signal);
      return writer.size;
    });
  }

  truncate(position: number): void {
    this.#now('truncate', () => this.#native.truncate(this.#checkPosition(position)));
    this.#position = position;
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#native.abort();
    this.#native.dispose();
    this.#model.forget(this);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #fork(at: number, contextLength: number): SessionHandle {
    const native = this.#now('fork', () =>
      this.#native.fork(this.#checkPosition(at), contextLength),
    );
    const { policy, cacheType } = this;
    return new SessionHandle(this.#model, native, { contextLength, policy, cacheType });
  }

  /** Takes the state at once; the session may go on while it is written. */
  async #withSnapshot<T>(write: (writer: SnapshotWriter) => Promise<T>): Promise<T> {
    const native = this.#now('snapshot', () => this.#native.snapshot());
    try {
      return await write(this.#model.snapshotWriter(native, this));
    } finally {
      native.dispose();
    }
  }

  #checkPosition(position: unknown): number {
    if (typeof position !== 'number' || !Number.isInteger(position)) {
      throw invalid('the position', 'an integer', position);
    }
    if (position >= 0 && position <= this.#position) return position;
    const range = `from 0 to ${this.#position}, the length of the text`;
    throw new AnchorError('ERR_POSITION', expected('the position', range, position));
  }

  /** A call that ends before anything else can run. */
  #now<T>(name: string, call: () => T): T {
    const release = this.#claim(name);
    try {
      return call();
    } catch (error) {
      throw fromNative(error);
    } finally {
      release();
    }
  }

  #claim(name: string): () => void {
    this.#guard(undefined);
    if (this.#call !== undefined) {
      const message = `The session is busy with "${this.#call}" and cannot begin "${name}"`;
      throw new AnchorError('ERR_BUSY', `${message}; wait for it, or use a fork`);
    }
    this.#call = name;
    let released = false;
    return () => {
      if (!released) this.#call = undefined;
      released = true;
    };
  }

  #guard(signal: AbortSignal | undefined): void {
    if (this.#disposed) throw this.#disposedError();
    throwIfAborted(signal);
  }

  #disposedError(): AnchorError {
    return new AnchorError('ERR_DISPOSED', 'The session, or its model, has been disposed');
  }

  async #run<T>(signal: AbortSignal | undefined, call: () => Promise<T>): Promise<T> {
    this.#guard(signal);
    const abort = () => this.#native.abort();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      return await call();
    } catch (error) {
      if (this.#disposed) throw this.#disposedError();
      if (signal?.aborted && codeOf(error) === 'ERR_ABORTED') throw abortReason(signal);
      throw fromNative(error);
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  async #idsOf(
    prompt: string | ArrayLike<number>,
    { parseSpecial = false, signal }: Parsed<'append'>,
  ): Promise<Uint32Array> {
    if (typeof prompt !== 'string') {
      const admit = (count: number) => this.#admit(count);
      return checkIds(prompt, this.#model.vocabSize, 'prompt', admit);
    }
    const isFirst = this.#position === 0;
    const codec = this.#model.requireCodec('A text prompt');
    return codec.encode(prompt, {
      parseSpecial,
      addSpecial: isFirst,
      continued: !isFirst,
      insertAnchors: true,
      signal,
    });
  }

  #admit(count: number): void {
    const total = this.#position + count;
    if (total <= this.contextLength) return;
    const message =
      `The session holds ${this.#position} tokens and ${count} more were given: ${total}, but ` +
      `its context is ${this.contextLength}`;
    throw new AnchorError('ERR_CONTEXT_LENGTH', message);
  }

  // An empty prompt runs what is pending, or asks for the last token's logits again.
  #requireWork(ids: Uint32Array, logits: 'none' | 'last' | 'all'): void {
    if (ids.length > 0) return;
    const { position, cached } = this.#native.stats();
    if (position > cached || (position > 0 && logits === 'last')) return;
    const reason = position > 0 ? 'nothing is pending in the session' : 'the session is empty';
    const message = `Expected the prompt to have at least one token, since ${reason}`;
    throw new AnchorError('ERR_INVALID_ARGUMENT', message);
  }

  async #read(
    ids: Uint32Array,
    logits: 'none' | 'last' | 'all',
    { signal, onProgress }: Parsed<'append'>,
  ): Promise<Float32Array | undefined> {
    const start = this.#native.cached;
    const total = this.#position + ids.length - start;
    let failure: { error: unknown } | undefined;
    const report = () => {
      try {
        onProgress?.({ done: this.#native.cached - start, total });
      } catch (error) {
        // Thrown from a timer it would end the process.
        failure = { error };
        clearInterval(timer);
        this.#native.abort();
      }
    };
    const timer = setInterval(report, progressMilliseconds);
    timer.unref();
    if (!onProgress) clearInterval(timer);
    try {
      const rows = await this.#run(signal, () => this.#native.append(ids, logits));
      onProgress?.({ done: total, total });
      return rows;
    } catch (error) {
      throw failure ? failure.error : error;
    } finally {
      clearInterval(timer);
      if (!this.#disposed) this.#position = this.#native.stats().position;
    }
  }

  #host(): GenerateHost {
    const session = this;
    return {
      native: this.#native,
      codec: this.#model.codec,
      get position() {
        return session.#position;
      },
      set position(value) {
        session.#position = value;
      },
      get disposed() {
        return session.#disposed;
      },
      begin: () => this.#beginGenerate(),
      guard: (signal) => this.#guard(signal),
      run: (signal, call) => this.#run(signal, call),
    };
  }

  #beginGenerate(): () => void {
    const release = this.#claim('generate');
    const { contextLength } = this;
    let error: AnchorError | undefined;
    if (this.#position === 0) {
      const message = 'The session is empty: append a prompt before generating';
      error = new AnchorError('ERR_INVALID_ARGUMENT', message);
    } else if (this.#position >= contextLength) {
      const message =
        `The session holds ${this.#position} tokens and its context is ${contextLength}: ` +
        'nothing can be generated';
      error = new AnchorError('ERR_CONTEXT_LENGTH', message);
    }
    if (!error) return release;
    release();
    throw error;
  }

  #generateSpec(given: Parsed<'generate'>): NativeGenerateSpec {
    const options = { ...this.#model.generationDefaults, ...defined(given) };
    const { logprobs = false } = options;
    const left = this.contextLength - this.#position;
    return {
      maxTokens: Math.min(options.maxTokens ?? left, left),
      temperature: options.temperature ?? 0,
      topK: options.topK ?? 0,
      topP: options.topP ?? 1,
      minP: options.minP ?? 0,
      repetitionPenalty: options.repetitionPenalty ?? 1,
      seed: BigInt(options.seed ?? randomSeed()),
      eosIds: Uint32Array.from(options.stopTokens ?? this.#model.eosTokenIds),
      ...this.#forced(options.anchors),
      logprobs: logprobs !== false,
      topLogprobs: typeof logprobs === 'number' ? logprobs : 0,
    };
  }

  #forced(mode: 'forced' | 'sampled' | undefined) {
    const { codec, insertId, requireCodec } = this.#model;
    if (mode === 'forced' && insertId >= 0) requireCodec('Forcing anchors');
    const off = { forcedAnchor: -1, newlineIds: new Uint32Array(), bannedIds: new Uint32Array() };
    return mode === 'sampled' ? off : (codec?.forced() ?? off);
  }
}

function randomSeed(): bigint {
  const [seed = 0n] = crypto.getRandomValues(new BigUint64Array(1));
  return seed;
}
