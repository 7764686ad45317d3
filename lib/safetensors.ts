/**
 * Reads the headers of safetensors files and the index of a sharded model; never the data. Layout
 * of a file: length of the header (8 bytes, little-endian), header (JSON), data.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { AnchorError } from './errors.js';
import { readBytes, readJson, withFile } from './files.js';
import { isJson, type Json, parseJson } from './json.js';
import { brief, printable, quote, show } from './show.js';

// A tensor's entry has some 130 bytes, and the largest models known have 100,000 of them. The
// format itself allows headers of 100 MB, of all files together as many as there are.
const maxHeaderBytes = 16 << 20;
const maxHeaderBytesOfAll = 32 << 20;
// A quarter of a million tensors.
const indexRules = { bytes: 16 << 20, marks: 1 << 19, unique: true };
const maxShards = 4096;

/** Beside the weights of an adapter, such as LoRA's. */
export const adapterName = 'adapter_config.json';
const singleName = 'model.safetensors';
const indexName = 'model.safetensors.index.json';

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

/** Sentence on a folder with an adapter and no model. */
export function adapterProblem(folder: string): string {
  return (
    `"${folder}" is an adapter (${adapterName}) without its model; load the model that it was ` +
    'trained for, and name this folder in the option "adapter"'
  );
}

/** The weight files of a folder and what they hold together. */
export interface WeightFiles {
  files: { path: string; size: number }[];
  /** By name; `file` is an index into `files`. */
  tensors: Map<string, TensorEntry & { file: number }>;
  /** Sentences on what is odd and does no harm. */
  warnings: string[];
}

function broken(name: string, problem: string): AnchorError {
  return new AnchorError('ERR_MODEL_INVALID', `${printable(name)}: ${problem}`);
}

/**
 * Finds `model.safetensors`, or the files that `model.safetensors.index.json` names, and reads
 * their headers.
 * @throws `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED` (pickles only)
 */
export async function readWeightFiles(folder: string): Promise<WeightFiles> {
  const single = await readHeader(folder, singleName, maxHeaderBytes);
  if (single) {
    const { tensors, size } = single;
    const entries = [...tensors].map(([name, entry]) => [name, { ...entry, file: 0 }] as const);
    const files = [{ path: join(folder, singleName), size }];
    return { files, tensors: new Map(entries), warnings: [] };
  }
  const index = await readJson(folder, indexName, indexRules);
  if (!index) throw await noWeights(folder);
  const weights = await readShards(folder, parseIndex(index));
  weights.warnings.push(...checkTotalSize(index, weights));
  return weights;
}

/** The header of a file, and its size in bytes; undefined without the file. */
export function readWeightFile(folder: string, name: string): Promise<ReadHeader | undefined> {
  return readHeader(folder, name, maxHeaderBytes);
}

// In which other form a folder has its weights, if it has any.
async function noWeights(folder: string): Promise<AnchorError> {
  const names = (await readdir(folder).catch(() => [])).sort();
  const unsupported = (message: string) => new AnchorError('ERR_MODEL_UNSUPPORTED', message);
  if (names.includes(adapterName)) return unsupported(adapterProblem(folder));
  // Not what trainers leave beside the weights, such as training_args.bin.
  const pickle = names.find((name) =>
    /^(pytorch_model|model|consolidated)\b.*\.(bin|pt|pth|ckpt)(\.index\.json)?$/.test(name),
  );
  const other = pickle ?? names.find((name) => /\.(bin|pt|pth|ckpt|pkl)$/.test(name));
  if (other !== undefined) {
    return unsupported(
      `"${folder}" has its weights in ${brief(other)} only: a pickle may run any code when it is ` +
        'read, so only safetensors are; convert them with ' +
        'save_pretrained(folder, safe_serialization=True)',
    );
  }
  const foreign = names.find((name) => /\.(gguf|ggml|h5|msgpack|onnx|safetensors)$/.test(name));
  const instead = foreign === undefined ? '' : `, but ${quote(foreign)}, which is not read`;
  const message = `"${folder}" holds neither ${singleName} nor ${indexName}${instead}`;
  return new AnchorError('ERR_MODEL_NOT_FOUND', message);
}

// Of what was really written: some tools count headers too, or keep the size before a conversion,
// so a difference is said and not refused. Each shard has been checked byte by byte.
function checkTotalSize({ metadata }: Json, { files, tensors }: WeightFiles): string[] {
  const total = isJson(metadata) ? metadata.total_size : undefined;
  if (total === undefined || total === null) return [];
  if (typeof total !== 'number' || !Number.isSafeInteger(total) || total < 0) {
    const problem = `expected "metadata.total_size" to be a number of bytes, not ${show(total)}`;
    throw broken(indexName, problem);
  }
  let bytes = 0;
  for (const { length } of tensors.values()) bytes += length;
  const onDisk = files.reduce((sum, { size }) => sum + size, 0);
  if (total === bytes || total === onDisk) return [];
  return [`${indexName} says that the weights have ${total} bytes, but they have ${bytes}`];
}

