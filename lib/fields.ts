import { AnchorError } from './errors.js';
import { isJson, type Json } from './files.js';
import { expected } from './validate.js';

/** Reads typed values out of a JSON file; null counts as missing, as transformers writes it. */
export class Fields {
  constructor(
    readonly json: Json,
    /** Named in sentences. */
    readonly file: string,
    /** Before the key in sentences: `rope_scaling.`. */
    readonly prefix = '',
  ) {}

  has(key: string): boolean {
    return this.json[key] !== undefined && this.json[key] !== null;
  }

  fail(key: string, expectation: string): AnchorError {
    const name = `"${this.prefix}${key}" in ${this.file}`;
    return new AnchorError('ERR_MODEL_INVALID', expected(name, expectation, this.json[key]));
  }

  integer(key: string, min: number, max: number, otherwise?: number): number {
    const value = this.has(key) ? this.json[key] : otherwise;
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) {
      return value;
    }
    throw this.fail(key, `an integer from ${min} to ${max}`);
  }

  /** Finite and above 0. */
  positive(key: string, otherwise?: number): number {
    const value = this.has(key) ? this.json[key] : otherwise;
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
    throw this.fail(key, 'a number above 0');
  }

  boolean(key: string, otherwise: boolean): boolean {
    const value = this.has(key) ? this.json[key] : otherwise;
    if (typeof value === 'boolean') return value;
    throw this.fail(key, 'a boolean');
  }

  text(key: string, otherwise?: string): string {
    const value = this.has(key) ? this.json[key] : otherwise;
    if (typeof value === 'string') return value;
    throw this.fail(key, 'a string');
  }

  /** The object at `key`, or an empty one. */
  child(key: string): Fields {
    const value = this.has(key) ? this.json[key] : {};
    if (isJson(value)) return new Fields(value, this.file, `${this.prefix}${key}.`);
    throw this.fail(key, 'an object');
  }

  /** A token id or a list of them; empty when missing. */
  ids(key: string, vocabSize: number): number[] {
    if (!this.has(key)) return [];
    const value = this.json[key];
    const list: unknown[] = Array.isArray(value) ? value : [value];
    const isId = (id: unknown) => Number.isInteger(id) && Number(id) >= 0 && Number(id) < vocabSize;
    if (list.every(isId)) return list as number[];
    throw this.fail(key, `a token id below ${vocabSize} or a list of them`);
  }
}
