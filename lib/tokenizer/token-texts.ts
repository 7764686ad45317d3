/** Texts of tokens, found in a text. */

/** Finds the longest of its texts at a place, in time that hardly depends on their number. */
export class TokenTexts {
  /** (65536) 1: a text begins with this UTF-16 unit. */
  private readonly starts = new Uint8Array(0x10000);
  /** Texts by their length in UTF-16 units, longest first. */
  private readonly lengths: [length: number, texts: Set<string>][] = [];

  /** `fold`: upper and lower case are the same. */
  constructor(
    texts: Iterable<string>,
    private readonly fold = false,
  ) {
    const byLength = new Map<number, Set<string>>();
    for (const text of texts) {
      const key = this.keyOf(text);
      const same = byLength.get(text.length);
      if (same) same.add(key);
      else byLength.set(text.length, new Set([key]));
      const first = text.charAt(0);
      for (const each of fold ? [first, first.toLowerCase(), first.toUpperCase()] : [first]) {
        this.starts[each.charCodeAt(0)] = 1;
      }
    }
    this.lengths = [...byLength].sort(([a], [b]) => b - a);
  }

  /** Length of the longest text that begins at `at`; 0 where none does. */
  lengthAt(text: string, at: number): number {
    if (this.starts[text.charCodeAt(at)] !== 1) return 0;
    for (const [length, texts] of this.lengths) {
      if (texts.has(this.keyOf(text.slice(at, at + length)))) return length;
    }
    return 0;
  }

  private keyOf(text: string): string {
    return this.fold ? text.toLowerCase() : text;
  }
}

/** Whether a token of `length` units that begins at `at` is a single character. */
export function isOneLetter(text: string, at: number, length: number): boolean {
  return length === letterEnd(text, at) - at;
}

/** Where the character that begins at `at` ends. */
export function letterEnd(text: string, at: number): number {
  return at + ((text.codePointAt(at) as number) > 0xffff ? 2 : 1);
}
