// A scripted engine and a tokenizer of a few words, for what lib/ does around them.
import { resolveAnchors } from '../../lib/anchors.js';
import { Codec } from '../../lib/codec.js';
import { SessionHandle, type SessionModel } from '../../lib/session.js';
import { SnapshotWriter } from '../../lib/snapshot/snapshot.js';
import type { Tokenizer } from '../../lib/tokenizer/tokenizer.js';
import type { GenerationDefaults } from '../../types/api.js';
import type {
  LogitsWanted,
  NativeBatch,
  NativeGenerateSpec,
  NativeSession,
  NativeSnapshot,
  NativeStats,
} from '../../types/native.js';

export function nativeError(code: string): Error {
  return Object.assign(new Error(`native ${code}`), { code });
}

/** Ids are places in `words`; a word in angle brackets is a control token. */
export class FakeTokenizer implements Tokenizer {
  calls: unknown[] = [];
  disposed = false;
  private readonly bytes: Uint8Array[];

  constructor(readonly words: readonly (string | Uint8Array)[]) {
    this.bytes = words.map((word, id) => {
      if (typeof word !== 'string') return word;
      return this.isControl(id) ? new Uint8Array() : new TextEncoder().encode(word);
    });
  }

  isControl(id: number): boolean {
    const word = this.words[id];
    return typeof word === 'string' && /^<.+>$/.test(word);
  }

  tokenBytes(id: number): Uint8Array {
    return this.bytes[id] as Uint8Array;
  }

  idOf(text: string): number | undefined {
    const id = this.words.indexOf(text);
    return id < 0 ? undefined : id;
  }

  addedIdOf(text: string): number | undefined {
    const id = this.idOf(text);
    return id !== undefined && this.isControl(id) ? id : undefined;
  }

  // Greedy: the longest word that the text goes on with.
  async encode(text: string, options: { addSpecial?: boolean } = {}): Promise<Uint32Array> {
    this.calls.push(options);
    const ids = options.addSpecial ? [0] : [];
    for (let rest = text; rest !== ''; ) {
      const fits = this.words.filter((word) => typeof word === 'string' && rest.startsWith(word));
      const word = (fits as string[]).sort((a, b) => b.length - a.length)[0];
      if (word === undefined) throw new Error(`no word for ${rest}`);
      ids.push(this.words.indexOf(word));
      rest = rest.slice(word.length);
    }
    return Uint32Array.from(ids);
  }

  async encodeWithAnchors(
    text: string,
    options: { addSpecial?: boolean; anchorId: number; indent?: string },
  ): Promise<Uint32Array> {
    const tabbed = options.indent === 'tab4' ? text.replaceAll('    ', '\t') : text;
    const ids = [...(await this.encode(tabbed, options))];
    const isNewline = (id: number) => this.tokenBytes(id).includes(10);
    return Uint32Array.from(ids.flatMap((id) => (isNewline(id) ? [id, options.anchorId] : [id])));
  }

  newlines() {
    const all = this.bytes.map((_, id) => id).filter((id) => this.bytes[id]?.includes(10));
    const isEnd = (id: number) => this.bytes[id]?.indexOf(10) === (this.bytes[id]?.length ?? 0) - 1;
    return {
      containing: Uint32Array.from(all),
      ending: Uint32Array.from(all.filter(isEnd)),
      unusable: Uint32Array.from(all.filter((id) => !isEnd(id))),
    };
  }

  decode(ids: ArrayLike<number>): string {
    const bytes = Array.from(ids).flatMap((id) => [...this.tokenBytes(id)]);
    return new TextDecoder().decode(Uint8Array.from(bytes));
  }

  detokenize(ids: ArrayLike<number>): string {
    return this.decode(ids);
  }

  encodeChat(text: string): Promise<Uint32Array> {
    return this.encode(text);
  }

  chatFiles() {
    return { templates: new Map<string, string>(), specials: {} };
  }

  addedTexts() {
    const [control, words]: [string[], string[]] = [[], []];
    return { control, words };
  }

  dispose(): void {
    this.disposed = true;
  }
}

/** Plays a script of ids in batches, and refuses what the real engine could not do either. */
export class FakeSession implements NativeSession {
  text: number[] = [];
  cached = 0;
  script: number[] = [];
  batchSize = 1;
  finish: '' | 'stop' | 'length' = 'length';
  spec: NativeGenerateSpec | undefined;
  committed = 0;
  commits: number[] = [];
  ended: number[] = [];
  aborts = 0;
  /** Id that is counted as inserted. */
  insertId = -1;
  disposed = false;
  appended: { ids: number[]; logits: LogitsWanted }[] = [];
  /** Set to make the next calls wait until `abort` or `go`. */
  waits = false;
  private running: { resolve: () => void; reject: (error: Error) => void } | undefined;
  private generating = false;

