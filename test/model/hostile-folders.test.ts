// Indexes that lie, shards and other files that are none, and what looks odd and is fine.
import { execFileSync } from 'node:child_process';
import {
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import {
  type Case,
  edit,
  HostileFolders,
  headerBytes,
  index,
  invalid,
  many,
  mega,
  missing,
  readWeights,
  unsupported,
  weights,
  writeJson,
  writeSparse,
  writeWeights,
} from './hostile.js';

const folders = new HostileFolders();
afterAll(() => folders.remove());

const norm = 'model.norm.weight';

/** Another entry of the header, before all others. */
const extra = (name: string, value: unknown) => (folder: string) => {
  const { header, data } = readWeights(folder);
  const own = `{${JSON.stringify(name)}:${JSON.stringify(value)},`;
  writeWeights(folder, JSON.stringify(header).replace('{', own), data);
};

/** Splits the weights into a file for each tensor. */
function shard(folder: string): Record<string, string> {
  const { header, data } = readWeights(folder);
  const map: Record<string, string> = {};
  let total = 0;
  for (const [name, entry] of Object.entries(header)) {
    const [begin, end] = entry.data_offsets;
    map[name] = `model-${Object.keys(map).length}.safetensors`;
    const own = { [name]: { ...entry, data_offsets: [0, end - begin] } };
    writeFileSync(
      join(folder, map[name]),
      Buffer.concat([headerBytes(own), data.subarray(begin, end)]),
    );
    total += end - begin;
  }
  rmSync(join(folder, weights));
  writeJson(folder, index, { metadata: { total_size: total }, weight_map: map });
  return map;
}

const sharded =
  (build: (folder: string, map: Record<string, string>) => void) => (folder: string) =>
    build(folder, shard(folder));

/** Gives the norm's shard another name in the index. */
const named = (file: unknown) =>
  sharded((folder, map) => edit(index, { weight_map: { ...map, [norm]: file } })(folder));

test('indexes and shards', async () => {
  const of = (map: Record<string, string>, name = norm) => map[name] as string;
  const cases: Case[] = [
    ...[
      '../x.safetensors',
      '/etc/x.safetensors',
      'sub/x.safetensors',
      '..\\x.safetensors',
      'x\0.safetensors',
      '',
      '..',
      'x.bin',
      `${'x'.repeat(1000)}.safetensors`,
    ].map(
      (file): Case => [
        `the file ${file.slice(0, 30)}`,
        named(file),
        invalid,
        /index.json: expected the file of "model.norm.weight" to be the name/,
      ],
    ),
    ...[7, null, ['model-0.safetensors'], {}].map(
      (file): Case => [
        `the file ${JSON.stringify(file)}`,
        named(file),
        invalid,
        /expected the file of/,
      ],
    ),
    [
      'a missing shard',
      sharded((folder, map) => rmSync(join(folder, of(map)))),
      missing,
      /has no file model-\d+.safetensors, which its index names/,
    ],
    [
      'an empty shard',
      sharded((folder, map) => writeFileSync(join(folder, of(map)), '')),
      invalid,
      /has 0 bytes, too few/,
    ],
    [
      'a shard without tensors',
      sharded((folder, map) => writeFileSync(join(folder, of(map)), headerBytes({}))),
      invalid,
      /does not hold "model.norm.weight"/,
    ],
    [
      'a shard in place of another',
      sharded((folder, map) =>
        writeFileSync(join(folder, of(map)), readFileSync(join(folder, of(map, 'lm_head.weight')))),
      ),
      invalid,
      /holds "lm_head.weight", which .* puts into|does not hold/,
    ],
    [
      'a shard with a tensor more',
      sharded((folder, map) =>
        writeFileSync(
          join(folder, of(map)),
          headerBytes({ x: { dtype: 'U8', shape: [0], data_offsets: [0, 0] } }),
        ),
      ),
      invalid,
      /holds "x", which .* does not name/,
    ],
    [
      'a tensor that no shard holds',
      named('model-0.safetensors'),
      invalid,
      /does not hold|puts into/,
    ],
    [
      'a folder for a shard',
      sharded((folder, map) => {
        rmSync(join(folder, of(map)));
        mkdirSync(join(folder, of(map)));
      }),
      invalid,
      /is not a regular file/,
    ],
    [
      'a pipe for a shard',
      sharded((folder, map) => {
        rmSync(join(folder, of(map)));
        execFileSync('mkfifo', [join(folder, of(map))]);
      }),
      invalid,
      /is not a regular file/,
    ],
    [
      'a weight_map that is a list',
      sharded(edit(index, { weight_map: [] })),
      invalid,
      /expected "weight_map" to be an object/,
    ],
    [
      'no weight_map',
      sharded(edit(index, { weight_map: undefined })),
      invalid,
      /expected "weight_map" to be an object, not undefined/,
    ],
    ['an empty weight_map', sharded(edit(index, { weight_map: {} })), invalid, /names no tensors/],
    [
      'a tensor twice',
      sharded((folder) => {
        const path = join(folder, index);
        writeFileSync(
          path,
          readFileSync(path, 'utf8').replace(
            `"${norm}"`,
            `"${norm}":"model-0.safetensors","${norm}"`,
          ),
        );
      }),
      invalid,
      /has the key "model.norm.weight" twice/,
    ],
    [
      'a total_size that is no size',
      sharded(edit(index, { metadata: { total_size: 'all' } })),
      invalid,
      /expected "metadata.total_size" to be a number of bytes, not "all"/,
    ],
    [
      'a negative total_size',
      sharded(edit(index, { metadata: { total_size: -1 } })),
      invalid,
      /total_size/,
    ],
    [
      '5000 shards',
      sharded((folder) =>
        edit(index, {
          weight_map: Object.fromEntries(
            Array.from({ length: 5000 }, (_, i) => [`t${i}`, `${i}.safetensors`]),
          ),
        })(folder),
      ),
      invalid,
      /names 5000 files, more than the 4096/,
    ],
    [
      'many shards of long headers',
      sharded((folder, map) => {
        const first = join(folder, '0.safetensors');
        writeFileSync(first, headerBytes(`{}${' '.repeat(8 * mega)}`));
        const names = Array.from({ length: 50 }, (_, i) => `${i}.safetensors`);
        for (const name of names.slice(1)) linkSync(first, join(folder, name));
        edit(index, {
          weight_map: { ...map, ...Object.fromEntries(names.map((name) => [name, name])) },
        })(folder);
      }),
      invalid,
      /makes those of all files longer than the 33554432 bytes/,
    ],
    [
      'an index of a gigabyte',
      sharded((folder) => writeSparse(join(folder, index), 2 ** 30)),
      invalid,
      /index.json has 1073741824 bytes, more than the 16777216/,
    ],
    [
      'an index of a million entries',
      sharded((folder) =>
        writeJson(
          folder,
          index,
          `{"weight_map":{${many(600_000, (i) => `"${i}x":"m.safetensors"`)}}}`,
        ),
      ),
      invalid,
      /values, more than/,
    ],
    [
      'an index of 250,000 entries',
      sharded((folder) =>
        writeJson(
          folder,
          index,
          `{"weight_map":{${many(250_000, (i) => `"${i}x":"m.safetensors"`)}}}`,
        ),
      ),
      missing,
      /has no file m.safetensors/,
    ],
  ];
  await folders.check(cases);
});

test('files that are none', async () => {
  const without =
    (name: string, then: (folder: string) => void = () => {}) =>
    (folder: string) => {
      rmSync(join(folder, name));
      then(folder);
    };
  const put = (name: string) => (folder: string) => writeFileSync(join(folder, name), 'x');
  const names = [
    'config.json',
    'generation_config.json',
    weights,
    'tokenizer.json',
    'tokenizer_config.json',
  ];
  const replaced = (make: (path: string) => void, sentence: RegExp, code: Case[2] = invalid) =>
    names.map(
      (name): Case => [
        name,
        (folder) => {
          rmSync(join(folder, name), { force: true });
          make(join(folder, name));
        },
        code,
        sentence,
      ],
    );
  const pickles = [
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
    'pytorch_model-00001-of-00002.bin',
    'model.pt',
    'consolidated.00.pth',
    'model.ckpt',
  ];
  const cases: Case[] = [
    ...replaced((path) => execFileSync('mkfifo', [path]), /is not a regular file/),
    ...replaced((path) => mkdirSync(path), /is not a regular file/),
    ...replaced((path) => symlinkSync('/dev/zero', path), /is not a regular file/),
    ...replaced((path) => symlinkSync(path, path), /cannot be read: ELOOP/, missing),
    ...replaced((path) => writeFileSync(path, ''), /JSON|too few/),
    ...names
      .filter((name) => name !== weights)
      .map(
        (name): Case => [
          `${name} of a gigabyte`,
          (folder) => writeSparse(join(folder, name), 2 ** 30),
          invalid,
          /has 1073741824 bytes, more than/,
        ],
      ),
    // Regular by its type, of no size, and without an end.
    [
      'a file of the system',
      (folder) => {
        rmSync(join(folder, 'config.json'));
        symlinkSync('/proc/self/maps', join(folder, 'config.json'));
      },
      invalid,
      /not valid JSON/,
    ],
    ['no config.json', without('config.json'), missing, /has no config.json/],
    ['no weights', without(weights), missing, /holds neither model.safetensors nor/],
    [
      'only a GGUF',
      without(weights, put('model.gguf')),
      missing,
      /but "model.gguf", which is not read/,
    ],
    [
      'weights of another name',
      without(weights, put('adapter.safetensors')),
      missing,
      /but "adapter.safetensors"/,
    ],
    ...pickles.map(
      (name): Case => [
        name,
        without(weights, put(name)),
        unsupported,
        /a pickle may run any code.*convert them with save_pretrained/,
      ],
    ),
    [
      'an adapter',
      without(weights, put('adapter_config.json')),
      unsupported,
      /is an adapter .* name this folder in the option/,
    ],
    [
      'an adapter alone',
      without('config.json', put('adapter_config.json')),
      unsupported,
      /is an adapter/,
    ],
  ];
  await folders.check(cases);
});

test('what looks odd and is fine loads', async () => {
  const moved = folders.make();
  const plain = folders.make();
  const builds: ((folder: string) => void)[] = [
    // As in a cache of downloads, where every file is a link to elsewhere.
    (folder) => {
      for (const name of [weights, 'config.json', 'tokenizer.json']) {
        rmSync(join(folder, name));
        symlinkSync(join(moved, name), join(folder, name));
      }
    },
    sharded((folder, map) => {
      const file = map[norm] as string;
      renameSync(join(folder, file), join(moved, file));
      symlinkSync(join(moved, file), join(folder, file));
    }),
    sharded(edit(index, { metadata: { total_size: 5 } })),
    sharded(edit(index, { metadata: null })),
    (folder) => writeFileSync(join(folder, 'adapter_config.json'), '{}'),
    extra('__metadata__', null),
    extra('__proto__', { dtype: 'U8', shape: [0], data_offsets: [0, 0] }),
    extra('constructor', { dtype: 'U8', shape: [0], data_offsets: [0, 0] }),
    edit('config.json', {
      constructor: { per: 1 },
      toString: 1,
      valueOf: null,
      hasOwnProperty: [],
    }),
    (folder) => {
      const text = readFileSync(join(folder, 'config.json'), 'utf8');
      writeJson(folder, 'config.json', `\uFEFF${text.replace('{', '{"__proto__":{"per":2},')}`);
    },
  ];
  const all = builds.map((build) => {
    const folder = folders.make();
    build(folder);
    return folder;
  });
  const [expected, ...outcomes] = await folders.load([plain, ...all]);
  expect(expected?.logits).toHaveLength(64);
  for (const { logits, message } of outcomes)
    expect([message, logits]).toEqual([undefined, expected?.logits]);
  expect(outcomes.map(({ warnings }) => warnings?.join())).toEqual([
    '',
    '',
    expect.stringMatching(/index.json says that the weights have 5 bytes, but they have \d+/),
    '',
    expect.stringContaining('Not used: the adapter that adapter_config.json describes'),
    '',
    expect.stringContaining('"__proto__"'),
    expect.stringContaining('"constructor"'),
    '',
    '',
  ]);
});
