/** What every id adds to the text, as bytes: the table that streaming reads. */

import { isJson, type Json } from '../json.js';
import { label } from '../show.js';
import { byteName } from './tokenizer-bpe.js';
import { type TokenizerFiles, unsupported } from './tokenizer-files.js';

/** How a vocabulary writes bytes. */
export type Spelling = 'bytes as letters' | 'blanks as marks';

/** Bytes of all ids, one after the other. */
export interface ByteTable {
  bytes: Uint8Array<ArrayBuffer>;
  /** (vocabSize + 1) where each id's bytes begin. */
  offsets: Uint32Array<ArrayBuffer>;
  /** (vocabSize) 1 for control tokens, which have no bytes. */
  control: Uint8Array<ArrayBuffer>;
}

/** Ids whose bytes contain a newline; control tokens are in none. */
export interface NewlineIds {
  /** The newline is one, and the last byte. */
  ending: Uint32Array<ArrayBuffer>;
  /** Further newlines, or bytes behind it: no anchor could follow the newline. */
  unusable: Uint32Array<ArrayBuffer>;
  /** Both. */
  containing: Uint32Array<ArrayBuffer>;
}

const NEWLINE = 0x0a;
export const BLANK_MARK = '\u2581';

/** All parts of a pipeline, those inside sequences in their place. */
export function parts(component: unknown): Json[] {
  if (!isJson(component)) return [];
  if (component.type !== 'Sequence') return [component];
  const inside = component.normalizers ?? component.pretokenizers ?? component.decoders ?? [];
  return Array.isArray(inside) ? inside.flatMap(parts) : [];
}

/** @throws `ERR_MODEL_UNSUPPORTED` */
export function spellingOf(tokenizer: Json): Spelling {
  const decoder = parts(tokenizer.decoder);
  const types = new Set([...decoder, ...parts(tokenizer.pre_tokenizer)].map(({ type }) => type));
  if (types.has('ByteLevel')) return 'bytes as letters';
  if (types.has('Metaspace') || types.has('ByteFallback')) return 'blanks as marks';
  const named = decoder.map(({ type }) => label(type)).join(', ') || 'none';
  throw unsupported(
    `tokenizer.json's decoder (${named}) is neither ByteLevel nor Metaspace nor ByteFallback, ` +
      'so the bytes of its ids are not known',
  );
}

/** Whether decoding drops the blank that encoding put in front of a text. */
export function stripsFirstBlank(tokenizer: Json): boolean {
  return parts(tokenizer.decoder).some((part) => {
    if (part.type === 'Strip') return part.content === ' ' && Number(part.start) > 0;
    if (part.type !== 'Metaspace') return false;
    return (part.prepend_scheme ?? (part.add_prefix_space === false ? 'never' : '')) !== 'never';
  });
}

/** The letters of byte-level vocabularies: printable Latin-1 is itself, the rest U+0100 and up. */
function byteOfLetter(): Map<string, number> {
  const letters = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const itself =
      (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte < 0xad) || (byte > 0xad && byte < 0x100);
    letters.set(String.fromCodePoint(itself ? byte : next++), byte);
  }
  return letters;
}

function bytesOfPiece(spelling: Spelling): (piece: string) => Uint8Array {
  const encoder = new TextEncoder();
  if (spelling === 'blanks as marks') {
    const names = new Map(
      Array.from({ length: 256 }, (_, byte) => [byteName(byte), Uint8Array.of(byte)] as const),
    );
    return (piece) => names.get(piece) ?? encoder.encode(piece.replaceAll(BLANK_MARK, ' '));
  }
  const letters = byteOfLetter();
  return (piece) => {
    const bytes = new Uint8Array(piece.length);
    let length = 0;
    for (const letter of piece) {
      const byte = letters.get(letter);
      // A piece with other letters is text, as the decoder has it.
      if (byte === undefined) return encoder.encode(piece);
      bytes[length++] = byte;
    }
    return bytes.subarray(0, length);
  };
}

export function byteTable(files: TokenizerFiles, vocabSize: number): ByteTable {
  const spelling = spellingOf(files.tokenizer);
  const bytesOf = bytesOfPiece(spelling);
  const ofId: (Uint8Array | undefined)[] = new Array(vocabSize);
  for (const [piece, id] of files.model.vocabulary) ofId[id] = bytesOf(piece);
  const control = new Uint8Array(vocabSize);
  const encoder = new TextEncoder();
  for (const { id, content, special } of files.added) {
    if (special) control[id] = 1;
    ofId[id] = special ? undefined : encoder.encode(content);
  }
  const offsets = new Uint32Array(vocabSize + 1);
  for (let id = 0; id < vocabSize; id++) {
    offsets[id + 1] = (offsets[id] as number) + (ofId[id]?.length ?? 0);
  }
  const bytes = new Uint8Array(offsets[vocabSize] as number);
  for (let id = 0; id < vocabSize; id++) {
    const own = ofId[id];
    if (own) bytes.set(own, offsets[id]);
  }
  return { bytes, offsets, control };
}

export function newlineIds({ bytes, offsets }: ByteTable): NewlineIds {
  const ending: number[] = [];
  const unusable: number[] = [];
  for (let id = 0; id + 1 < offsets.length; id++) {
    const own = bytes.subarray(offsets[id], offsets[id + 1]);
    const first = own.indexOf(NEWLINE);
    if (first < 0) continue;
    (first === own.length - 1 ? ending : unusable).push(id);
  }
  return {
    ending: Uint32Array.from(ending),
    unusable: Uint32Array.from(unusable),
    containing: Uint32Array.from([...ending, ...unusable].sort((a, b) => a - b)),
  };
}

/** The id that every newline becomes by itself, if there is one. */
export function soleNewline(table: ByteTable, { containing }: NewlineIds): number | undefined {
  const id = containing[0];
  if (containing.length !== 1 || id === undefined) return undefined;
  const length = (table.offsets[id + 1] as number) - (table.offsets[id] as number);
  return length === 1 ? id : undefined;
}
