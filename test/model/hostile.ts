// Folders that somebody made to break a program, each from a small valid one, and what has to come
// of them: an error with a code and a sentence, in bounded time and memory.
import { spawn } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect } from '@jest/globals';
import type { ErrorCode } from '../../types/api.js';
import { randomModel, saveModel } from '../reference/weights.js';

export type Json = Record<string, unknown>;

/** What is promised of an idle machine, where time is that of the processor; and of a busy one. */
const mostCpuMilliseconds = 2000;
const mostMilliseconds = 20_000;
const mostBytes = 200e6;

export const invalid = 'ERR_MODEL_INVALID';
export const missing = 'ERR_MODEL_NOT_FOUND';
export const unsupported = 'ERR_MODEL_UNSUPPORTED';
export const mega = 1 << 20;

/** Its name, how a valid folder is broken, and the code and sentence of the error. */
export type Case = [string, (folder: string) => void, ErrorCode, RegExp];

/** What became of a folder. */
export interface Outcome {
  name?: string;
  code?: string;
  message?: string;
  /** Of the last token, as texts: JSON has no NaN. */
  logits?: string[];
  warnings?: string[];
  milliseconds: number;
  /** Of all threads. */
  cpuMilliseconds: number;
}

/** Whether it came in the time that is promised. */
export function inTime({ milliseconds, cpuMilliseconds }: Outcome): boolean {
  return milliseconds < mostMilliseconds && cpuMilliseconds < mostCpuMilliseconds;
}

const child = fileURLToPath(new URL('./load-each.mjs', import.meta.url));

export const vocabSize = 64;
export const weights = 'model.safetensors';
export const index = 'model.safetensors.index.json';

/** Folders of a small valid model, with a tokenizer, until `remove` takes them away. */
export class HostileFolders {
  readonly root = mkdtempSync(join(tmpdir(), 'anchorcoder-hostile-'));
  #count = 0;

  make(): string {
    const folder = join(this.root, String(this.#count++));
    const sizes = { layers: 1, hiddenSize: 8, intermediateSize: 12, heads: 2, kvHeads: 1 };
    saveModel(randomModel({ ...sizes, headDim: 4, vocabSize }, 1), folder, { bos_token_id: 1 });
    writeJson(folder, 'tokenizer.json', tokenizer());
    return folder;
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }

  /** Loads folders in a process of their own and checks that time and memory are as promised. */
  async load(folders: readonly string[]): Promise<Outcome[]> {
    const run = spawn(process.execPath, [child], { stdio: ['pipe', 'pipe', 'inherit'] });
    run.stdin.end(JSON.stringify([this.make(), ...folders]));
    const exit = new Promise((resolve) =>
      run.on('exit', (code, signal) => resolve(code ?? signal)),
    );
    const output = await text(run.stdout);
    expect(await exit).toBe(0);
    const { results, grownBytes } = JSON.parse(output) as {
      results: Outcome[];
      grownBytes: number;
    };
    expect(results).toHaveLength(folders.length);
    expect(grownBytes).toBeLessThan(mostBytes);
    return results;
  }

  /** Checks every case, all in one process. */
  async check(cases: readonly Case[]): Promise<void> {
    const folders = cases.map(([, build]) => {
      const folder = this.make();
      build(folder);
      return folder;
    });
    const outcomes = await this.load(folders);
    const failures = cases.flatMap(([name, , code, sentence], i) => {
      const outcome = outcomes[i] as Outcome;
      const isError = outcome.name === 'AnchorError' && outcome.code === code;
      const said = outcome.message ?? '';
      const fine = isError && sentence.test(said) && said.length < 1000;
      return fine && inTime(outcome) ? [] : [{ ...outcome, case: name }];
    });
    expect(failures).toEqual([]);
  }
}

export function writeJson(folder: string, name: string, value: unknown): void {
  writeFileSync(join(folder, name), typeof value === 'string' ? value : JSON.stringify(value));
}

/** Replaces keys of a JSON file. */
export function edit(name: string, change: Json): (folder: string) => void {
  return (folder) => {
    const json = JSON.parse(readFileSync(join(folder, name), 'utf8')) as Json;
    writeJson(folder, name, { ...json, ...change });
  };
}

/** A file of `size` bytes that takes no space. */
export function writeSparse(
  path: string,
  size: number,
  start: Uint8Array = new Uint8Array(),
): void {
  writeFileSync(path, start);
  const file = openSync(path, 'r+');
  ftruncateSync(file, size);
  closeSync(file);
}

/** Length (8 bytes) and text of a header. */
export function headerBytes(header: unknown, length?: bigint): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(length ?? BigInt(json.length));
  return Buffer.concat([start, json]);
}

type Entry = Json & { data_offsets: [begin: number, end: number] };

/** Header and data of a weight file. */
export function readWeights(folder: string): { header: Record<string, Entry>; data: Buffer } {
  const bytes = readFileSync(join(folder, weights));
  const end = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, end)) as Record<string, Entry>;
  return { header, data: bytes.subarray(end) };
}

/** Where the data of a tensor begins and ends, in bytes of the data. */
export function offsetsOf(folder: string, name: string): Entry['data_offsets'] {
  const entry = readWeights(folder).header[name];
  if (!entry) throw new Error(`no tensor ${name}`);
  return entry.data_offsets;
}

export function writeWeights(folder: string, header: unknown, data: Uint8Array): void {
  writeFileSync(join(folder, weights), Buffer.concat([headerBytes(header), data]));
}

/** A byte-level tokenizer of single letters, an anchor and a BOS; `change` replaces keys. */
export function tokenizer(change: Json = {}): Json {
  const letters = [...'abcdefghij', '\u010a', '\u0120'];
  return {
    added_tokens: [
      { id: 40, content: '<ANCHOR>', special: true, normalized: false },
      { id: 1, content: '<s>', special: true, normalized: false },
    ],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(letters.map((letter, i) => [letter, i + 2])),
      merges: [],
    },
    ...change,
  };
}

/** The same with keys of its model replaced. */
export function tokenizerModel(change: Json): Json {
  const whole = tokenizer();
  return { ...whole, model: { ...(whole.model as Json), ...change } };
}

/** `count` texts with commas between them. */
export function many(count: number, text: (i: number) => string): string {
  return Array.from({ length: count }, (_, i) => text(i)).join();
}
