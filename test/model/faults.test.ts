// What users get wrong, through the public API: every mistake is refused with a code and a
// sentence, soon, and what else runs in the process goes on.
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { Chunk, ErrorCode, GenerateOptions, Model, Session } from '../../types/api.js';
import { goldenModel } from '../golden/load.js';
import { continuation, Folders, type Json, readAll, weightFile } from './folders.js';
import { firstDifference } from './tiny.js';

const folders = new Folders();
afterAll(() => folders.remove());

const { folder: tinyllama, prompts } = goldenModel('tinyllama');
const { folder: sharded } = goldenModel('sharded');
const { ids } = prompts.short;
const milliseconds = 2000;

let model: Model;
let other: AsyncIterableIterator<Chunk>;
let logits: Float32Array;
beforeAll(async () => {
  model = await loadModel(tinyllama, { compute: 'exact' });
  logits = await readAll(model, ids);
  const session = model.createSession();
  await session.append(ids);
  other = session.generate({ stopTokens: [] });
});
afterAll(() => model.dispose());

// A generation that is under way the whole time, and the same logits as before.
afterEach(async () => {
  const { value, done } = await other.next();
  expect([done, typeof value?.id]).toEqual([false, 'number']);
  expect(firstDifference(await readAll(model, ids), logits)).toBe(-1);
});

/** Checks that a call fails in time, with the code and a sentence that holds all the texts. */
async function expectRefused(
  call: () => unknown,
  code: ErrorCode,
  ...texts: string[]
): Promise<void> {
  const start = performance.now();
  const error = await Promise.resolve()
    .then(call)
    .then(
      () => undefined,
      (reason: unknown) => reason,
    );
  expect(performance.now() - start).toBeLessThan(milliseconds);
  expect(error).toMatchObject({ name: 'AnchorError', code });
  for (const text of texts) expect((error as Error).message).toContain(text);
}

const refuses = (folder: string, code: ErrorCode, ...texts: string[]) =>
  expectRefused(async () => (await loadModel(folder)).dispose(), code, ...texts);

