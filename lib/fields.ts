import { AnchorError } from './errors.js';
import { isJson, type Json } from './json.js';
import { expected } from './validate.js';

/** A little less than the largest number of float32. */
const largest = 1e38;

function isPositive(value: unknown): value is number {
  return typeof value === 'number' && value > 0 && value < largest;
}

/** Reads typed values out of a JSON file; null counts as missing, as transformers writes it. */
export class Fields {
  constructor(
    readonly json: Json,
    /** Named in sentences. */
    readonly file: string,
    /** Before the key in sentences: `rope_scaling.`. */
    readonly prefix = '',
    /** How the file spells a key. */
    readonly names: Readonly<Record<string, string>> = {},
  ) {}

  /** The key as the file spells it. */
  nameOf(key: string): string {
    return this.names[key] ?? key;
  }

  has(key: string): boolean {
    const value = this.valueOf(key);
    return value !== undefined && value !== null;
  }

  fail(key: string, expectation: string): AnchorError {
    const name = `"${this.prefix}${this.nameOf(key)}" in ${this.file}`;
    return new AnchorError('ERR_MODEL_INVALID', expected(name, expectation, this.valueOf(key)));
  }

  integer(key: string, min: number, max: number, otherwise?: number): number {
    const value = this.has(key) ? this.valueOf(key) : otherwise;
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) {
      return value;
    }
    throw this.fail(key, `an integer from ${min} to ${max}`);
  }

  /** Above 0, and a number that float32 holds, since the engine computes with such. */
  positive(key: string, otherwise?: number): number {
    const value = this.has(key) ? this.valueOf(key) : otherwise;
    if (isPositive(value)) return value;
    throw this.fail(key, `a number above 0 and below ${largest}`);
  }

  boolean(key: string, otherwise: boolean): boolean {
    const value = this.has(key) ? this.valueOf(key) : otherwise;
    if (typeof value === 'boolean') return value;
    throw this.fail(key, 'a boolean');
  }

  text(key: string, otherwise?: string): string {
    const value = this.has(key) ? this.valueOf(key) : otherwise;
    if (typeof value === 'string') return value;
    throw this.fail(key, 'a string');
  }

  /** The object at `key`, or an empty one. */
  child(key: string): Fields {
    const value = this.has(key) ? this.valueOf(key) : {};
    if (isJson(value)) return new Fields(value, this.file, `${this.prefix}${key}.`);
    throw this.fail(key, 'an object');
  }

  /** `count` strings. */
  texts(key: string, count: number): string[] {
    const isText = (value: unknown) => typeof value === 'string';
    return this.list(key, isText, `a list of ${count} strings`, count) as string[];
  }

  /** `count` numbers, each as {@link positive} takes it. */
  positives(key: string, count: number): number[] {
    const expectation = `a list of ${count} numbers above 0 and below ${largest}`;
    return this.list(key, isPositive, expectation, count) as number[];
  }

  /** Any number of integers; empty when missing. */
  integers(key: string, min: number, max: number): number[] {
    if (!this.has(key)) return [];
    const fits = (value: unknown) =>
      Number.isInteger(value) && Number(value) >= min && Number(value) <= max;
    return this.list(key, fits, `a list of integers from ${min} to ${max}`) as number[];
  }

  /** A token id or a list of them; empty when missing. */
  ids(key: string, vocabSize: number): number[] {
    if (!this.has(key)) return [];
    const value = this.valueOf(key);
    const list: unknown[] = Array.isArray(value) ? value : [value];
    const isId = (id: unknown) => Number.isInteger(id) && Number(id) >= 0 && Number(id) < vocabSize;
    if (list.every(isId)) return list as number[];
    throw this.fail(key, `a token id below ${vocabSize} or a list of them`);
  }

  private valueOf(key: string): unknown {
    return this.json[this.nameOf(key)];
  }

  private list(
    key: string,
    check: (value: unknown) => boolean,
    expectation: string,
    count?: number,
  ): unknown[] {
    const value = this.valueOf(key);
    const isList = Array.isArray(value) && (count === undefined || value.length === count);
    if (isList && value.every(check)) return value as unknown[];
    throw this.fail(key, expectation);
  }
}
