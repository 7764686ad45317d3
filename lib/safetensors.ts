/**
 * Reads the headers of safetensors files and the index of a sharded model; never the data. Layout
 * of a file: length of the header (8 bytes, little-endian), header (JSON), data.
 */
import { join } from 'node:path';
import { AnchorError } from './errors.js';
import { isJson, type Json, parseJson, readJson, sizeOf, withFile } from './files.js';
import { show } from './validate.js';

const maxHeaderBytes = 100_000_000;
const maxShards = 4096;

const bitsOf: ReadonlyMap<string, number> = new Map([
  ['BOOL', 8],
  ['U8', 8],
  ['I8', 8],
  ['F8_E5M2', 8],
  ['F8_E4M3', 8],
  ['F8_E8M0', 8],
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['I16', 16],
  ['U16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['I32', 32],
  ['U32', 32],
  ['F32', 32],
  ['I64', 64],
  ['U64', 64],
  ['F64', 64],
  ['C64', 64],
]);

/** One tensor of a file: where its bytes are, in bytes from the start of the file. */
export interface TensorEntry {
  dtype: string;
  shape: number[];
  elements: number;
  offset: number;
  length: number;
}

/** The header of one file. */
export interface Header {
  tensors: Map<string, TensorEntry>;
  metadata: Map<string, string>;
}

/** The weight files of a folder and what they hold together. */
export interface WeightFiles {
  files: { path: string; size: number }[];
  /** By name; `file` is an index into `files`. */
  tensors: Map<string, TensorEntry & { file: number }>;
}

function broken(name: string, problem: string): AnchorError {
  return new AnchorError('ERR_MODEL_INVALID', `${name}: ${problem}`);
}

/**
 * Finds `model.safetensors`, or the files that `model.safetensors.index.json` names, and reads
 * their headers.
 * @throws `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED` (pickles only)
 */
export async function readWeightFiles(folder: string): Promise<WeightFiles> {
  const single = 'model.safetensors';
  if ((await sizeOf(join(folder, single))) !== undefined) {
    const { tensors, size } = await readHeader(folder, single);
    const entries = [...tensors].map(([name, entry]) => [name, { ...entry, file: 0 }] as const);
    return { files: [{ path: join(folder, single), size }], tensors: new Map(entries) };
  }
  const index = await readJson(folder, `${single}.index.json`);
  if (index) return readShards(folder, parseIndex(index));
  for (const name of ['pytorch_model.bin', 'pytorch_model.bin.index.json']) {
    if ((await sizeOf(join(folder, name))) === undefined) continue;
    const message =
      `"${folder}" has its weights in ${name} only: a pickle may run any code when it is read, ` +
      'so only safetensors are; write them with save_pretrained(folder, safe_serialization=True)';
    throw new AnchorError('ERR_MODEL_UNSUPPORTED', message);
  }
  const message = `"${folder}" holds neither ${single} nor ${single}.index.json`;
  throw new AnchorError('ERR_MODEL_NOT_FOUND', message);
}

/** File name of every tensor. @throws `ERR_MODEL_INVALID` for names that could leave the folder */
export function parseIndex(index: Json): Map<string, string> {
  const name = 'model.safetensors.index.json';
  const { weight_map: map } = index;
  if (!isJson(map)) throw broken(name, `expected "weight_map" to be an object, not ${show(map)}`);
  const files = new Map<string, string>();
  for (const [tensor, file] of Object.entries(map)) {
    if (typeof file !== 'string' || !/^[^/\\\0]+\.safetensors$/.test(file)) {
      const expectation = `expected the file of "${tensor}" to be the name of a .safetensors file`;
      throw broken(name, `${expectation} in the same folder, but it is ${show(file)}`);
    }
    files.set(tensor, file);
  }
  if (files.size === 0) throw broken(name, '"weight_map" names no tensors');
  return files;
}

async function readShards(folder: string, fileOf: Map<string, string>): Promise<WeightFiles> {
  const shards = [...new Set(fileOf.values())].sort();
  if (shards.length > maxShards) {
    const problem = `names ${shards.length} files, more than the ${maxShards} that are read`;
    throw broken('model.safetensors.index.json', problem);
  }
  const result: WeightFiles = { files: [], tensors: new Map() };
  for (const [file, shard] of shards.entries()) {
    const { tensors, size } = await readHeader(folder, shard);
    result.files.push({ path: join(folder, shard), size });
    for (const [name, entry] of tensors) {
      const named = fileOf.get(name);
      if (named !== shard) {
        const elsewhere = named === undefined ? 'does not name' : `puts into ${named}`;
        throw broken(shard, `holds "${name}", which model.safetensors.index.json ${elsewhere}`);
      }
      result.tensors.set(name, { ...entry, file });
    }
  }
  for (const [name, shard] of fileOf) {
    if (result.tensors.has(name)) continue;
    throw broken(shard, `does not hold "${name}", which model.safetensors.index.json puts there`);
  }
  return result;
}

async function readHeader(folder: string, name: string): Promise<Header & { size: number }> {
  const path = join(folder, name);
  const size = await sizeOf(path);
  if (size === undefined) {
    const message = `"${folder}" has no file ${name}, which its index names`;
    throw new AnchorError('ERR_MODEL_NOT_FOUND', message);
  }
  return withFile(path, async (file) => {
    const start = new Uint8Array(8);
    const { bytesRead } = await file.read(start, 0, 8, 0);
    const length = headerLength(start.subarray(0, bytesRead), size, name);
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const { bytesRead: count } = await file.read(bytes, at, length - at, 8 + at);
      if (count === 0) throw broken(name, 'became shorter while it was read');
      at += count;
    }
    return { ...parseHeader(bytes, size, name), size };
  });
}