describe('a folder', () => {
  const tensor = 'model.layers.1.mlp.down_proj.weight';
  const shard = 'model-00004-of-00006.safetensors';
  const overwrite = (path: string, at: number, bytes: Uint8Array) => {
    const all = readFileSync(path);
    all.set(bytes, at);
    writeFileSync(path, all);
  };
  const editHeader = (path: string, from: string, to: string) => {
    if (from.length !== to.length) throw new Error('a header has to keep its length');
    const at = readFileSync(path).indexOf(from);
    if (at < 0) throw new Error(`no ${from} in ${path}`);
    overwrite(path, at, Buffer.from(to));
  };
  const sizeOf = (path: string) => readFileSync(path).length;

  type Damage = (folder: string) => void;
  test.each<[string, string, Damage, ErrorCode, string[]]>([
    [
      'without config.json',
      tinyllama,
      (folder) => rmSync(join(folder, 'config.json')),
      'ERR_MODEL_NOT_FOUND',
      ['has no config.json'],
    ],
    [
      'without weights',
      tinyllama,
      (folder) => rmSync(join(folder, weightFile)),
      'ERR_MODEL_NOT_FOUND',
      [`holds neither ${weightFile}`],
    ],
    [
      'without one shard',
      sharded,
      (folder) => rmSync(join(folder, shard)),
      'ERR_MODEL_NOT_FOUND',
      [shard],
    ],
    [
      'with an index that names a file elsewhere',
      sharded,
      (folder) => {
        const path = join(folder, `${weightFile}.index.json`);
        writeFileSync(path, readFileSync(path, 'utf8').replaceAll(shard, `../${shard}`));
      },
      'ERR_MODEL_INVALID',
      ['in the same folder'],
    ],
    [
      'whose weights lack a byte',
      tinyllama,
      (folder) => truncateSync(join(folder, weightFile), sizeOf(join(folder, weightFile)) - 1),
      'ERR_MODEL_INVALID',
      [weightFile, 'incomplete'],
    ],
    [
      'whose weights end in the header',
      tinyllama,
      (folder) => truncateSync(join(folder, weightFile), 100),
      'ERR_MODEL_INVALID',
      ['inside its header'],
    ],
    [
      'whose weights are empty',
      tinyllama,
      (folder) => truncateSync(join(folder, weightFile), 0),
      'ERR_MODEL_INVALID',
      ['has 0 bytes'],
    ],
    [
      'whose shard lacks its second half',
      sharded,
      (folder) => truncateSync(join(folder, shard), sizeOf(join(folder, shard)) >> 1),
      'ERR_MODEL_INVALID',
      [shard],
    ],
    [
      'whose weight file announces a header of 2^63 bytes',
      tinyllama,
      (folder) => overwrite(join(folder, weightFile), 0, new Uint8Array(8).fill(0x7f)),
      'ERR_MODEL_INVALID',
      ['it is no safetensors file'],
    ],
    [
      'whose tensor has another name',
      tinyllama,
      (folder) => editHeader(join(folder, weightFile), tensor, tensor.replace('down', 'dawn')),
      'ERR_MODEL_INVALID',
      [`hold no tensor "${tensor}"`],
    ],
    [
      'whose tensor is of a type that does not fit its bytes',
      tinyllama,
      (folder) => editHeader(join(folder, weightFile), '"F16"', '"F64"'),
      'ERR_MODEL_INVALID',
      ['bytes'],
    ],
    [
      'whose tensors are integers',
      tinyllama,
      (folder) => {
        const path = join(folder, weightFile);
        for (let at = 0; at >= 0; at = readFileSync(path).indexOf('"F16"')) {
          if (at > 0) overwrite(path, at, Buffer.from('"I16"'));
        }
      },
      'ERR_MODEL_UNSUPPORTED',
      ['I16', 'F32, F16, BF16'],
    ],
    [
      'whose config.json is cut off',
      tinyllama,
      (folder) => truncateSync(join(folder, 'config.json'), 40),
      'ERR_MODEL_INVALID',
      ['config.json is not valid JSON'],
    ],
    [
      'whose generation_config.json is no JSON',
      tinyllama,
      (folder) => writeFileSync(join(folder, 'generation_config.json'), 'eos: 2'),
      'ERR_MODEL_INVALID',
      ['generation_config.json is not valid JSON'],
    ],
    [
      'whose tokenizer.json is no JSON',
      tinyllama,
      (folder) => writeFileSync(join(folder, 'tokenizer.json'), '{"model": '),
      'ERR_MODEL_INVALID',
      ['tokenizer.json'],
    ],
  ])('%s', async (_, from, damage, code, texts) => {
    const folder = folders.copy(from);
    damage(folder);
    await refuses(folder, code, ...texts);
  });

  test('that is not there', () =>
    refuses(join(folders.root, 'nothing'), 'ERR_MODEL_NOT_FOUND', 'There is no folder'));
});

