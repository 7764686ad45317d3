/** Text to ids and back. Encoding runs in one worker thread that all models share. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { AnchorError, unlessAborted } from '../errors.js';
import { sizeOf } from '../files.js';
import { WorkerClient, WorkerLost } from '../worker-client.js';
import type { NewlineIds } from './tokenizer-bytes.js';
import type { ChatSettings } from './tokenizer-encode.js';
import { OTHER_VOCABULARIES } from './tokenizer-files.js';
import type { ChatFiles, Opened, Request } from './tokenizer-worker.js';

type Client = WorkerClient<Request>;

export interface EncodeOptions {
  /** Text such as `<|endoftext|>` becomes the control token. @default false */
  parseSpecial?: boolean;
  /** Put the tokenizer's own first ids (BOS) in front. @default true */
  addSpecial?: boolean;
  /**
   * The text goes on from earlier text: tokenizers that put a blank in front of a text (the
   * SentencePiece family) don't. @default false
   */
  continued?: boolean;
  signal?: AbortSignal | undefined;
}

export interface AnchorEncodeOptions extends EncodeOptions {
  /** Inserted after every newline, unless the text brings it itself. */
  anchorId: number;
  /** `tab4`: every four blanks in a row become a tab before encoding. @default 'none' */
  indent?: 'none' | 'tab4';
}

/** An opened tokenizer. What is not a promise takes microseconds and needs no worker. */
export interface Tokenizer {
  /** @throws `ERR_INVALID_ARGUMENT`, `ERR_OUT_OF_MEMORY`, `ERR_DISPOSED`; the signal's reason */
  encode(text: string, options?: EncodeOptions): Promise<Uint32Array>;
  /** As `encode`, with the anchor after every newline (a lone carriage return is none). */
  encodeWithAnchors(text: string, options: AnchorEncodeOptions): Promise<Uint32Array>;
  /** A rendered chat: what looks like a control token is one, unless it bears the mark. */
  encodeChat(text: string, settings: ChatSettings, signal?: AbortSignal): Promise<Uint32Array>;
  /** Templates, and the names of special tokens. */
  chatFiles(): ChatFiles;
  /** Texts of tokens beside the vocabulary: control tokens, and those that are text. */
  addedTexts(): { control: string[]; words: string[] };
  /** What an id adds to the text: a view, not to be written to. Empty for control tokens. */
  tokenBytes(id: number): Uint8Array;
  /** Whether an id is a control token, which is no part of the text. */
  isControl(id: number): boolean;
  /** Id of a control or added token, or of a text that is one token. */
  idOf(text: string): number | undefined;
  /** Id of a control or added token; unlike `idOf` it looks at nothing else. */
  addedIdOf(text: string): number | undefined;
  newlines(): NewlineIds;
  /** Text of ids anywhere in a text; control tokens are left out. */
  decode(ids: ArrayLike<number>): string;
  /** Text of ids from a text's beginning: without the blank that encoding put in front. */
  detokenize(ids: ArrayLike<number>): string;
  /** Frees the memory in the worker. Calls that wait for an answer still get it. Idempotent. */
  dispose(): void;
}

/** Longest text in UTF-16 units: the time of any text stays bounded, seconds at this length. */
export const LONGEST_TEXT = 2 ** 24;

/** Milliseconds that opening a tokenizer and encoding a text may take, the latter by its length. */
const OPENING_TIME = 30_000;
const ENCODING_TIME = 10_000;
const TIME_OF_A_UNIT = 0.02;
/** Requests that another's endless one cut short are asked again, this often at most. */
const ATTEMPTS = 4;

const shared: Client = new WorkerClient(
  new URL('./tokenizer-worker.js', import.meta.url),
  'tokenizer',
);
let numbers = 0;

function seconds(milliseconds: number): string {
  return `more than ${Math.ceil(milliseconds / 100) / 10} seconds`;
}

async function unlessLost<T>(call: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; ++attempt) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof WorkerLost) || attempt === ATTEMPTS) throw error;
    }
  }
}

/** The worker's side of a tokenizer; opened again in a new worker when the old one died. */
class Remote {
  private readonly number = ++numbers;
  private generation = 0;
  private opening: Promise<Opened> | undefined;
  private isReady = false;
  private disposed = false;

  constructor(
    private readonly client: Client,
    private readonly folder: string,
    private readonly vocabSize: number,
    private readonly patience: number,
  ) {
    client.retain();
  }

  open(): Promise<Opened> {
    if (this.opening && this.isCurrent) return this.opening;
    const { number: tokenizer, folder, vocabSize, patience } = this;
    const milliseconds = OPENING_TIME * patience;
    const time = seconds(milliseconds);
    const sentence = `Opening the tokenizer in ${folder} took ${time}, so it was ended`;
    const request = { kind: 'open' as const, tokenizer, folder, vocabSize };
    const opening = this.client.ask<Opened>(request, { patience: { milliseconds, sentence } });
    this.opening = opening;
    this.generation = this.client.generation;
    this.isReady = false;
    opening.then(
      () => {
        if (this.opening === opening) this.isReady = true;
      },
      () => {
        // What failed once, such as for want of files, is tried again.
        if (this.opening === opening) this.opening = undefined;
      },
    );
    return opening;
  }

  /** Whether the present worker was asked to open it, and has not failed. */
  private get isCurrent(): boolean {
    return this.opening !== undefined && this.generation === this.client.generation;
  }

