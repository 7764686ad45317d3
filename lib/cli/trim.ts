/** Cuts the texts around a cursor to whole lines that a context has room for. */
import type { FillInTheMiddleText, Model } from '../../types/api.js';
import { many } from './format.js';

/** Lines that were left out, of how many. */
export interface LeftOut {
  before: number;
  after: number;
}

/** Lines near the cursor, and what they take. */
interface Kept {
  text: string;
  tokens: number;
  left: number;
}

/**
 * The lines next to the cursor that fit into `room` tokens together. A quarter is the suffix's, as
 * long as the prefix needs the rest. The cursor's own line always stays.
 */
export async function trim(
  model: Model,
  { prefix, suffix }: FillInTheMiddleText,
  room: number,
  signal: AbortSignal,
): Promise<FillInTheMiddleText & { left: LeftOut }> {
  const before = linesOf(prefix).reverse();
  const after = linesOf(suffix);
  const keep = (lines: string[], most: number, backwards: boolean) =>
    keepLines(lines, most, async (some) => {
      const text = (backwards ? [...some].reverse() : some).join('');
      const ids = await model.tokenize(text, { addSpecial: false, signal });
      return { text, tokens: ids.length };
    });
  let behind = await keep(after, Math.floor(room / 4), false);
  const ahead = await keep(before, room - behind.tokens, true);
  if (behind.left > 0 && ahead.left === 0) behind = await keep(after, room - ahead.tokens, false);
  const left = { before: ahead.left, after: behind.left };
  return { prefix: ahead.text, suffix: behind.text, left };
}

function linesOf(text: string): string[] {
  return text.split(/(?<=\n)/);
}

// Twice as many lines until they are too many, then halving: no text is encoded that is far longer
// than what fits.
async function keepLines(
  lines: readonly string[],
  most: number,
  measure: (some: string[]) => Promise<{ text: string; tokens: number }>,
): Promise<Kept> {
  const first = async (count: number) => {
    const measured = await measure(lines.slice(0, count));
    return { ...measured, left: lines.length - count };
  };
  let [fits, over] = [1, lines.length + 1];
  let best = await first(1);
  while (over - fits > 1) {
    const untried = over > lines.length ? 2 * fits : (fits + over) >> 1;
    const next = Math.min(untried, lines.length);
    const kept = await first(next);
    if (kept.tokens > most) over = next;
    else [fits, best] = [next, kept];
  }
  return best;
}

/** A sentence on what is missing; undefined where nothing is. */
export function trimNote({ before, after }: LeftOut, context: number): string | undefined {
  const parts = [
    before > 0 ? `${many(before, 'line')} at the file's beginning` : undefined,
    after > 0 ? `${many(after, 'line')} at its end` : undefined,
  ].filter((part) => part !== undefined);
  if (parts.length === 0) return undefined;
  const room = `the context has room for ${many(context, 'token')}`;
  return `The model does not see ${parts.join(' and ')}: ${room}.`;
}
