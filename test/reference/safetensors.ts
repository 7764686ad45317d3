/** Reads and writes safetensors files, for the reference and for models made by tests. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Values are float32, which holds every F16 and BF16 value exactly. */
export interface Tensor {
  shape: number[];
  data: Float32Array;
}

export type StoredType = 'F32' | 'BF16' | 'F16';

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

const word = new DataView(new ArrayBuffer(4));

/** A bfloat16 is the upper half of a float32. */
export function fromBf16(bits: number): number {
  word.setUint32(0, bits << 16);
  return word.getFloat32(0);
}

/** Nearest bfloat16, ties to even, of a finite value. */
export function toBf16(value: number): number {
  word.setFloat32(0, value);
  const bits = word.getUint32(0);
  const lower = bits & 0xffff;
  const upper = bits >>> 16;
  const up = lower > 0x8000 || (lower === 0x8000 && (upper & 1) === 1);
  return up ? upper + 1 : upper;
}

export function fromF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** Nearest float16, ties to even, of a value within its range. */
export function toF16(value: number): number {
  const sign = value < 0 ? 0x8000 : 0;
  const size = Math.abs(value);
  // Values below 2^-14 have the spacing of 2^-14.
  const exponent = Math.max(-14, size > 0 ? Math.floor(Math.log2(size)) : -14);
  const steps = roundHalfEven(size / 2 ** (exponent - 10));
  // A carry into the next power of two needs no care: it counts on into the exponent field.
  return sign | (((exponent + 14) << 10) + steps);
}

/** Nearest integer, ties to even. */
export function roundHalfEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest === 0.5) return below + (Math.abs(below) % 2);
  return rest < 0.5 ? below : below + 1;
}

function decode(bytes: Uint8Array, dtype: string): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (dtype === 'F32') {
    const data = new Float32Array(bytes.length / 4);
    for (let i = 0; i < data.length; i++) data[i] = view.getFloat32(4 * i, true);
    return data;
  }
  if (dtype !== 'BF16' && dtype !== 'F16') throw new Error(`tensor of type ${dtype}`);
  const convert = dtype === 'BF16' ? fromBf16 : fromF16;
  const data = new Float32Array(bytes.length / 2);
  for (let i = 0; i < data.length; i++) data[i] = convert(view.getUint16(2 * i, true));
  return data;
}

function readFile(path: string, into: Map<string, Tensor>): void {
  const bytes = readFileSync(path);
  const headerLength = Number(bytes.readBigUInt64LE(0));
  const start = 8 + headerLength;
  const header = JSON.parse(bytes.toString('utf8', 8, start)) as Record<string, Entry>;
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [from, to] = entry.data_offsets;
    const data = decode(bytes.subarray(start + from, start + to), entry.dtype);
    into.set(name, { shape: entry.shape, data });
  }
}

/** All tensors of a model folder, in one file or in shards. */
export function readFolder(folder: string): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  const index = join(folder, 'model.safetensors.index.json');
  if (!existsSync(index)) {
    readFile(join(folder, 'model.safetensors'), tensors);
    return tensors;
  }
  const text = readFileSync(index, 'utf8');
  const { weight_map: shards } = JSON.parse(text) as { weight_map: Record<string, string> };
  for (const file of new Set(Object.values(shards))) readFile(join(folder, file), tensors);
  return tensors;
}

function encode(data: Float32Array, dtype: StoredType): Buffer {
  if (dtype === 'F32') {
    const bytes = Buffer.alloc(4 * data.length);
    data.forEach((value, i) => void bytes.writeFloatLE(value, 4 * i));
    return bytes;
  }
  const convert = dtype === 'BF16' ? toBf16 : toF16;
  const bytes = Buffer.alloc(2 * data.length);
  data.forEach((value, i) => void bytes.writeUInt16LE(convert(value), 2 * i));
  return bytes;
}

export function writeFile(path: string, tensors: Map<string, Tensor>, dtype: StoredType): void {
  const header: Record<string, Entry> = {};
  const parts: Buffer[] = [];
  let offset = 0;
  for (const [name, { shape, data }] of tensors) {
    const bytes = encode(data, dtype);
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] };
    parts.push(bytes);
    offset += bytes.length;
  }
  const text = JSON.stringify(header);
  // Blanks at the end of the header align the data to 8 bytes.
  const json = Buffer.from(text + ' '.repeat((8 - (text.length % 8)) % 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  writeFileSync(path, Buffer.concat([length, json, ...parts]));
}
