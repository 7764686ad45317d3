/** Texts of tokens, found in a text. */

/** Finds the longest of its texts at a place, in time that hardly depends on their number. */
export class TokenTexts {
  private readonly starts = new Set<string>();
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
      this.starts.add(this.keyOf(text.charAt(0)));
    }
    this.lengths = [...byLength].sort(([a], [b]) => b - a);
  }

  /** Length of the longest text that begins at `at`; 0 where none does. */
  lengthAt(text: string, at: number): number {
    if (!this.starts.has(this.keyOf(text.charAt(at)))) return 0;
    for (const [length, texts] of this.lengths) {
      if (texts.has(this.keyOf(text.slice(at, at + length)))) return length;
    }
    return 0;
  }

  private keyOf(text: string): string {
    return this.fold ? text.toLowerCase() : text;
  }
}