describe('a config.json', () => {
  const invalid = 'ERR_MODEL_INVALID';
  const unsupported = 'ERR_MODEL_UNSUPPORTED';
  const shape = 'to have the shape';

  test.each<[Json, ErrorCode, string]>([
    ...[
      'hidden_size',
      'intermediate_size',
      'num_hidden_layers',
      'num_attention_heads',
      'num_key_value_heads',
      'head_dim',
      'vocab_size',
      'max_position_embeddings',
    ].flatMap((name): [Json, ErrorCode, string][] => [
      [{ [name]: 0 }, invalid, `Expected "${name}" in config.json to be`],
      [{ [name]: -8 }, invalid, '-8 (number)'],
    ]),
    [{ num_key_value_heads: 3 }, invalid, 'a divisor of "num_attention_heads"'],
    [{ num_attention_heads: 5 }, invalid, '"num_key_value_heads"'],
    [{ head_dim: undefined, num_attention_heads: 6 }, invalid, 'a divisor of "hidden_size"'],
    // Each alone is a fine config, but not of these weights.
    [{ hidden_size: 32 }, invalid, shape],
    [{ hidden_size: 128 }, invalid, shape],
    [{ intermediate_size: 79 }, invalid, shape],
    [{ intermediate_size: 1 << 20 }, invalid, shape],
    [{ num_attention_heads: 8 }, invalid, shape],
    [{ num_key_value_heads: 4 }, invalid, shape],
    [{ head_dim: 32 }, invalid, shape],
    [{ vocab_size: 127 }, invalid, shape],
    [{ vocab_size: 129 }, invalid, shape],
    [{ num_hidden_layers: 3 }, invalid, 'hold no tensor "model.layers.2.'],
    [{ attention_bias: true }, invalid, 'hold no tensor "model.layers.0.self_attn.q_proj.bias"'],
    [{ architectures: ['GPT2LMHeadModel'] }, unsupported, 'GPT2LMHeadModel'],
    [{ rope_scaling: { rope_type: 'spiral', factor: 2 } }, unsupported, '"spiral"'],
    [{ rope_scaling: { rope_type: 'yarn', factor: -1 } }, invalid, '"rope_scaling.factor"'],
    [{ per: 0 }, invalid, '"per"'],
    [{ per: 2, anchor_layer: 2 }, invalid, 'a layer from 0 to 1'],
    [{ per: 2, anchor_token_ids: [128] }, invalid, 'ids from 0 to 127'],
    [{ anchor_layer: 0 }, invalid, 'neither "per" nor dense layers'],
    [{ anchors: { per: 2, tokens: [3], windw: 4 } }, invalid, 'did you mean "anchors.window"?'],
  ])('with %j', (change, code, text) => refuses(folders.copyWith(tinyllama, change), code, text));

  test('with fewer layers than the weights runs, and says what it leaves', async () => {
    using cut = await loadModel(folders.copyWith(tinyllama, { num_hidden_layers: 1 }));
    expect(cut.info.warnings).toEqual([expect.stringContaining('"model.layers.1.')]);
    expect(await readAll(cut, ids)).toHaveLength(ids.length * 128);
  });
});

