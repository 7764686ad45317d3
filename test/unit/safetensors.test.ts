// Headers that contradict themselves, their file or their index.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { headerLength, parseHeader, parseIndex, readWeightFiles } from '../../lib/safetensors.js';

function error(code: string, text: string) {
  const message = expect.stringContaining(text);
  return expect.objectContaining({ name: 'AnchorError', code, message });
}

const invalid = (text: string) => error('ERR_MODEL_INVALID', text);

function parse(header: unknown, data: number, text = JSON.stringify(header)) {
  const bytes = new TextEncoder().encode(text);
  return parseHeader(bytes, 8 + bytes.length + data, 'x.safetensors');
}

function tensor(dtype: unknown, shape: unknown, data_offsets: unknown) {
  return { dtype, shape, data_offsets };
}

function fileOf(header: object, data: number): Buffer {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, Buffer.alloc(data)]);
}

describe('a header', () => {
  test('gives places in the file, in any order and at any byte', () => {
    const header = {
      __metadata__: { format: 'pt' },
      b: tensor('BF16', [2, 3], [3, 15]),
      a: tensor('I8', [3], [0, 3]),
      none: tensor('F32', [0, 7], [3, 3]),
      scalar: tensor('F32', [], [15, 19]),
      __proto__x: tensor('U8', [1], [19, 20]),
    };
    const start = 8 + JSON.stringify(header).length;
    const { tensors, metadata } = parse(header, 20);
    expect(tensors.get('b')).toEqual({
      ...{ dtype: 'BF16', shape: [2, 3], elements: 6, offset: start + 3, length: 12 },
    });
    expect(tensors.get('none')).toMatchObject({ elements: 0, length: 0 });
    expect(tensors.get('scalar')).toMatchObject({ elements: 1, length: 4 });
    expect(metadata.get('format')).toBe('pt');
  });

  test('may be empty, and may end in blanks', () => {
    expect(parse({}, 0).tensors.size).toBe(0);
    expect(parse({}, 0, '{}      ').tensors.size).toBe(0);
  });

  test('may use names that objects have of their own', () => {
    const text =
      '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"toString":' +
      '{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}';
    expect([...parse({}, 2, text).tensors.keys()]).toEqual(['__proto__', 'toString']);
  });

  const f32 = (shape: unknown, offsets: unknown) => ({ t: tensor('F32', shape, offsets) });
  test.each<[string, unknown, number, string]>([
    ['no object', [], 0, 'the header holds no JSON object'],
    ['null', null, 0, 'the header holds no JSON object'],
    ['a tensor that is none', { t: 1 }, 0, 'tensor "t" is described by 1 (number)'],
    ['a tensor that is null', { t: null }, 0, 'is described by null'],
    ['an unknown type', { t: tensor('F12', [1], [0, 1]) }, 1, 'the unknown type "F12"'],
    ['a type in a list', { t: tensor(['F32'], [1], [0, 4]) }, 4, 'the unknown type ["F32"]'],
    ['no type', { t: tensor(undefined, [1], [0, 4]) }, 4, 'the unknown type undefined'],
    ['a negative size', f32([-1], [0, 4]), 4, 'has the shape [-1]'],
    ['a broken size', f32([1.5], [0, 6]), 6, 'has the shape [1.5]'],
    ['a size beyond integers', f32([2 ** 60], [0, 4]), 4, 'has the shape'],
    ['no shape', f32(undefined, [0, 4]), 4, 'has the shape undefined'],
    ['a product beyond integers', f32([2 ** 30, 2 ** 30], [0, 4]), 4, 'too big'],
    ['a product that would wrap to 0', f32([2 ** 32, 2 ** 32], [0, 0]), 0, 'too big'],
    ['bytes beyond integers', f32([2 ** 50], [0, 4]), 4, 'which are no whole bytes'],
    ['half a byte', { t: tensor('F4', [3], [0, 2]) }, 2, 'no whole bytes'],
    ['no offsets', f32([1], undefined), 4, 'has the offsets undefined'],
    ['one offset', f32([1], [0]), 4, 'has the offsets [0]'],
    ['three offsets', f32([1], [0, 4, 8]), 4, 'has the offsets [0,4,8]'],
    ['offsets backwards', f32([1], [4, 0]), 4, 'but needs 4 bytes'],
    ['a negative offset', f32([1], [-4, 0]), 4, 'has the offsets [-4,0]'],
    ['offsets of another size', f32([1], [0, 8]), 8, 'has the offsets 0 and 8, but needs 4'],
    ['a hole in front', f32([1], [4, 8]), 8, 'leaves a hole before itself at byte 4'],
    ['metadata that is no object', { __metadata__: 1 }, 0, '"__metadata__" is no object'],
    ['metadata that is no text', { __metadata__: { a: 1 } }, 0, '"a" = 1 (number)'],
    ['data that is cut off', f32([1], [0, 4]), 3, 'the file is incomplete'],
    ['data left over', f32([1], [0, 4]), 6, '2 bytes that belong to no tensor'],
    [
      'a hole',
      { a: tensor('U8', [1], [0, 1]), b: tensor('U8', [1], [2, 3]) },
      3,
      'tensor "b" leaves a hole',
    ],
    [
      'an overlap',
      { a: tensor('U8', [2], [0, 2]), b: tensor('U8', [2], [1, 3]) },
      3,
      'tensor "b" overlaps with another one at byte 1',
    ],
    [
      'the same bytes twice',
      { a: tensor('U8', [2], [0, 2]), b: tensor('U8', [2], [0, 2]) },
      2,
      'overlaps with another one',
    ],
  ])('with %s is refused', (_, header, data, text) => {
    expect(() => parse(header, data)).toThrow(invalid(text));
  });

  test('that is no JSON, or no UTF-8, is refused', () => {
    expect(() => parse({}, 0, '{"a":')).toThrow(invalid('the header is not valid JSON'));
    const bytes = Uint8Array.of(0x7b, 0xff, 0x7d);
    expect(() => parseHeader(bytes, 11, 'x.safetensors')).toThrow(invalid('is not UTF-8'));
  });

  test.each<[string, number[], number, string]>([
    ['too short a file', [1, 0, 0], 3, 'has 3 bytes, too few'],
    ['a header past the end', [9, 0, 0, 0, 0, 0, 0, 0], 16, 'ends after 16 bytes, inside its'],
    ['a header beyond the cap', [0, 0xe2, 0xf5, 5, 0, 0, 0, 1], 16, 'it is no safetensors file'],
    ['a length of all ones', Array(8).fill(255), 16, 'announces a header of 18446744073709551615'],
  ])('%s is refused', (_, start, size, text) => {
    const length = () => headerLength(Uint8Array.from(start), size, 'x.safetensors');
    expect(length).toThrow(invalid(text));
  });

  test('survives every single byte changed', () => {
    const text = JSON.stringify({ a: tensor('F16', [2, 2], [0, 8]), b: tensor('U8', [1], [8, 9]) });
    for (let at = 0; at < text.length; ++at) {
      for (const letter of ['0', '9', '"', '}', ']', ',', 'e', '-', '\0']) {
        const changed = text.slice(0, at) + letter + text.slice(at + 1);
        try {
          const { tensors } = parse({}, 9, changed);
          for (const { offset, length } of tensors.values()) {
            expect(offset + length).toBeLessThanOrEqual(8 + text.length + 9);
          }
        } catch (problem) {
          expect(problem).toMatchObject({ name: 'AnchorError', code: 'ERR_MODEL_INVALID' });
        }
      }
    }
  });
});

