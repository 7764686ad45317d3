// From a folder to what the addon is asked for, on a scripted addon.
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { copyFile, cp, mkdir, readFile, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
// Built, since the tokenizer's worker needs a real file.
import { openModel } from '../../dist/lib/load.js';
import { version } from '../../lib/binding.js';
import { estimate } from '../../lib/estimate.js';
import type { EstimateOptions, GenerateOptions, LoadOptions, Model } from '../../types/api.js';
import type { NativeAddon, NativeModelSpec, NativeSessionSpec } from '../../types/native.js';
import { FakeSession, nativeError } from './fake.js';

const root = new URL('../../', import.meta.url);
const shipped = fileURLToPath(new URL('models/anchor-code-23m', root));
const golden = (name: string) => fileURLToPath(new URL(`test/golden/models/${name}`, root));

class FakeAddon implements NativeAddon {
  readonly version = version;
  specs: NativeModelSpec[] = [];
  sessions: { spec: NativeSessionSpec; native: FakeSession }[] = [];
  script: number[] = [];
  disposals = 0;
  failure: Error | undefined;
  ready: Promise<void> = Promise.resolve();

  instructionSets() {
    return ['base', 'avx2'];
  }

  defaultThreads() {
    return 3;
  }

  async countNonFinite() {
    return { nan: 0, infinite: 0 };
  }

  async loadModel(spec: NativeModelSpec) {
    this.specs.push(spec);
    await this.ready;
    if (this.failure) throw this.failure;
    return {
      instructionSet: 'avx2',
      threads: 3,
      createSession: (session: NativeSessionSpec) => {
        const native = new FakeSession();
        native.script = this.script;
        this.sessions.push({ spec: session, native });
        return native;
      },
      restore: async () => {
        throw new Error('nothing is saved here');
      },
      memory: () => ({
        weights: 1,
        mapped: 2,
        caches: 3,
        sessions: this.sessions.length,
        ...prefixes,
      }),
      dispose: () => void ++this.disposals,
    };
  }
}

const prefixes = {
  prefixBytes: 4,
  prefixEntries: 5,
  prefixHits: 6,
  prefixMisses: 7,
  reusedTokens: 8,
};

function error(code: string, text = '') {
  const message = expect.stringContaining(text);
  return expect.objectContaining({ name: 'AnchorError', code, message });
}

let addon: FakeAddon;
let folder: string;
const open = (path: string, options?: LoadOptions) => openModel(path, options, () => addon);

beforeEach(() => {
  addon = new FakeAddon();
  folder = mkdtempSync(join(tmpdir(), 'anchorcoder-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('a model that cannot be described is given back', async () => {
  const fault = new Error('nothing is known of it');
  const load = addon.loadModel.bind(addon);
  addon.loadModel = async (spec) =>
    Object.defineProperty(await load(spec), 'threads', {
      get() {
        throw fault;
      },
    });
  await expect(open(shipped)).rejects.toBe(fault);
  expect(addon.disposals).toBe(1);
});

describe('the shipped model', () => {
  test('is described to the addon and to the caller', async () => {
    using model = await open(shipped, { maxMemory: 1e9 });
    const [spec] = addon.specs;
    expect(spec).toMatchObject({ compute: 'bf16', threads: 0, instructionSet: '', maxMemory: 1e9 });
    expect(spec?.config).toMatchObject({ layers: 16, hiddenSize: 320, heads: 5, headDim: 64 });
    expect(spec?.config.ropes[0]?.inverseFrequencies.length).toBe(32);
    expect(spec?.tensors.length).toBe(2 + 16 * 9);
    const embedding = spec?.tensors[0];
    expect(embedding).toMatchObject({ name: 'model.embed_tokens.weight', shape: [8192, 320] });
    expect(embedding).toMatchObject({ dtype: 'BF16', file: 0, offset: 8 + 16024 });
    expect(model.info).toMatchObject({
      ...{ architecture: 'LlamaForCausalLM', parameters: 22_948_160, weightType: 'BF16' },
      ...{ compute: 'bf16', instructionSet: 'avx2', threads: 3, device: 'cpu', warnings: [] },
      ...{ hasTokenizer: true, trainedForAnchors: true, eosTokenIds: [0], bosTokenId: 0 },
      ...{ contextLength: 2048, vocabSize: 8192, folder: shipped },
      defaultPolicy: { kind: 'anchor', per: 8, sourceLayer: 8, tokens: [0, 1, 2, 3] },
    });
    expect(model.memory()).toEqual({
      ...{ weights: 1, mapped: 2, caches: 3, sessions: 0 },
      prefixCache: { bytes: 4, prefixes: 5, hits: 6, misses: 7, reusedTokens: 8 },
    });
  });

  test('tokenizes with anchors, and takes them out again', async () => {
    using model = await open(shipped);
    const ids = await model.tokenize('a = 1\n\nb');
    expect(ids[0]).toBe(0);
    expect([...ids].filter((id) => id === 1).length).toBe(2);
    expect(model.detokenize(ids)).toBe('a = 1\n\nb');
    const plain = { insertAnchors: false, addSpecial: false };
    expect([...(await model.tokenize('a\n', plain))]).not.toContain(1);
    const special = await model.tokenize('<|fim_prefix|>', { parseSpecial: true });
    expect([...special]).toEqual([0, 3]);
    expect((await model.tokenize('<|fim_prefix|>')).length).toBeGreaterThan(2);
    await expect(model.tokenize(7 as unknown as string)).rejects.toEqual(
      error('ERR_INVALID_ARGUMENT', 'Expected the text to be a string'),
    );
    expect(() => model.detokenize([8192])).toThrow(
      error('ERR_INVALID_ARGUMENT', 'Expected id 0 of the list to be an integer from 0 to 8191'),
    );
  });

  test('opens sessions with its own policy or another one', async () => {
    using model = await open(shipped);
    const session = model.createSession();
    expect(session.policy).toEqual(model.info.defaultPolicy);
    expect(session).toMatchObject({ contextLength: 2048, cacheType: 'bf16', position: 0 });
    expect(addon.sessions[0]?.spec).toMatchObject({ contextLength: 2048, cacheType: 'bf16' });
    const full = model.createSession({ policy: { kind: 'full' }, cacheType: 'f32' });
    expect(full.policy).toEqual({ kind: 'full' });
    expect(addon.sessions[1]?.spec.policy.dense).toEqual(new Uint8Array(16).fill(1));
    expect(() => model.createSession({ contextLength: 4096 })).toThrow(
      error('ERR_INVALID_ARGUMENT', '"contextLength" to be an integer from 1 to 2048'),
    );
  });

  test('completes a prompt and says what it took', async () => {
    using model = await open(shipped);
    const words = await model.tokenize('x = 1\ny', { addSpecial: false });
    addon.script = [...words].filter((id) => id !== 1);
    const chunks: string[] = [];
    const completion = await model.complete('a\n', {
      maxTokens: 50,
      policy: { kind: 'full' },
      onChunk: ({ text }) => chunks.push(text),
    });
    expect(completion.text).toBe('x = 1\ny');
    expect(chunks.join('')).toBe(completion.text);
    expect([...completion.ids]).toEqual([...words].filter((id) => id !== 1));
    expect(completion.finish).toBe('length');
    const { usage } = completion;
    expect(usage).toMatchObject({
      promptTokens: 3,
      completionTokens: words.length - 1,
      anchors: 2,
    });
    expect(usage.prefillSeconds).toBeGreaterThan(0);
    expect(completion.stats.position).toBe(4 + words.length);
    expect(addon.sessions[0]?.native.disposed).toBe(true);
  });

  test('leaves nothing behind when a completion fails', async () => {
    using model = await open(shipped);
    const failure = new Error('mine');
    addon.script = [5, 6];
    const onChunk = () => {
      throw failure;
    };
    await expect(model.complete('a', { onChunk })).rejects.toBe(failure);
    await expect(model.complete('a', { temprature: 1 } as object)).rejects.toEqual(
      error('ERR_INVALID_ARGUMENT', 'did you mean "temperature"'),
    );
    const signal = AbortSignal.abort(failure);
    await expect(model.complete('a', { signal })).rejects.toBe(failure);
    expect(addon.sessions.every(({ native }) => native.disposed)).toBe(true);
  });

  test('disposes its sessions with itself', async () => {
    const model = await open(shipped);
    const session = model.createSession();
    model.dispose();
    model.dispose();
    expect(addon.disposals).toBe(1);
    expect(addon.sessions[0]?.native.disposed).toBe(true);
    await expect(session.append([1])).rejects.toEqual(error('ERR_DISPOSED'));
    expect(() => model.createSession()).toThrow(error('ERR_DISPOSED'));
    expect(() => model.memory()).toThrow(error('ERR_DISPOSED'));
    await expect(model.tokenize('a')).rejects.toEqual(error('ERR_DISPOSED'));
  });
});

describe('other folders', () => {
  test('without a tokenizer run on ids', async () => {
    using model = await open(golden('sharded'));
    expect(model.info).toMatchObject({ hasTokenizer: false, trainedForAnchors: false });
    expect(model.info).toMatchObject({ weightType: 'F16', compute: 'exact' });
    expect(addon.specs[0]?.files.length).toBe(6);
    await expect(model.tokenize('a')).rejects.toEqual(
      error('ERR_NO_TOKENIZER', 'has no tokenizer.json'),
    );
    const session = model.createSession();
    expect(session).toMatchObject({ policy: { kind: 'full' }, cacheType: 'f32' });
    await session.append([1, 2]);
    await expect(session.append('a')).rejects.toEqual(error('ERR_NO_TOKENIZER', 'A text prompt'));
  });

  test('without trained anchors warn when anchors are asked for', async () => {
    using model = await open(golden('sharded'), { anchors: { tokens: [3], insert: 3 } });
    expect(model.info.defaultPolicy).toEqual({ kind: 'full' });
    expect(model.info.warnings).toEqual([
      expect.stringContaining('was not trained for anchors'),
      expect.stringContaining('Without a tokenizer'),
    ]);
    await expect(model.complete([1], { anchors: 'forced' })).rejects.toEqual(
      error('ERR_NO_TOKENIZER', 'Forcing anchors'),
    );
  });

  test('say how tokens are chosen, unless that is ignored', async () => {
    for (const name of ['config.json', 'model.safetensors']) {
      copyFileSync(join(golden('tinyllama'), name), join(folder, name));
    }
    const generation = { do_sample: true, top_k: 7, top_p: 'all', eos_token_id: [3, 4] };
    writeFileSync(join(folder, 'generation_config.json'), JSON.stringify(generation));
    using model = await open(folder);
    const specOf = async (model: Model, options?: GenerateOptions) => {
      addon.script = [5];
      await model.complete([1, 2], options);
      return addon.sessions.at(-1)?.native.spec;
    };
    expect(model.info.generationDefaults).toEqual({ temperature: 1, topK: 7 });
    expect(model.info.warnings).toEqual([expect.stringContaining('"top_p"')]);
    expect(await specOf(model)).toMatchObject({ temperature: 1, topK: 7, topP: 1 });
    const own = { temperature: 0.2, topK: 0 };
    expect(await specOf(model, own)).toMatchObject(own);
    using greedy = await open(folder, { generationConfig: 'ignore' });
    expect(greedy.info).toMatchObject({ generationDefaults: {}, warnings: [] });
    const eosIds = Uint32Array.of(3, 4);
    expect(await specOf(greedy)).toMatchObject({ temperature: 0, topK: 0, eosIds });
  });

  test('that are none are named', async () => {
    await expect(open(join(folder, 'nowhere'))).rejects.toEqual(
      error('ERR_MODEL_NOT_FOUND', 'There is no folder'),
    );
    await expect(open(folder)).rejects.toEqual(error('ERR_MODEL_NOT_FOUND', 'has no config.json'));
    await expect(open(join(shipped, 'config.json'))).rejects.toEqual(
      error('ERR_MODEL_NOT_FOUND', 'is a file, not a model folder'),
    );
    await expect(open('')).rejects.toEqual(error('ERR_INVALID_ARGUMENT', 'the folder'));
    writeFileSync(join(folder, 'config.json'), '{');
    await expect(open(folder)).rejects.toEqual(
      error('ERR_MODEL_INVALID', 'config.json is not valid JSON'),
    );
    writeFileSync(join(folder, 'config.json'), '[]');
    await expect(open(folder)).rejects.toEqual(error('ERR_MODEL_INVALID', 'no JSON object'));
    expect(addon.specs).toEqual([]);
  });

  test('with folders in place of files are refused', async () => {
    await mkdir(join(folder, 'config.json'));
    await expect(open(folder)).rejects.toEqual(error('ERR_MODEL_INVALID', 'not a regular file'));
  });

  test('whose weights are cut off are refused before the addon sees them', async () => {
    await cp(golden('tinyllama'), folder, { recursive: true });
    const path = join(folder, 'model.safetensors');
    const { length } = await readFile(path);
    await truncate(path, length - 1);
    await expect(open(folder)).rejects.toEqual(error('ERR_MODEL_INVALID', 'is incomplete'));
    await copyFile(join(golden('odd'), 'model.safetensors'), path);
    await expect(open(folder)).rejects.toEqual(error('ERR_MODEL_INVALID', 'to have the shape'));
    expect(addon.specs).toEqual([]);
  });
});

describe('loading', () => {
  test('turns what the addon throws into an AnchorError', async () => {
    addon.failure = nativeError('ERR_OUT_OF_MEMORY');
    await expect(open(golden('odd'))).rejects.toEqual(error('ERR_OUT_OF_MEMORY', 'native'));
  });

  test('rejects with the reason and gives back what comes too late', async () => {
    const reason = new Error('enough');
    await expect(open(shipped, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(addon.specs).toEqual([]);

    let release = () => {};
    addon.ready = new Promise((resolve) => {
      release = resolve;
    });
    const controller = new AbortController();
    const loading = open(golden('odd'), { signal: controller.signal });
    while (addon.specs.length === 0) await new Promise(setImmediate);
    controller.abort(reason);
    await expect(loading).rejects.toBe(reason);
    release();
    await new Promise(setImmediate);
    expect(addon.disposals).toBe(1);
  });

  test('refuses an instruction set that the machine lacks', async () => {
    const before = process.env.ANCHOR_ISA;
    try {
      process.env.ANCHOR_ISA = 'neon';
      await expect(open(golden('odd'))).rejects.toEqual(
        error('ERR_DEVICE', 'ANCHOR_ISA is "neon", but this machine runs base, avx2'),
      );
      process.env.ANCHOR_ISA = 'base';
      (await open(golden('odd'))).dispose();
      expect(addon.specs[0]?.instructionSet).toBe('base');
    } finally {
      if (before === undefined) delete process.env.ANCHOR_ISA;
      else process.env.ANCHOR_ISA = before;
    }
  });
});

describe('estimate', () => {
  const rowBytes = 5 * 2 * 64 * 2;

  test('counts rows and bytes without reading weights', async () => {
    const result = await estimate(shipped, { context: 2048, anchorShare: 0.1 });
    // 205 anchors, the sink, and an open line of 10
    const kept = 205 + 1;
    expect(result).toEqual({
      weightBytes: 22_948_160 * 2,
      rows: 2 * 2048 + 14 * (kept + 10),
      fullRows: 16 * 2048,
      cacheBytes: (2 * 2048 + 14 * (224 + 32) + 224) * rowBytes + 205 * 320 * 4,
      fullCacheBytes: 16 * 2048 * rowBytes,
      anchorShare: 0.1,
    });
  });

  test.each<[EstimateOptions, object]>([
    [{ policy: { kind: 'full' } }, { rows: 16 * 2048, cacheBytes: 16 * 2048 * rowBytes }],
    [{ policy: { kind: 'window', size: 96 } }, { rows: 16 * 100, anchorShare: 0 }],
    [{ context: 1 }, { rows: 16, fullRows: 16 }],
    [{ anchorShare: 0 }, { rows: 16 * 2048 }],
    [{ anchorShare: 1 }, { rows: 16 * 2048 }],
    [{ policy: { kind: 'full' }, cacheType: 'int8' }, { cacheBytes: 16 * 2048 * 5 * 136 }],
    [{ anchors: { per: 'none', sourceLayer: null }, context: 100 }, { rows: 16 * (9 + 1 + 12) }],
  ])('%j', async (options, expected) => {
    expect(await estimate(shipped, options)).toMatchObject(expected);
  });

  test('refuses what loading would', async () => {
    await expect(estimate(shipped, { context: 4096 })).rejects.toEqual(
      error('ERR_INVALID_ARGUMENT', '"context" to be an integer from 1 to 2048'),
    );
    await expect(estimate(folder)).rejects.toEqual(error('ERR_MODEL_NOT_FOUND'));
  });
});