describe('a call', () => {
  const context = 16;
  const argument = 'ERR_INVALID_ARGUMENT';
  let session: Session;
  beforeAll(async () => {
    session = model.createSession({ contextLength: context });
    await session.append(ids.subarray(0, 8));
  });
  // What was refused has left no trace.
  afterEach(async () => {
    expect([...session.ids()]).toEqual([...ids.subarray(0, 8)]);
    expect(session.stats()).toMatchObject({ position: 8, pending: 0 });
  });

  // Whatever a caller without types may write.
  const loose = (value: unknown) => value as never;
  const generate = (options: Json) => () =>
    continuation(session, options as unknown as GenerateOptions);
  const append = (prompt: unknown, options?: Json) => () =>
    session.append(loose(prompt), loose(options));
  const open = (options: Json) => () => model.createSession(loose(options)).dispose();
  const load = (options: Json) => async () => (await loadModel(tinyllama, options)).dispose();

  test.each<[string, () => unknown, ErrorCode, string[]]>([
    ['an id beyond the vocabulary', append([1, 128]), argument, ['id 1', '0 to 127', '128']],
    ['a negative id', append([-1]), argument, ['id 0', '-1 (number)']],
    ['half an id', append([1.5]), argument, ['1.5 (number)']],
    ['no number', append([Number.NaN]), argument, ['NaN']],
    ['an id as text', append(['1']), argument, ['"1" (string)']],
    ['a huge id', append([2 ** 32]), argument, ['4294967296']],
    ['a bigint', append([1n]), argument, ['1 (bigint)']],
    ['an empty prompt', append([]), argument, ['at least one token', 'nothing is pending']],
    ['an empty typed array', append(new Uint32Array()), argument, ['at least one token']],
    ['no prompt', append(undefined), argument, ['a list of token ids']],
    ['a text without a tokenizer', append('def f'), 'ERR_NO_TOKENIZER', ['tokenizer.json']],
    [
      'an empty prompt to an empty session',
      async () => {
        using empty = model.createSession();
        await empty.append([]);
      },
      argument,
      ['the session is empty'],
    ],
    [
      'a generation from an empty session',
      async () => {
        using empty = model.createSession();
        await continuation(empty, {});
      },
      argument,
      ['append a prompt before generating'],
    ],
    [
      'more ids than the context',
      append(ids.subarray(0, 9)),
      'ERR_CONTEXT_LENGTH',
      ['holds 8 tokens', '9 more', '16'],
    ],
    [
      'a billion ids',
      append({ length: 1e9 }),
      'ERR_CONTEXT_LENGTH',
      ['1000000000 more', 'its context is 16'],
    ],
    [
      'logits of a wrong kind',
      append([1], { logits: 'first' }),
      argument,
      ['"none", "last", "all"'],
    ],
    ['a misspelled option of append', append([1], { logit: 'all' }), argument, ['"logits"?']],
    ['a misspelled option of generate', generate({ maxToken: 3 }), argument, ['"maxTokens"?']],
    ['an option in snake case', generate({ top_k: 3 }), argument, ['"topK"?']],
    ['maxTokens 0', generate({ maxTokens: 0 }), argument, ['"maxTokens"', 'from 1']],
    ['a negative temperature', generate({ temperature: -1 }), argument, ['"temperature"']],
    ['topP 0', generate({ topP: 0 }), argument, ['"topP"']],
    ['a stop token outside', generate({ stopTokens: [128] }), argument, ['"stopTokens"', '127']],
    ['a stop text', generate({ stop: 'x' }), 'ERR_NO_TOKENIZER', ['"stop"']],
    ['more alternatives than ids', generate({ logprobs: 129 }), argument, ['"logprobs"', '128']],
    ['an unknown option of generate', generate({ banana: 1 }), argument, ['option "banana"']],
    ['a context longer than the model', open({ contextLength: 513 }), argument, ['1 to 512']],
    ['an unknown cache type', open({ cacheType: 'fp8' }), argument, ['"f32", "bf16"']],
    ['an unknown policy', open({ policy: { kind: 'anchors' } }), argument, ['"anchor"']],
    ['a policy as text', open({ policy: 'full' }), argument, ['"kind"']],
    ['a window of 0', open({ policy: { kind: 'window', size: 0 } }), argument, ['policy.size']],
    [
      'a dense layer outside',
      open({ policy: { kind: 'anchor', tokens: [3], denseLayers: [2] } }),
      argument,
      ['layers from 0 to 1'],
    ],
    [
      'anchors outside',
      open({ policy: { kind: 'anchor', tokens: [400], per: 2 } }),
      argument,
      ['ids from 0 to 127'],
    ],
    [
      'anchors at newlines without a tokenizer',
      open({ policy: { kind: 'anchor', tokens: 'newline' } }),
      'ERR_NO_TOKENIZER',
      ['name the ids'],
    ],
    ['a session that is none', open({ from: null }), argument, ['a session', 'null']],
    ['an unknown compute mode', load({ compute: 'fp16' }), argument, ['"exact", "bf16"']],
    ['no threads', load({ threads: 0 }), argument, ['"threads"', 'from 1']],
    ['an unknown option of loadModel', load({ thread: 2 }), argument, ['"threads"?']],
    ['a signal that is none', load({ signal: {} }), argument, ['an AbortSignal']],
    [
      'half a signal',
      append([1], { signal: { aborted: false, addEventListener() {} } as unknown as Json }),
      argument,
      ['an AbortSignal'],
    ],
    ['a memory limit below the weights', load({ maxMemory: 1000 }), 'ERR_OUT_OF_MEMORY', ['1000']],
    ['a folder that is no text', () => loadModel(loose(7)), argument, ['the folder', '7 (number)']],
    ['a truncation behind the end', () => session.truncate(9), 'ERR_POSITION', ['0 to 8']],
    ['a fork in between', () => session.fork(2.5), argument, ['an integer', '2.5']],
  ])('with %s', (_, call, code, texts) => expectRefused(call, code, ...texts));

  test('with a full context generates nothing more', async () => {
    using full = session.fork();
    await full.append(ids.subarray(0, 8));
    await expectRefused(() => continuation(full, {}), 'ERR_CONTEXT_LENGTH', 'nothing can be');
    await expectRefused(() => full.append([1]), 'ERR_CONTEXT_LENGTH', '17');
    expect(full.position).toBe(context);
  });

  test('that generates up to the context ends there', async () => {
    using copy = session.fork();
    const chunks: Chunk[] = [];
    for await (const chunk of copy.generate({ stopTokens: [] })) chunks.push(chunk);
    expect(chunks.map(({ finish }) => finish)).toEqual([...Array(7).fill(undefined), 'length']);
    expect(copy.position).toBe(context);
  });
});
