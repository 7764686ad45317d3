/** Cuts a text at its control tokens, where some that look like it are none. */
import { isOneLetter, TokenTexts } from './token-texts.js';
import type { AddedToken } from './tokenizer-files.js';

/** A control token's id, or text that has none; `at`: where it begins. */
export interface Piece {
  part: number | string;
  at: number;
}

export class ControlSplitter {
  private readonly texts: TokenTexts;
  private readonly tokens: ReadonlyMap<string, AddedToken>;

  constructor(control: readonly AddedToken[]) {
    this.texts = new TokenTexts(control.map(({ content }) => content));
    this.tokens = new Map(control.map((token) => [token.content, token]));
  }

  /**
   * Tokens leftmost first, the longest where several begin; a `mark` inside makes a token text, and
   * one in front of a token of a single letter does. Blanks go that a token takes in.
   */
  split(text: string, mark: string): Piece[] {
    const pieces: Piece[] = [];
    let start = 0;
    for (let at = 0; at < text.length; ) {
      const length = this.texts.lengthAt(text, at);
      const isText = length === 0 || (text[at - 1] === mark && isOneLetter(text, at, length));
      if (isText) {
        ++at;
        continue;
      }
      const token = this.tokens.get(text.slice(at, at + length)) as AddedToken;
      const before = text.slice(start, at);
      push(pieces, token.lstrip ? before.trimEnd() : before, start);
      pieces.push({ part: token.id, at });
      at += length;
      if (token.rstrip) while (at < text.length && /\s/.test(text.charAt(at))) ++at;
      start = at;
    }
    push(pieces, text.slice(start), start);
    return pieces;
  }
}

function push(pieces: Piece[], part: string, at: number): void {
  if (part !== '') pieces.push({ part, at });
}