/**
 * File name of every tensor. Names are judged and not where they lead: caches of downloads are full
 * of links.
 * @throws `ERR_MODEL_INVALID` for names that could leave the folder
 */
export function parseIndex(index: Json): Map<string, string> {
  const { weight_map: map } = index;
  if (!isJson(map)) {
    throw broken(indexName, `expected "weight_map" to be an object, not ${show(map)}`);
  }
  const files = new Map<string, string>();
  for (const [tensor, file] of Object.entries(map)) {
    if (typeof file !== 'string' || !/^[^/\\\0]{1,200}\.safetensors$/.test(file)) {
      const expectation = `expected the file of ${quote(tensor)} to be the name of a .safetensors`;
      throw broken(indexName, `${expectation} file in the same folder, but it is ${show(file)}`);
    }
    files.set(tensor, file);
  }
  if (files.size === 0) throw broken(indexName, '"weight_map" names no tensors');
  return files;
}

async function readShards(folder: string, fileOf: Map<string, string>): Promise<WeightFiles> {
  const shards = [...new Set(fileOf.values())].sort();
  if (shards.length > maxShards) {
    const problem = `names ${shards.length} files, more than the ${maxShards} that are read`;
    throw broken(indexName, problem);
  }
  const result: WeightFiles = { files: [], tensors: new Map(), warnings: [] };
  let left = maxHeaderBytesOfAll;
  for (const [file, shard] of shards.entries()) {
    const header = await readHeader(folder, shard, left);
    if (!header) {
      const message = `"${folder}" has no file ${brief(shard)}, which its index names`;
      throw new AnchorError('ERR_MODEL_NOT_FOUND', message);
    }
    left -= header.bytes;
    result.files.push({ path: join(folder, shard), size: header.size });
    for (const [name, entry] of header.tensors) {
      const named = fileOf.get(name);
      if (named !== shard) {
        const elsewhere = named === undefined ? 'does not name' : `puts into ${brief(named)}`;
        throw broken(shard, `holds ${quote(name)}, which ${indexName} ${elsewhere}`);
      }
      result.tensors.set(name, { ...entry, file });
    }
  }
  for (const [name, shard] of fileOf) {
    if (result.tensors.has(name)) continue;
    throw broken(shard, `does not hold ${quote(name)}, which ${indexName} puts there`);
  }
  return result;
}

/** A header, and sizes in bytes of the file and of the header. */
type ReadHeader = Header & { size: number; bytes: number };

// Undefined where there is no such file; `most`: bytes that its header may have.
async function readHeader(
  folder: string,
  name: string,
  most: number,
): Promise<ReadHeader | undefined> {
  return withFile(join(folder, name), async (file, size) => {
    const start = await readBytes(file, 0, Math.min(8, size), name);
    const length = headerLength(start, size, name);
    if (length > most) {
      const problem = `has a header of ${length} bytes, which makes those of all files longer`;
      throw broken(name, `${problem} than the ${maxHeaderBytesOfAll} bytes that are read`);
    }
    const bytes = await readBytes(file, 8, length, name);
    return { ...parseHeader(bytes, size, name), size, bytes: length };
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
  const json = parseJson(bytes, `${printable(name)}: the header`, { unique: true });
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

function readMetadata(value: unknown, metadata: Map<string, string>, name: string): void {
  if (value === null) return;
  if (!isJson(value)) throw broken(name, `"__metadata__" is no object, but ${show(value)}`);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      throw broken(
        name,
        `"__metadata__" has ${quote(key)} = ${show(text)}, where only texts may be`,
      );
    }
    metadata.set(key, text);
  }
}

function readEntry(key: string, value: unknown, dataStart: number, file: string): TensorEntry {
  const fail = (problem: string) => broken(file, `tensor ${quote(key)} ${problem}`);
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
      throw broken(
        name,
        `tensor ${quote(key)} ${problem} at byte ${offset - dataStart} of the data`,
      );
    }
    at += length;
  }
  if (at > size) {
    const problem = `has ${size} bytes, but its header describes ${at}`;
    throw broken(name, `${problem}; the file is incomplete`);
  }
  if (at < size) throw broken(name, `has ${size - at} bytes that belong to no tensor`);
}
