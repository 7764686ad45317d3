/**
 * Byte-pair merging for the tokenizer worker.
 *
 * The library's own takes most of the loading time and grows faster than the text where a
 * vocabulary has no pre-tokenizer, since the whole text is then one word. This one takes
 * n log n steps for a word of n letters, whatever the word.
 */

import { quote } from '../show.js';

/** The part of tokenizer.json's model that merging needs. Ids are checked by the caller. */
export interface MergeRules {
  vocabulary: ReadonlyMap<string, number>;
  /** Pairs in order of rank. */
  merges: readonly (readonly [string, string])[];
  /** Pieces that text must never become. */
  banned: ReadonlySet<string>;
  unknown: string | undefined;
  fuseUnknown: boolean;
  byteFallback: boolean;
  /** A word that is a piece stays whole, even where merges would not make it. */
  ignoreMerges: boolean;
}

const NONE = -1;
// A heap key is a rank and a place in one exact double: 26 bits of rank, 27 of place.
const PLACES = 2 ** 27;
const SCRATCH = 1024;
const CACHED_WORDS = 20_000;
const CACHED_LENGTH = 64;

/** Pairs of ids and what they merge to: open addressing, since keys exceed small integers. */
class PairTable {
  private readonly mask: number;
  private readonly left: Int32Array;
  private readonly right: Int32Array;
  private readonly rank: Int32Array;

  constructor(pairs: number) {
    const size = 2 ** Math.ceil(Math.log2(2 * pairs + 2));
    this.mask = size - 1;
    this.left = new Int32Array(size).fill(NONE);
    this.right = new Int32Array(size);
    this.rank = new Int32Array(size).fill(NONE);
  }

  private slot(left: number, right: number): number {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    hash ^= hash >>> 15;
    let slot = hash & this.mask;
    while (this.left[slot] !== NONE && (this.left[slot] !== left || this.right[slot] !== right)) {
      slot = (slot + 1) & this.mask;
    }
    return slot;
  }

  set(left: number, right: number, rank: number): void {
    const slot = this.slot(left, right);
    this.left[slot] = left;
    this.right[slot] = right;
    this.rank[slot] = rank;
  }

  /** The pair's rank, or -1. */
  get(left: number, right: number): number {
    return this.rank[this.slot(left, right)] as number;
  }
}

/** A word as a doubly linked list of pieces, and the heap of its possible merges. */
class Word {
  readonly piece: Int32Array;
  readonly next: Int32Array;
  readonly previous: Int32Array;
  /** Rank of the pair that begins here; tells stale heap entries from live ones. */
  readonly rank: Int32Array;
  private readonly heap: Float64Array;
  private size = 0;

  constructor(length: number) {
    this.piece = new Int32Array(length);
    this.next = new Int32Array(length);
    this.previous = new Int32Array(length);
    this.rank = new Int32Array(length);
    // One entry a pair at first, at most two more a merge.
    this.heap = new Float64Array(3 * length);
  }

  push(key: number): void {
    const { heap } = this;
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if ((heap[parent] as number) <= key) break;
      heap[at] = heap[parent] as number;
      at = parent;
    }
    heap[at] = key;
  }

  pop(): number | undefined {
    if (this.size === 0) return undefined;
    const { heap } = this;
    const least = heap[0];
    const last = heap[--this.size] as number;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.size) break;
      if (child + 1 < this.size && (heap[child + 1] as number) < (heap[child] as number)) child++;
      if ((heap[child] as number) >= last) break;
      heap[at] = heap[child] as number;
      at = child;
    }
    heap[at] = last;
    return least;
  }
}

/** A merge rule that names a piece outside the vocabulary. */
export class MergeRuleError extends Error {}

export class Merger {
  private readonly pairs: PairTable;
  private readonly results: Int32Array;
  private readonly pieces: string[] = [];
  private readonly bytePieces: Int32Array;
  private readonly unknown: number;
  private readonly scratch = new Word(SCRATCH);
  private readonly encoder = new TextEncoder();
  private cache = new Map<string, readonly string[]>();

