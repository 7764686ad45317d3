/** Text in and out of a model: its tokenizer, with anchors inserted and taken out again. */
import type { ModelAnchors } from './anchors.js';
import type { Tokenizer } from './tokenizer/tokenizer.js';

export interface CodecOptions {
  parseSpecial: boolean;
  /** The text begins a session: BOS goes in front. */
  addSpecial: boolean;
  insertAnchors: boolean;
  /** The text goes on from earlier text. */
  continued: boolean;
  signal: AbortSignal | undefined;
}

/** What forcing anchors needs to know about the vocabulary. */
export interface ForcedAnchors {
  forcedAnchor: number;
  newlineIds: Uint32Array;
  bannedIds: Uint32Array;
}

export class Codec {
  readonly insertId: number;
  private readonly tabs: boolean;

  constructor(
    private readonly tokenizer: Tokenizer,
    anchors: ModelAnchors,
  ) {
    this.insertId = anchors.insertId;
    this.tabs = anchors.indent === 'tab4';
  }

  encode(text: string, options: CodecOptions): Promise<Uint32Array> {
    const { insertAnchors, ...rest } = options;
    if (insertAnchors && this.insertId >= 0) {
      const indent = this.tabs ? 'tab4' : 'none';
      return this.tokenizer.encodeWithAnchors(text, { ...rest, anchorId: this.insertId, indent });
    }
    return this.tokenizer.encode(this.tabs ? text.replaceAll('    ', '\t') : text, rest);
  }

  /** A rendered chat, with a mark inside what is no control token. */
  encodeChat(text: string, mark: string, signal: AbortSignal | undefined): Promise<Uint32Array> {
    const anchorId = this.insertId >= 0 ? this.insertId : undefined;
    const indent = this.tabs ? 'tab4' : 'none';
    return this.tokenizer.encodeChat(text, { mark, anchorId, indent }, signal);
  }

  /** Bytes that an id adds to the text: none for control tokens and inserted anchors. */
  bytes(id: number): Uint8Array {
    return id === this.insertId ? new Uint8Array() : this.tokenizer.tokenBytes(id);
  }

  /** The opposite of the indent that encoding replaced. */
  restoreIndent(text: string): string {
    return this.tabs ? text.replaceAll('\t', '    ') : text;
  }

  /** Text of ids from a text's beginning. */
  decode(ids: Uint32Array): string {
    return this.restoreIndent(this.tokenizer.detokenize(this.withoutAnchors(ids)));
  }

  /** The ids without inserted anchors. */
  withoutAnchors(ids: Uint32Array): Uint32Array {
    return this.insertId < 0 ? ids : ids.filter((id) => id !== this.insertId);
  }

  /** The last bytes of a text, for a stream that goes on from it. */
  tail(ids: Uint32Array): Uint8Array {
    // Four bytes at most make a character, and every id with text has one at least.
    const last: number[] = [];
    for (let i = ids.length - 1; i >= 0 && last.length < 4; --i) {
      const bytes = this.bytes(ids[i] as number);
      // A control token ends a character that was left open.
      if (bytes.length === 0 && ids[i] !== this.insertId) break;
      last.unshift(...bytes.subarray(-4));
    }
    return Uint8Array.from(last);
  }

  /** Undefined where no anchor is inserted. */
  forced(): ForcedAnchors | undefined {
    if (this.insertId < 0) return undefined;
    const { ending, unusable } = this.tokenizer.newlines();
    const bannedIds = Uint32Array.of(this.insertId, ...unusable);
    return { forcedAnchor: this.insertId, newlineIds: ending, bannedIds };
  }

  dispose(): void {
    this.tokenizer.dispose();
  }
}
