// Headers of weight files that lie.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, test } from '@jest/globals';
import {
  type Case,
  HostileFolders,
  headerBytes,
  invalid,
  type Json,
  many,
  mega,
  offsetsOf,
  readWeights,
  unsupported,
  weights,
  writeSparse,
  writeWeights,
} from './hostile.js';

const folders = new HostileFolders();
afterAll(() => folders.remove());

const raw =
  (bytes: Uint8Array, size = bytes.length) =>
  (folder: string) =>
    writeSparse(join(folder, weights), size, bytes);

const length = (bytes: bigint) => headerBytes('', bytes);

/** Replaces the whole text of the header. */
const headerText = (text: string | Buffer) => (folder: string) => {
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  writeFileSync(
    join(folder, weights),
    Buffer.concat([start, Buffer.from(text), readWeights(folder).data]),
  );
};

const norm = 'model.norm.weight';

/** Replaces keys of one tensor's entry; undefined takes them away. */
const entry =
  (change: Json, name = norm) =>
  (folder: string) => {
    const { header, data } = readWeights(folder);
    writeWeights(folder, { ...header, [name]: { ...header[name], ...change } }, data);
  };

/** Replaces the offsets of the norm by what `f` makes of them. */
const offsets = (f: (begin: number, end: number) => unknown) => (folder: string) => {
  const [begin, end] = offsetsOf(folder, norm);
  entry({ data_offsets: f(begin, end) })(folder);
};

/** The header as text with the entry of the norm, as text, replaced by `f` of it. */
const entryText = (f: (text: string) => string) => (folder: string) => {
  const { header } = readWeights(folder);
  const text = `"${norm}":${JSON.stringify(header[norm])}`;
  headerText(JSON.stringify(header).replace(text, () => f(text)))(folder);
};

const extra = (name: string, value: unknown) =>
  entryText((t) => `${t},${JSON.stringify(name)}:${JSON.stringify(value)}`);

const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);