  /** `length` is that of the text, in UTF-16 units. */
  ask(
    ofNumber: (tokenizer: number) => Request,
    length: number,
    signal: AbortSignal | undefined,
  ): Promise<Uint32Array> {
    const milliseconds = (ENCODING_TIME + length * TIME_OF_A_UNIT) * this.patience;
    const sentence =
      `Encoding a text of ${length} characters took the tokenizer in ${this.folder} ` +
      `${seconds(milliseconds)}, so it was ended; its patterns may need time without bound`;
    return unlessLost(async () => {
      if (this.disposed) throw new AnchorError('ERR_DISPOSED', 'The model has been disposed');
      // Without a pause, so that a `dispose` right behind comes behind in the worker too.
      if (!this.isCurrent || !this.isReady) await unlessAborted(signal, () => this.open());
      const request = ofNumber(this.number);
      return this.client.ask<Uint32Array>(request, {
        patience: { milliseconds, sentence },
        signal,
      });
    });
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    if (this.isCurrent) {
      // A worker that ends before has forgotten the tokenizer too.
      const request = { kind: 'close' as const, tokenizer: this.number };
      this.client.ask(request, { isWanted: false }).catch(() => {});
    }
    this.client.release();
  }
}

class OpenTokenizer implements Tokenizer {
  private readonly added: ReadonlyMap<string, number>;

  constructor(
    private readonly remote: Remote,
    private readonly opened: Opened,
  ) {
    this.added = new Map(opened.added);
  }

  async encode(text: string, options: EncodeOptions = {}): Promise<Uint32Array> {
    const settings = settingsOf(text, options);
    return this.remote.ask(
      (tokenizer) => ({ kind: 'encode', tokenizer, text, settings }),
      text.length,
      options.signal,
    );
  }

  async encodeWithAnchors(text: string, options: AnchorEncodeOptions): Promise<Uint32Array> {
    const { anchorId, indent = 'none' } = options;
    const settings = { ...settingsOf(text, options), anchorId, indent };
    return this.remote.ask(
      (tokenizer) => ({ kind: 'anchors', tokenizer, text, settings }),
      text.length,
      options.signal,
    );
  }

  async encodeChat(
    text: string,
    settings: ChatSettings,
    signal?: AbortSignal,
  ): Promise<Uint32Array> {
    return this.remote.ask(
      (tokenizer) => ({ kind: 'chat', tokenizer, text, settings }),
      text.length,
      signal,
    );
  }

  chatFiles(): ChatFiles {
    return this.opened.chat;
  }

  addedTexts(): { control: string[]; words: string[] } {
    const { added } = this.opened;
    const texts = (control: boolean) =>
      added.filter(([, id]) => this.isControl(id) === control).map(([content]) => content);
    return { control: texts(true), words: texts(false) };
  }

  tokenBytes(id: number): Uint8Array {
    const { bytes, offsets } = this.opened.table;
    const end = offsets[id + 1];
    if (end !== undefined) return bytes.subarray(offsets[id], end);
    const last = offsets.length - 2;
    throw new AnchorError('ERR_INVALID_ARGUMENT', `There is no id ${id}; ids go from 0 to ${last}`);
  }

  isControl(id: number): boolean {
    return this.opened.table.control[id] === 1;
  }

  idOf(text: string): number | undefined {
    const id = this.added.get(text);
    if (id !== undefined || text === '') return id;
    const wanted = Buffer.from(text);
    const { bytes, offsets } = this.opened.table;
    // From the end: where bytes have ids of their own, those come before the letters'.
    for (let id = offsets.length - 2; id >= 0; id--) {
      const [start, end] = [offsets[id] as number, offsets[id + 1] as number];
      if (end - start === wanted.length && wanted.equals(bytes.subarray(start, end))) return id;
    }
    return undefined;
  }

  addedIdOf(text: string): number | undefined {
    return this.added.get(text);
  }

  newlines(): NewlineIds {
    return this.opened.newlines;
  }

  decode(ids: ArrayLike<number>): string {
    let length = 0;
    for (let i = 0; i < ids.length; i++) length += this.tokenBytes(ids[i] as number).length;
    const bytes = new Uint8Array(length);
    let at = 0;
    for (let i = 0; i < ids.length; i++) {
      const own = this.tokenBytes(ids[i] as number);
      bytes.set(own, at);
      at += own.length;
    }
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  }

  detokenize(ids: ArrayLike<number>): string {
    const text = this.decode(ids);
    return this.opened.stripsFirstBlank && text.startsWith(' ') ? text.slice(1) : text;
  }

  dispose(): void {
    this.remote.dispose();
  }
}

function settingsOf(text: string, options: EncodeOptions) {
  if (text.length > LONGEST_TEXT) {
    throw new AnchorError(
      'ERR_INVALID_ARGUMENT',
      `The text has ${text.length} characters; at most ${LONGEST_TEXT} are encoded at once`,
    );
  }
  const { parseSpecial = false, addSpecial = true, continued = false } = options;
  return { parseSpecial, addSpecial, continued };
}

/**
 * Opens the tokenizer of a model folder. `client`, and a factor on the time that requests may take,
 * are for tests.
 * @returns `undefined` where the folder has no tokenizer files
 * @throws `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED`
 */
export async function openTokenizer(
  folder: string,
  vocabSize: number,
  client: Client = shared,
  patience = 1,
): Promise<Tokenizer | undefined> {
  if ((await sizeOf(join(folder, 'tokenizer.json'))) === undefined) {
    const others = OTHER_VOCABULARIES.filter((name) => existsSync(join(folder, name)));
    if (others.length === 0) return undefined;
    throw new AnchorError(
      'ERR_MODEL_UNSUPPORTED',
      `${folder} has ${others.join(', ')} but no tokenizer.json, which is needed. ` +
        "Python's AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes it",
    );
  }
  const remote = new Remote(client, folder, vocabSize, patience);
  try {
    return new OpenTokenizer(remote, await unlessLost(() => remote.open()));
  } catch (error) {
    remote.dispose();
    throw error;
  }
}