  private pause(): Promise<void> {
    if (this.disposed) return Promise.reject(nativeError('ERR_DISPOSED'));
    if (!this.waits) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.running = { resolve, reject };
    });
  }

  go(): void {
    this.running?.resolve();
    this.running = undefined;
  }

  abort(): void {
    ++this.aborts;
    this.running?.reject(nativeError('ERR_ABORTED'));
    this.running = undefined;
  }

  async append(ids: Uint32Array, logits: LogitsWanted): Promise<Float32Array | undefined> {
    this.appended.push({ ids: [...ids], logits });
    this.text.push(...ids);
    await this.pause();
    this.cached = this.text.length;
    return logits === 'none' ? undefined : Float32Array.of(1, 2);
  }

  startGenerate(spec: NativeGenerateSpec): void {
    if (this.generating) throw nativeError('ERR_BUSY');
    this.generating = true;
    this.spec = spec;
    this.committed = this.text.length;
  }

  async read(commit: number): Promise<NativeBatch> {
    this.commits.push(commit);
    this.committed = Math.max(this.committed, commit);
    await this.pause();
    const { spec } = this;
    if (!spec || !this.generating) throw nativeError('ERR_BUSY');
    const ids = this.script.splice(0, this.batchSize);
    const finish = this.script.length === 0 ? this.finish : '';
    const ends = ids.map((id, i) => {
      if (finish === 'stop' && i === ids.length - 1) return this.text.length;
      this.text.push(id);
      if (spec.newlineIds.includes(id)) this.text.push(spec.forcedAnchor);
      return this.text.length;
    });
    const numbers = spec.logprobs ? ids.map((id) => -id) : [];
    const anchors = ids.map((id) => (spec.newlineIds.includes(id) ? -0.5 : Number.NaN));
    const top = ids.flatMap((id) => Array.from({ length: spec.topLogprobs }, (_, i) => id + i));
    return {
      ids: Uint32Array.from(ids),
      ends: Uint32Array.from(ends),
      logprobs: Float32Array.from(numbers),
      anchorLogprobs: Float32Array.from(spec.logprobs ? anchors : []),
      topIds: Uint32Array.from(top),
      topLogprobs: Float32Array.from(top.map((id) => -id)),
      finish,
    };
  }

  async endGenerate(position: number): Promise<void> {
    if (!this.generating) throw nativeError('ERR_INVALID_ARGUMENT');
    this.generating = false;
    this.ended.push(position);
    this.truncate(position);
  }

  truncate(position: number): void {
    if (position < this.committed || position > this.text.length) throw nativeError('ERR_POSITION');
    this.text.length = position;
    this.cached = Math.min(this.cached, position);
  }

  fork(position: number): NativeSession {
    const copy = new FakeSession();
    copy.text = this.text.slice(0, position);
    copy.cached = Math.min(this.cached, position);
    return copy;
  }

  snapshot(): NativeSnapshot {
    const ids = this.ids();
    const state = { cached: this.cached, released: Uint32Array.of(0, 0), saved: new Uint32Array() };
    return { ids, ...state, rowBytes: 0, read: () => 0, dispose: () => {} };
  }

  ids(): Uint32Array {
    return Uint32Array.from(this.text);
  }

  stats(): NativeStats {
    if (this.disposed) throw nativeError('ERR_DISPOSED');
    return {
      position: this.text.length,
      cached: this.cached,
      anchors: 0,
      insertedAnchors: this.text.slice(0, this.cached).filter((id) => id === this.insertId).length,
      rows: Uint32Array.of(this.cached, 2),
      mirrorRows: 2,
      bytes: 4096,
      rowBytes: 16,
      reused: 0,
    };
  }

  dispose(): void {
    this.disposed = true;
    this.running?.reject(nativeError('ERR_DISPOSED'));
    this.running = undefined;
  }
}

const snapshotModel = {
  identity: '',
  architecture: '',
  compute: 'exact',
  layers: 2,
  contextLength: 512,
} as const;

export interface FakeModel {
  tokenizer: FakeTokenizer | undefined;
  model: SessionModel;
  native: FakeSession;
  session: SessionHandle;
}

/** A session on a scripted engine, whose text begins with the given ids. */
export function fakeSession(
  words: readonly (string | Uint8Array)[] | undefined,
  {
    text = [0],
    defaults = {},
    insert,
    indent,
    contextLength = 100,
    vocabSize = words?.length ?? 10,
  } = {} as {
    text?: number[];
    defaults?: GenerationDefaults;
    insert?: number;
    indent?: 'none' | 'tab4';
    contextLength?: number;
    vocabSize?: number;
  },
): FakeModel {
  const tokenizer = words && new FakeTokenizer(words);
  const options = { tokens: [0], insert: insert ?? null, ...(indent ? { indent } : {}) };
  const anchors = resolveAnchors({}, options, { layers: 2, vocabSize }, 0, tokenizer);
  const codec = tokenizer && new Codec(tokenizer, anchors);
  const model: SessionModel = {
    vocabSize,
    eosTokenIds: [0],
    generationDefaults: defaults,
    codec,
    insertId: anchors.insertId,
    adopt: () => {},
    forget: () => {},
    snapshotWriter: (snapshot, settings) =>
      new SnapshotWriter(snapshot, snapshotModel, settings, ''),
    requireCodec: (what) => {
      if (codec) return codec;
      throw Object.assign(new Error(`${what} needs a tokenizer`), { code: 'ERR_NO_TOKENIZER' });
    },
  };
  const native = new FakeSession();
  native.text = [...text];
  native.cached = text.length;
  native.insertId = anchors.insertId;
  const settings = { contextLength, policy: { kind: 'full' }, cacheType: 'f32' } as const;
  return { tokenizer, model, native, session: new SessionHandle(model, native, settings) };
}