describe('an index', () => {
  test.each([
    '../x.safetensors',
    '/etc/x.safetensors',
    'sub/x.safetensors',
    'sub\\x.safetensors',
    'x\0.safetensors',
    'x.bin',
    '.safetensors/..',
    '..',
    '',
    7,
    null,
  ])('with the file %p is refused', (file) => {
    expect(() => parseIndex({ weight_map: { t: file } })).toThrow(invalid('expected the file of'));
  });

  test.each([undefined, null, [], 'x', {}])('with the map %p is refused', (weight_map) => {
    expect(() => parseIndex({ weight_map })).toThrow(invalid('weight_map'));
  });
});

describe('a folder', () => {
  let folder: string;
  const put = (name: string, content: string | Buffer) =>
    writeFileSync(join(folder, name), content);
  const putIndex = (weight_map: object) =>
    put('model.safetensors.index.json', JSON.stringify({ weight_map }));
  const shard = (name: string) => fileOf({ [name]: tensor('U8', [2], [0, 2]) }, 2);

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'anchorcoder-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  test('with one file', async () => {
    put('model.safetensors', shard('t'));
    const { files, tensors } = await readWeightFiles(folder);
    expect(files).toEqual([{ path: join(folder, 'model.safetensors'), size: expect.any(Number) }]);
    expect(tensors.get('t')).toMatchObject({ file: 0, length: 2 });
  });

  test('with shards', async () => {
    put('b.safetensors', shard('t'));
    put('a.safetensors', shard('u'));
    putIndex({ t: 'b.safetensors', u: 'a.safetensors' });
    const { files, tensors } = await readWeightFiles(folder);
    expect(files.map(({ path }) => path)).toEqual([
      join(folder, 'a.safetensors'),
      join(folder, 'b.safetensors'),
    ]);
    expect(tensors.get('t')?.file).toBe(1);
  });

  test('with a shard that is missing', async () => {
    put('a.safetensors', shard('t'));
    putIndex({ t: 'a.safetensors', u: 'b.safetensors' });
    await expect(readWeightFiles(folder)).rejects.toEqual(
      error('ERR_MODEL_NOT_FOUND', 'has no file b.safetensors, which its index names'),
    );
  });

  test('with a tensor that is missing', async () => {
    put('a.safetensors', shard('t'));
    putIndex({ t: 'a.safetensors', u: 'a.safetensors' });
    await expect(readWeightFiles(folder)).rejects.toEqual(invalid('does not hold "u"'));
  });

  test('with a tensor that the index does not name', async () => {
    put('a.safetensors', fileOf({ t: tensor('U8', [1], [0, 1]), u: tensor('U8', [1], [1, 2]) }, 2));
    putIndex({ t: 'a.safetensors' });
    await expect(readWeightFiles(folder)).rejects.toEqual(
      invalid('holds "u", which model.safetensors.index.json does not name'),
    );
  });

  test('with a tensor in two shards', async () => {
    put('a.safetensors', shard('t'));
    put('b.safetensors', fileOf({ t: tensor('U8', [1], [0, 1]), u: tensor('U8', [1], [1, 2]) }, 2));
    putIndex({ t: 'a.safetensors', u: 'b.safetensors' });
    await expect(readWeightFiles(folder)).rejects.toEqual(invalid('puts into a.safetensors'));
  });

  test('with pickles only', async () => {
    put('pytorch_model.bin', '');
    await expect(readWeightFiles(folder)).rejects.toEqual(
      error('ERR_MODEL_UNSUPPORTED', 'pytorch_model.bin only: a pickle may run any code'),
    );
  });

  test('with nothing', async () => {
    await expect(readWeightFiles(folder)).rejects.toEqual(
      error('ERR_MODEL_NOT_FOUND', 'holds neither model.safetensors nor'),
    );
  });

  test('with an empty file', async () => {
    put('model.safetensors', '');
    await expect(readWeightFiles(folder)).rejects.toEqual(invalid('has 0 bytes, too few'));
  });

  test('with a file that is cut anywhere', async () => {
    const whole = fileOf({ t: tensor('F32', [4], [0, 16]) }, 16);
    for (let length = 0; length < whole.length; ++length) {
      put('model.safetensors', whole.subarray(0, length));
      await expect(readWeightFiles(folder)).rejects.toMatchObject({ code: 'ERR_MODEL_INVALID' });
    }
  });
});
