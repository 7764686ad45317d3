/** Texts of the command line to values: numbers, lists, policies. */
import { InvalidArgumentError } from 'commander';
import type { AnchorOptions, CachePolicy } from '../../types/api.js';
import { defined } from '../validate.js';
import { flagOf, UsageError } from './failure.js';

/** An integer from 0 on. Ranges are the library's business. */
export function parseCount(text: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(value)) return value;
  throw new InvalidArgumentError('Expected an integer from 0 and up.');
}

/** A decimal number. */
export function parseNumber(text: string): number {
  if (/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text)) return Number(text);
  throw new InvalidArgumentError('Expected a number.');
}

/** A seed: any integer that 64 bits hold. */
export function parseSeed(text: string): bigint {
  if (/^\d{1,20}$/.test(text)) return BigInt(text);
  throw new InvalidArgumentError('Expected an integer from 0 to 2^64 - 1.');
}

/** Adds to the values of a repeated option. */
export function collect(text: string, before: readonly string[] = []): string[] {
  return [...before, text];
}

function parseList(text: string, expected: string): number[] {
  if (text === 'none') return [];
  const parts = text.split(',').map((part) => part.trim());
  if (parts.every((part) => /^\d{1,10}$/.test(part))) return parts.map(Number);
  throw new InvalidArgumentError(`Expected ${expected}.`);
}

/** `17,18,20,23` or `none`. */
export function parseLayers(text: string): number[] {
  return parseList(text, 'layer numbers such as "0,8", or "none"');
}

/** `newline`, or ids such as `0,1`. */
export function parseTokens(text: string): number[] | 'newline' {
  return text === 'newline' ? text : parseList(text, '"newline" or token ids such as "0,1"');
}

/** `8` or `none`. */
export function parseCountOrNone(text: string): number | 'none' {
  return text === 'none' ? text : parseCount(text);
}

/** An id, the text of a token, or `none`. */
export function parseInsert(text: string): number | string {
  return /^\d{1,10}$/.test(text) ? Number(text) : text;
}

const policyForms = 'full, anchor, ansan, window:SIZE, window:SIZE,SINKS or a JSON object';

/** A policy by name, or as the object that `createSession` takes. */
export function parsePolicy(text: string): CachePolicy {
  if (text === 'full' || text === 'anchor' || text === 'ansan') return { kind: text };
  const [, size, sinks] = /^window:(\d{1,10})(?:,(\d{1,10}))?$/.exec(text) ?? [];
  if (size !== undefined) {
    return { kind: 'window', size: Number(size), ...(sinks && { sinks: Number(sinks) }) };
  }
  if (!text.startsWith('{')) throw new InvalidArgumentError(`Expected ${policyForms}.`);
  try {
    // What it holds is checked with all other options.
    return JSON.parse(text) as CachePolicy;
  } catch (error) {
    throw new InvalidArgumentError(`Not valid JSON: ${(error as Error).message}.`);
  }
}

/** Options that say which rows stay; each has its word in the policy. */
export interface PolicyOptions {
  policy?: CachePolicy;
  anchorTokens?: number[] | 'newline';
  denseLayers?: number[];
  per?: number | 'none';
  sourceLayer?: number | 'none';
  consumersAbove?: number;
  window?: number;
  sinks?: number;
  /** False where `--no-line` was given. */
  line?: boolean;
}

/** Options about the text that a model was trained on. */
export interface TextOptions {
  insertAnchor?: number | string;
  indent?: 'none' | 'tab4';
}

/** The policy that the options name together; undefined: the model's own. @throws UsageError */
export function policyOf(options: PolicyOptions): CachePolicy | undefined {
  const { policy, anchorTokens, line, ...same } = options;
  const words = defined({
    tokens: anchorTokens,
    line: line === false ? false : undefined,
    denseLayers: same.denseLayers,
    per: same.per,
    sourceLayer: orNull(same.sourceLayer),
    consumersAbove: same.consumersAbove,
    window: same.window,
    sinks: same.sinks,
  });
  if (Object.keys(words).length === 0) return policy;
  const base: CachePolicy = policy ?? { kind: 'anchor' };
  const fitting = wordsOf(base.kind);
  const stray = Object.keys(words).find((word) => !fitting.includes(word));
  if (stray !== undefined) {
    throw new UsageError(`${flagOf(stray)} has no meaning under the policy "${base.kind}"`);
  }
  return { ...base, ...words } as CachePolicy;
}

const anchorWords = ['per', 'sourceLayer', 'consumersAbove', 'window', 'line', 'tokens'];

function wordsOf(kind: CachePolicy['kind']): string[] {
  switch (kind) {
    case 'window':
      return ['denseLayers', 'sinks'];
    case 'ansan':
      return ['tokens'];
    case 'full':
      return [];
    default: // of a JSON policy with an unknown kind the library says what is wrong
      return [...anchorWords, 'denseLayers', 'sinks'];
  }
}

/** Anchor options for loading a model, undefined where none is given. */
export function anchorsOf({ insertAnchor, indent }: TextOptions): AnchorOptions | undefined {
  const words = defined({ insert: orNull(insertAnchor), indent });
  return Object.keys(words).length === 0 ? undefined : words;
}

// Commander takes null from a parser for a failure, so `none` becomes null here.
function orNull<T>(value: T | 'none'): T | null {
  return value === 'none' ? null : value;
}
