/** Text of generated tokens: whole characters out of bytes, and the search for stop strings. */

/** Number of bytes at the end that begin a character without finishing it: 0 to 3. */
export function openBytes(bytes: Uint8Array): number {
  for (let back = 1; back <= 3 && back <= bytes.length; ++back) {
    const byte = bytes[bytes.length - back] as number;
    if (byte >= 0xf0) return back < 4 ? back : 0;
    if (byte >= 0xe0) return back < 3 ? back : 0;
    if (byte >= 0xc0) return back < 2 ? back : 0;
    if (byte < 0x80) return 0;
  }
  return 0;
}

/** Decodes UTF-8 that arrives in pieces; bytes that are none become U+FFFD. */
export class TextStream {
  // A BOM in mid-text is a character like any other.
  private readonly decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  private open: Uint8Array = new Uint8Array();

  /** `before`: bytes that precede the stream, whose last character it may have to finish. */
  constructor(before: Uint8Array = new Uint8Array()) {
    this.open = before.slice(before.length - openBytes(before));
  }

  /** Whether a character has begun and not ended. */
  get isOpen(): boolean {
    return this.open.length > 0;
  }

  /** Characters that became whole with `bytes`. */
  push(bytes: Uint8Array): string {
    if (bytes.length === 0) return '';
    const all = new Uint8Array(this.open.length + bytes.length);
    all.set(this.open);
    all.set(bytes, this.open.length);
    const end = all.length - openBytes(all);
    this.open = all.slice(end);
    return this.decoder.decode(all.subarray(0, end));
  }
}

interface Pattern {
  text: string;
  /** Length of the longest proper beginning of the text that ends with its first i + 1 units. */
  borders: number[];
  /** Units of the text that the stream ends with. */
  matched: number;
}

/**
 * Finds the first stop string to be complete, wherever tokens cut the text (Knuth, Morris, Pratt).
 * Places are counted in UTF-16 units from the start of the stream.
 */
export class StopFinder {
  private readonly patterns: Pattern[];
  private length = 0;

  constructor(stops: readonly string[]) {
    this.patterns = stops.map((text) => ({ text, borders: bordersOf(text), matched: 0 }));
  }

  /** Place below which no stop string can begin any more. */
  get certain(): number {
    return this.length - Math.max(0, ...this.patterns.map(({ matched }) => matched));
  }

  /** Place where a stop string begins that `piece` completes, or -1. */
  push(piece: string): number {
    if (this.patterns.length === 0) {
      this.length += piece.length;
      return -1;
    }
    for (let i = 0; i < piece.length; ++i) {
      ++this.length;
      let longest = 0;
      for (const pattern of this.patterns) {
        if (advance(pattern, piece.charAt(i))) longest = Math.max(longest, pattern.text.length);
      }
      if (longest > 0) return this.length - longest;
    }
    return -1;
  }
}

function bordersOf(text: string): number[] {
  const borders = [0];
  for (let i = 1, length = 0; i < text.length; ++i) {
    while (length > 0 && text[i] !== text[length]) length = borders[length - 1] as number;
    if (text[i] === text[length]) ++length;
    borders.push(length);
  }
  return borders;
}

function advance(pattern: Pattern, unit: string): boolean {
  const { text, borders } = pattern;
  let { matched } = pattern;
  while (matched > 0 && unit !== text[matched]) matched = borders[matched - 1] as number;
  if (unit === text[matched]) ++matched;
  pattern.matched = matched;
  return matched === text.length;
}
