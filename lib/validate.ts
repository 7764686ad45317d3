/** Turns values that come from outside into checked ones, or into sentences on what is wrong. */
import { z } from 'zod';
import type { ErrorCode } from '../types/api.js';
import { AnchorError } from './errors.js';
import { show } from './show.js';

/** How sentences call what is checked. */
export interface Scope {
  /** Before a quoted name: `option "topK"`. */
  thing: string;
  /** The whole: `options`. */
  whole: string;
  code: ErrorCode;
}

/** Of options of a call. */
export const optionScope: Scope = {
  thing: 'option',
  whole: 'options',
  code: 'ERR_INVALID_ARGUMENT',
};

/**
 * An object without unknown keys. Every message of a schema is the end of "Expected ... to be", so
 * that {@link check} can make a sentence; the one for unknown keys lists the known ones.
 */
export function strict<Shape extends z.core.$ZodLooseShape>(shape: Shape) {
  return z.strictObject(shape, {
    error: (issue) =>
      issue.code === 'unrecognized_keys' ? Object.keys(shape).join(' ') : 'an object',
  });
}

/** Integer from `min` to `max`; `otherwise` is what its sentence expects beside it. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER, otherwise = '') {
  const end = max === Number.MAX_SAFE_INTEGER ? 'and up' : `to ${max}`;
  const error = `an integer from ${min} ${end}${otherwise}`;
  return z.int({ error }).min(min, { error }).max(max, { error });
}

/** One of some texts. */
export function oneOf<const T extends readonly string[]>(...values: T) {
  const list = values.map((value) => `"${value}"`);
  return z.enum(values, { error: list.length > 1 ? `one of ${list.join(', ')}` : list[0] });
}

/** Checks `value`; the result is a copy. @throws AnchorError with one sentence per problem */
export function check<S extends z.ZodType>(
  schema: S,
  value: unknown,
  scope: Scope = optionScope,
): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const sentences = result.error.issues.flatMap((issue) => sentencesOf(issue, value, scope));
  throw new AnchorError(scope.code, sentences.join('. '));
}

function sentencesOf(issue: z.core.$ZodIssue, value: unknown, scope: Scope): string[] {
  if (issue.code === 'unrecognized_keys') {
    const known = issue.message.split(' ');
    return issue.keys.map((key) => {
      const near = nearest(key, known);
      const hint = near ? `; did you mean "${nameOf([...issue.path, near])}"?` : '';
      return `Unknown ${scope.thing} "${nameOf([...issue.path, key])}"${hint}`;
    });
  }
  const name = issue.path.length === 0 ? scope.whole : `${scope.thing} "${nameOf(issue.path)}"`;
  return [expected(name, issue.message, valueAt(value, issue.path))];
}

/** `Expected option "topK" to be an integer from 0 and up, but received "4" (string)`. */
export function expected(name: string, expectation: string, received: unknown): string {
  return `Expected ${name} to be ${expectation}, but received ${show(received)}`;
}

function nameOf(path: readonly PropertyKey[]): string {
  let name = '';
  for (const part of path) {
    if (typeof part === 'number') name += `[${part}]`;
    else name += name === '' ? String(part) : `.${String(part)}`;
  }
  return name;
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  let at = value;
  for (const part of path) at = (at as Record<PropertyKey, unknown> | undefined)?.[part];
  return at;
}

/** The object without its undefined values. */
export function defined<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const given = Object.entries(value).filter(([, part]) => part !== undefined);
  return Object.fromEntries(given) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

/** The known name that `name` is most probably a misspelling of. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  if (name.length > 60) return undefined;
  let best: string | undefined;
  let least = Math.max(1, Math.floor(name.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < least) {
      best = candidate;
      least = distance;
    }
  }
  return best;
}

// Letters put in, left out, replaced, or two in the wrong order.
function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  const at = (i: number, j: number) => rows[i]?.[j] ?? 0;
  for (let i = 1; i <= a.length; ++i) {
    const row = [i];
    rows.push(row);
    for (let j = 1; j <= b.length; ++j) {
      const replaced = at(i - 1, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(replaced, at(i - 1, j) + 1, at(i, j - 1) + 1));
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) row[j] = Math.min(at(i, j), at(i - 2, j - 2) + 1);
    }
  }
  return at(a.length, b.length);
}