test('headers', async () => {
  const huge = [2 ** 26, 2 ** 27];
  const cases: Case[] = [
    [
      '2^63 bytes long',
      raw(length(1n << 63n)),
      invalid,
      /announces a header of 9223372036854775808 bytes, more than/,
    ],
    ['2^64 - 1 bytes long', raw(length((1n << 64n) - 1n)), invalid, /more than 16777216/],
    ['0 bytes long', raw(length(0n)), invalid, /header is not valid JSON/],
    [
      'beyond the file',
      raw(length(1000n), 500),
      invalid,
      /ends after 500 bytes, inside its header of 1000/,
    ],
    [
      '100 MB of blanks',
      raw(Buffer.concat([length(100_000_000n), Buffer.alloc(mega, ' ')]), 100_000_008),
      invalid,
      /more than 16777216/,
    ],
    [
      '16 MiB of blanks',
      raw(Buffer.concat([length(16n << 20n), Buffer.alloc(16 * mega, ' ')])),
      invalid,
      /not valid JSON/,
    ],
    ['16 MiB of zeros', raw(length(16n << 20n), 17 * mega), invalid, /not valid JSON/],
    ['16 MiB of brackets', headerText('['.repeat(16 * mega)), invalid, /nests deeper than the 100/],
    [
      '16 MiB of empty objects',
      headerText(`{"a":[${'{},'.repeat(5 * mega)}{}]}`),
      invalid,
      /more than the 1048576/,
    ],
    [
      'a million tensors',
      headerText(`{${many(300_000, (i) => `"t${i}":{"dtype":"U8"}`)}}`),
      invalid,
      /values, more than/,
    ],
    [
      '80,000 empty tensors and a hole',
      headerText(
        `{${many(80_000, (i) => `"t${i}":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}`)}}`,
      ),
      invalid,
      /leaves a hole/,
    ],
    ['no JSON', headerText('{"a":'), invalid, /model.safetensors: the header is not valid JSON/],
    ['a list', headerText('[1]'), invalid, /holds no JSON object/],
    [
      'no UTF-8',
      headerText(Buffer.from('7b2261ff223a317d', 'hex')),
      invalid,
      /header is not UTF-8/,
    ],
    [
      '100,000 levels deep',
      headerText(`{"a":${nested(100_000)}}`),
      invalid,
      /nests deeper than the 100 levels/,
    ],
    [
      'a name with what a terminal obeys',
      extra('\x1b]0;x\x07\u009b2J', 1),
      invalid,
      /tensor "\\u001b\]0;x\\u0007\\u009b2J" is described by 1/,
    ],
    ['a name of a megabyte', extra('x'.repeat(mega), 1), invalid, /tensor "x{57}\.\.\." is/],
    ['a number for a tensor', extra('t', 1), invalid, /tensor "t" is described by 1 \(number\)/],
    [
      '__proto__ that is no tensor',
      entryText((t) => `${t},"__proto__":{"dtype":"F32"}`),
      invalid,
      /tensor "__proto__" has the shape undefined/,
    ],
    [
      'constructor that is no tensor',
      extra('constructor', null),
      invalid,
      /tensor "constructor" is described by null/,
    ],
    ['the dtype __proto__', entry({ dtype: '__proto__' }), invalid, /unknown type "__proto__"/],
    [
      'the dtype constructor',
      entry({ dtype: 'constructor' }),
      invalid,
      /unknown type "constructor"/,
    ],
    [
      'an unknown dtype',
      entry({ dtype: 'Q4_K' }),
      invalid,
      /"model.norm.weight" has the unknown type "Q4_K"/,
    ],
    ['no dtype', entry({ dtype: undefined }), invalid, /unknown type undefined/],
    [
      'integers',
      entry({ dtype: 'I32' }),
      unsupported,
      /is of the type I32; supported: F32, F16, BF16/,
    ],
    [
      'a dtype of another width',
      entry({ dtype: 'F64' }),
      invalid,
      /has the offsets .* but needs 64 bytes/,
    ],
    [
      'the shape of another model',
      entry({ shape: [2, 4] }),
      invalid,
      /to have the shape \[8\] by config.json, but it has \[2, 4\]/,
    ],
    ['a shape for other bytes', entry({ shape: [9] }), invalid, /but needs 36 bytes/],
    [
      'a product beyond 2^53',
      entry({ shape: huge }),
      invalid,
      /shape \[67108864,134217728\].*too big/,
    ],
    [
      'a product that wraps to its length',
      entry({ shape: [8, 2 ** 32, 2 ** 32, 0] }),
      invalid,
      /shape|bytes/,
    ],
    [
      'a shape of a million ones',
      entry({ shape: Array(900_000).fill(1) }),
      invalid,
      /offsets|shape/,
    ],
    ['a negative shape', entry({ shape: [-8] }), invalid, /has the shape \[-8\]/],
    ['a shape of texts', entry({ shape: ['8'] }), invalid, /has the shape \["8"\]/],
    ['a fraction for a shape', entry({ shape: [7.5] }), invalid, /has the shape \[7.5\]/],
    [
      'offsets that overlap',
      offsets((b, e) => [b - 4, e - 4]),
      invalid,
      /overlaps with another one/,
    ],
    [
      'offsets that leave a hole',
      offsets((b, e) => [b + 4, e + 4]),
      invalid,
      /leaves a hole|overlaps/,
    ],
    ['offsets beyond 2^53', offsets(() => [2 ** 53 + 2, 2 ** 53 + 34]), invalid, /has the offsets/],
    ['offsets at 2^53 - 1', offsets(() => [2 ** 53 - 33, 2 ** 53 - 1]), invalid, /has the offsets/],
    [
      'infinite offsets',
      entryText((t) => t.replace(/"data_offsets":.*\]/, '"data_offsets":[0,1e999]')),
      invalid,
      /has the offsets/,
    ],
    ['negative offsets', offsets(() => [-32, 0]), invalid, /has the offsets \[-32,0\]/],
    ['fractions for offsets', offsets((b, e) => [b + 0.5, e + 0.5]), invalid, /has the offsets/],
    ['texts for offsets', offsets((b, e) => [String(b), String(e)]), invalid, /has the offsets/],
    ['offsets outside', offsets((b, e) => [b + 1e6, e + 1e6]), invalid, /hole|incomplete/],
    ['offsets backwards', offsets((b, e) => [e, b]), invalid, /but needs 32 bytes/],
    ['one offset', offsets((b) => [b]), invalid, /has the offsets/],
    [
      'an object for offsets',
      offsets((b, e) => ({ 0: b, 1: e, length: 2 })),
      invalid,
      /has the offsets/,
    ],
    [
      'a tensor twice',
      entryText((t) => `${t},${t}`),
      invalid,
      /has the key "model.norm.weight" twice in one object/,
    ],
    [
      'a tensor twice, once escaped',
      entryText((t) => `${t},${t.replace('model', '\\u006dodel')}`),
      invalid,
      /has the key "model.norm.weight" twice/,
    ],
    [
      'two dtypes',
      entryText((t) => t.replace('{', '{"dtype":"I8",')),
      invalid,
      /has the key "dtype" twice/,
    ],
    [
      'metadata that is no object',
      extra('__metadata__', [1]),
      invalid,
      /"__metadata__" is no object/,
    ],
    ['metadata that is no text', extra('__metadata__', { format: 7 }), invalid, /"format" = 7/],
  ];
  await folders.check(cases);
});