  constructor(private readonly rules: MergeRules) {
    const { vocabulary, merges, banned } = rules;
    for (const [piece, id] of vocabulary) this.pieces[id] = piece;
    this.pairs = new PairTable(merges.length);
    this.results = new Int32Array(merges.length);
    merges.forEach(([left, right], rank) => {
      const [first, second, whole] = [left, right, left + right].map((x) => vocabulary.get(x));
      if (first === undefined || second === undefined || whole === undefined) {
        throw new MergeRuleError(`[${quote(left)},${quote(right)}] is not in the vocabulary`);
      }
      if (banned.has(left + right)) return;
      this.pairs.set(first, second, rank);
      this.results[rank] = whole;
    });
    this.unknown = (rules.unknown === undefined ? NONE : vocabulary.get(rules.unknown)) ?? NONE;
    const names = Array.from({ length: 256 }, (_, byte) => byteName(byte));
    this.bytePieces = Int32Array.from(names, (name) => vocabulary.get(name) ?? NONE);
  }

  /** The pieces of words, in order. */
  encode(words: readonly string[]): string[] {
    const out: string[] = [];
    for (const word of words) {
      for (const piece of this.encodeWord(word)) out.push(piece);
    }
    return out;
  }

  private encodeWord(word: string): readonly string[] {
    const { vocabulary, banned, ignoreMerges } = this.rules;
    if (ignoreMerges && vocabulary.has(word) && !banned.has(word)) return [word];
    const cached = this.cache.get(word);
    if (cached) return cached;
    const pieces = this.merge(word);
    if (word.length <= CACHED_LENGTH) {
      if (this.cache.size >= CACHED_WORDS) this.cache = new Map();
      this.cache.set(word, pieces);
    }
    return pieces;
  }

  private merge(text: string): string[] {
    // Bytes of UTF-8: at most three for a UTF-16 unit, four for two.
    const capacity = this.rules.byteFallback ? 3 * text.length : text.length;
    const word = capacity <= SCRATCH ? this.scratch : new Word(capacity);
    const length = this.fill(word, text);
    for (let at = 0; at + 1 < length; at++) this.offer(word, at);
    for (let key = word.pop(); key !== undefined; key = word.pop()) {
      const at = key % PLACES;
      const rank = (key - at) / PLACES;
      if (word.rank[at] !== rank) continue;
      const gone = word.next[at] as number;
      const after = word.next[gone] as number;
      word.piece[at] = this.results[rank] as number;
      word.next[at] = after;
      word.rank[gone] = NONE;
      word.rank[at] = NONE;
      if (after !== NONE) {
        word.previous[after] = at;
        this.offer(word, at);
      }
      const before = word.previous[at] as number;
      if (before !== NONE) this.offer(word, before);
    }
    const out: string[] = [];
    for (let at = length > 0 ? 0 : NONE; at !== NONE; at = word.next[at] as number) {
      out.push(this.pieces[word.piece[at] as number] as string);
    }
    return out;
  }

  private offer(word: Word, at: number): void {
    const right = word.piece[word.next[at] as number] as number;
    const rank = this.pairs.get(word.piece[at] as number, right);
    word.rank[at] = rank;
    if (rank !== NONE) word.push(rank * PLACES + at);
  }

  /** Writes the letters' pieces and returns how many there are. */
  private fill(word: Word, text: string): number {
    const { vocabulary, byteFallback, fuseUnknown, banned } = this.rules;
    let length = 0;
    let afterUnknown = false;
    const add = (piece: number) => {
      word.piece[length] = piece;
      word.previous[length] = length - 1;
      word.next[length] = length + 1;
      word.rank[length] = NONE;
      length++;
    };
    for (const letter of text) {
      const piece = banned.has(letter) ? undefined : vocabulary.get(letter);
      if (piece !== undefined) {
        add(piece);
        afterUnknown = false;
        continue;
      }
      const bytes = byteFallback ? this.encoder.encode(letter) : undefined;
      if (bytes?.every((byte) => this.bytePieces[byte] !== NONE)) {
        for (const byte of bytes) add(this.bytePieces[byte] as number);
        afterUnknown = false;
      } else if (this.unknown !== NONE) {
        if (!(fuseUnknown && afterUnknown)) add(this.unknown);
        afterUnknown = true;
      }
    }
    if (length > 0) word.next[length - 1] = NONE;
    return length;
  }
}

/** How SentencePiece vocabularies spell a byte. */
export function byteName(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
}