/** Bytes of the header that `start` (8) announces, checked against the file's `size` in bytes. */
export function headerLength(start: Uint8Array, size: number, name: string): number {
  if (start.length < 8) throw broken(name, `has ${size} bytes, too few for a safetensors file`);
  const length = new DataView(start.buffer, start.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(maxHeaderBytes)) {
    const problem = `announces a header of ${length} bytes, more than ${maxHeaderBytes}`;
    throw broken(name, `${problem}; it is no safetensors file`);
  }
  if (8 + Number(length) > size) {
    throw broken(name, `ends after ${size} bytes, inside its header of ${length}`);
  }
  return Number(length);
}

/**
 * Checks a whole header. `bytes` is the JSON, `size` the file's length in bytes.
 * @throws `ERR_MODEL_INVALID` unless every byte of the data belongs to exactly one tensor
 */
export function parseHeader(bytes: Uint8Array, size: number, name: string): Header {
  const json = parseJson(decode(bytes, name), `${name}: the header`);
  const dataStart = 8 + bytes.length;
  const tensors = new Map<string, TensorEntry>();
  const metadata = new Map<string, string>();
  for (const [key, value] of Object.entries(json)) {
    if (key === '__metadata__') readMetadata(value, metadata, name);
    else tensors.set(key, readEntry(key, value, dataStart, name));
  }
  checkCover(tensors, dataStart, size, name);
  return { tensors, metadata };
}

function decode(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    const message = `${name}: the header is not UTF-8`;
    throw new AnchorError('ERR_MODEL_INVALID', message, { cause });
  }
}

function readMetadata(value: unknown, metadata: Map<string, string>, name: string): void {
  if (!isJson(value)) throw broken(name, `"__metadata__" is no object, but ${show(value)}`);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      throw broken(name, `"__metadata__" has "${key}" = ${show(text)}, where only texts may be`);
    }
    metadata.set(key, text);
  }
}

function readEntry(key: string, value: unknown, dataStart: number, file: string): TensorEntry {
  const fail = (problem: string) => broken(file, `tensor "${key}" ${problem}`);
  if (!isJson(value)) throw fail(`is described by ${show(value)}`);
  const { dtype, shape, data_offsets: offsets } = value;
  const bits = typeof dtype === 'string' ? bitsOf.get(dtype) : undefined;
  if (typeof dtype !== 'string' || bits === undefined) {
    throw fail(`has the unknown type ${show(dtype)}`);
  }
  if (!isSizes(shape)) throw fail(`has the shape ${show(shape)}`);
  if (!isSizes(offsets) || offsets.length !== 2) {
    throw fail(`has the offsets ${show(offsets)}`);
  }
  const [begin = 0, end = 0] = offsets;
  // Exact, since every factor and every partial product is a safe integer.
  let elements = 1;
  for (const dimension of shape) {
    elements *= dimension;
    if (!Number.isSafeInteger(elements)) throw fail(`has the shape ${show(shape)}: too big`);
  }
  const length = (elements * bits) / 8;
  if (!Number.isSafeInteger(elements * bits) || !Number.isInteger(length)) {
    throw fail(`has ${elements} elements of ${bits} bits, which are no whole bytes`);
  }
  if (end - begin !== length || !Number.isSafeInteger(dataStart + end)) {
    throw fail(`has the offsets ${begin} and ${end}, but needs ${length} bytes`);
  }
  return { dtype, shape, elements, offset: dataStart + begin, length };
}

function isSizes(value: unknown): value is number[] {
  if (!Array.isArray(value)) return false;
  return value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

// No hole, no overlap, nothing behind the last one: as the format demands.
function checkCover(
  tensors: Map<string, TensorEntry>,
  dataStart: number,
  size: number,
  name: string,
): void {
  const order = [...tensors].sort(([, a], [, b]) => a.offset - b.offset || a.length - b.length);
  let at = dataStart;
  for (const [key, { offset, length }] of order) {
    if (offset !== at) {
      const problem = offset > at ? 'leaves a hole before itself' : 'overlaps with another one';
      throw broken(name, `tensor "${key}" ${problem} at byte ${offset - dataStart} of the data`);
    }
    at += length;
  }
  if (at > size) {
    const problem = `has ${size} bytes, but its header describes ${at}`;
    throw broken(name, `${problem}; the file is incomplete`);
  }
  if (at < size) throw broken(name, `has ${size - at} bytes that belong to no tensor`);
}
