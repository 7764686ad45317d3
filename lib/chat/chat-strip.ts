/**
 * Python's `strip`, `lstrip` and `rstrip` for templates: with the letters to take off, which the
 * Jinja library leaves out of account, and with Python's idea of what is blank.
 */
import * as jinja from '@huggingface/jinja';

/** The library's class of texts, which it does not export. */
interface TextValue {
  value: string;
  readonly builtins: Map<string, unknown>;
}

// JavaScript's own, with separators and the next line, and without the byte order mark.
const further = new Set(['\x1c', '\x1d', '\x1e', '\x1f', '\x85']);
const isBlank = (letter: string) =>
  (letter.trim() === '' && letter !== '\ufeff') || further.has(letter);

const sides = {
  strip: [true, true],
  lstrip: [true, false],
  rstrip: [false, true],
} as const;

/** `letters`: those to take off; blanks where there are none. */
export function strip(text: string, side: keyof typeof sides, letters?: unknown): string {
  const taken = typeof letters === 'string' ? new Set(letters) : undefined;
  const isGone = (letter = '') => (taken ? taken.has(letter) : isBlank(letter));
  const points = [...text];
  let [start, end] = [0, points.length];
  const [left, right] = sides[side];
  while (left && start < end && isGone(points[start])) ++start;
  while (right && end > start && isGone(points[end - 1])) --end;
  return points.slice(start, end).join('');
}

/** Gives the library's texts these methods, in this process. */
export function teachStrip(): void {
  const environment = new jinja.Environment();
  const texts = Object.getPrototypeOf(environment.set('text', '')) as object;
  const own = Object.getOwnPropertyDescriptor(texts, 'builtins')?.get;
  if (!own) throw new Error('The Jinja library has no methods of texts to add to');
  const known = new WeakSet<object>();
  Object.defineProperty(texts, 'builtins', {
    configurable: true,
    get(this: TextValue) {
      const methods = own.call(this) as Map<string, unknown>;
      if (known.has(methods)) return methods;
      known.add(methods);
      for (const side of Object.keys(sides) as (keyof typeof sides)[]) {
        const method = (letters?: unknown) => strip(this.value, side, letters);
        methods.set(side, new jinja.Environment().set(side, method));
      }
      return methods;
    },
  });
}
