/**
 * Parses JSON of files that nobody vouches for. What parsing takes is bounded before it begins:
 * the depth, and the number of values, each of which costs far more memory than its text.
 */
import { AnchorError } from './errors.js';
import { printable, quote } from './show.js';

/** A parsed JSON object. */
export type Json = { [key: string]: unknown };

/** Whether `value` is a JSON object, not an array. */
export function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export interface JsonRules {
  /** Brackets that open, commas and colons outside texts: at least one for each value. */
  marks?: number;
  /** Refuse an object with the same key twice, of which parsing would keep the last. */
  unique?: boolean;
}

const usualMarks = 1 << 20;
const maxDepth = 100;

const [QUOTE, BACKSLASH, COMMA, COLON] = [0x22, 0x5c, 0x2c, 0x3a];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * The JSON object in `bytes` (UTF-8); `name` is the file's, for sentences.
 * @throws `ERR_MODEL_INVALID` unless it is one, not deeper than 100 and within the rules
 */
export function parseJson(bytes: Uint8Array, name: string, rules: JsonRules = {}): Json {
  const { marks: most = usualMarks, unique = false } = rules;
  const { marks, depth, members } = scan(bytes);
  if (depth > maxDepth) throw invalid(`${name} nests deeper than the ${maxDepth} levels read`);
  if (marks > most) throw invalid(`${name} holds ${marks} values, more than the ${most} read`);
  const text = decode(bytes, name);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw invalid(`${name} is not valid JSON: ${printable((cause as Error).message)}`, cause);
  }
  if (!isJson(value)) throw invalid(`${name} holds no JSON object`);
  if (unique && members !== countMembers(value)) {
    throw invalid(`${name} has the key ${quote(repeatedKey(bytes))} twice in one object`);
  }
  return value;
}

function invalid(message: string, cause?: unknown): AnchorError {
  return new AnchorError('ERR_MODEL_INVALID', message, { cause });
}

function decode(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw invalid(`${name} is not UTF-8`, cause);
  }
}

/** What `scan` meets outside texts; a text is given by the places of its quotes. */
interface Visitor {
  open(): void;
  close(): void;
  key(start: number, end: number): void;
}

// Right for valid JSON; of anything else the parser says afterwards what is wrong.
function scan(bytes: Uint8Array, visitor?: Visitor) {
  let [marks, members, depth, deepest] = [0, 0, 0, 0];
  let [start, end] = [0, 0];
  for (let i = 0; i < bytes.length; ++i) {
    switch (bytes[i]) {
      case QUOTE:
        start = i++;
        for (; i < bytes.length && bytes[i] !== QUOTE; ++i) if (bytes[i] === BACKSLASH) ++i;
        end = i;
        break;
      case OPEN_LIST:
      case OPEN_OBJECT:
        ++marks;
        deepest = Math.max(deepest, ++depth);
        visitor?.open();
        break;
      case CLOSE_LIST:
      case CLOSE_OBJECT:
        --depth;
        visitor?.close();
        break;
      case COLON:
        ++members;
        ++marks;
        visitor?.key(start, end);
        break;
      case COMMA:
        ++marks;
    }
  }
  return { marks, members, depth: deepest };
}

function countMembers(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const inside: unknown[] = Object.values(value);
  let count = Array.isArray(value) ? 0 : inside.length;
  for (const part of inside) count += countMembers(part);
  return count;
}

function repeatedKey(bytes: Uint8Array): string {
  const objects: Set<string>[] = [];
  const decoder = new TextDecoder();
  let repeated = '';
  scan(bytes, {
    open: () => objects.push(new Set()),
    close: () => objects.pop(),
    key(start, end) {
      const key = JSON.parse(decoder.decode(bytes.subarray(start, end + 1))) as string;
      const known = objects.at(-1);
      if (known?.has(key)) repeated = key;
      known?.add(key);
    },
  });
  return repeated;
}
