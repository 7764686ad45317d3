// Copies of model folders with something changed, and ways to read ids: what the tests on real
// folders share.
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { GenerateOptions, Model, Session, SessionOptions } from '../../types/api.js';

export type Json = Record<string, unknown>;

export const weightFile = 'model.safetensors';

/** Makes copies until `remove` takes them away. */
export class Folders {
  readonly root = mkdtempSync(join(tmpdir(), 'anchorcoder-folders-'));
  #count = 0;

  /** A new folder with the files of `from`. */
  copy(from: string): string {
    const folder = join(this.root, String(this.#count++));
    mkdirSync(folder);
    for (const file of readdirSync(from)) copyFileSync(join(from, file), join(folder, file));
    return folder;
  }

  /** The same with keys of config.json replaced; `undefined` takes a key away. */
  copyWith(from: string, change: Json): string {
    const folder = this.copy(from);
    const path = join(folder, 'config.json');
    const json = JSON.parse(readFileSync(path, 'utf8')) as Json;
    writeFileSync(path, JSON.stringify({ ...json, ...change }));
    return folder;
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

/** Makes the header longer by blanks until the data begins at `remainder` modulo 8. */
export function shiftData(path: string, remainder: number): void {
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const blanks = (((remainder - start) % 8) + 8) % 8;
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(start - 8 + blanks));
  const header = [bytes.subarray(8, start), Buffer.alloc(blanks, ' ')];
  writeFileSync(path, Buffer.concat([length, ...header, bytes.subarray(start)]));
}

/** Logits (ids, vocabSize) of a new session that reads the ids in chunks of these sizes. */
export async function readAll(
  model: Model,
  ids: Uint32Array,
  sizes: readonly number[] = [ids.length],
  options: SessionOptions = {},
): Promise<Float32Array> {
  using session = model.createSession(options);
  const { vocabSize } = model.info;
  const all = new Float32Array(ids.length * vocabSize);
  let done = 0;
  for (const length of sizes) {
    const logits = await session.append(ids.subarray(done, done + length), { logits: 'all' });
    if (logits?.length !== length * vocabSize) throw new Error(`${logits?.length} logits`);
    all.set(logits, done * vocabSize);
    done += length;
  }
  return all;
}

/** The logits of one position. */
export function rowOf(logits: Float32Array, position: number, width: number): Float32Array {
  return logits.subarray(position * width, (position + 1) * width);
}

/** Index of the largest element. */
export function best(row: Float32Array): number {
  return row.reduce((most, value, i) => (value > (row[most] as number) ? i : most), 0);
}

/** Ids that a session generates. */
export async function continuation(session: Session, options: GenerateOptions): Promise<number[]> {
  const ids: number[] = [];
  for await (const { id } of session.generate(options)) ids.push(id);
  return ids;
}
