// The addon itself, called as `lib/` never would: whatever arrives, it answers with an error that
// has a code, and what nobody holds any more goes.
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
// Built, since the tokenizer's worker needs a real file.
import { openModel } from '../../dist/lib/load.js';
import type {
  NativeAddon,
  NativeGenerateSpec,
  NativeModel,
  NativeModelSpec,
  NativeSession,
  NativeSessionSpec,
} from '../../types/native.js';
import { goldenModel } from '../golden/load.js';

const require = createRequire(import.meta.url);
const addon = require('../../build/Release/anchorcoder.node') as NativeAddon;
const { folder, prompts } = goldenModel('tinyllama');
const ids = Uint32Array.from(prompts.short?.ids ?? []);

setFlagsFromString('--expose-gc');
const collect: () => void = runInNewContext('gc');

// What lib/ asks for.
let modelSpec: NativeModelSpec;
let sessionSpec: NativeSessionSpec;
let model: NativeModel;
beforeAll(async () => {
  const spy: NativeAddon = {
    version: addon.version,
    countNonFinite: (spec) => addon.countNonFinite(spec),
    instructionSets: () => addon.instructionSets(),
    defaultThreads: () => addon.defaultThreads(),
    loadModel: async (spec) => {
      modelSpec = spec;
      const loaded = await addon.loadModel(spec);
      const createSession = (session: NativeSessionSpec) => {
        sessionSpec = session;
        return loaded.createSession(session);
      };
      return { ...loaded, createSession };
    },
  };
  const opened = await openModel(folder, undefined, () => spy);
  opened.createSession();
  opened.dispose();
  model = await addon.loadModel(modelSpec);
});
afterAll(() => model.dispose());

const generateSpec: NativeGenerateSpec = {
  maxTokens: 20,
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  seed: 1n,
  eosIds: new Uint32Array(),
  bannedIds: new Uint32Array(),
  forcedAnchor: -1,
  newlineIds: new Uint32Array(),
  logprobs: false,
  topLogprobs: 0,
};

/** The code of what a call throws or rejects with; `fine` where it does neither. */
async function codeOf(call: () => unknown): Promise<string> {
  try {
    await call();
    return 'fine';
  } catch (error) {
    return (error as { code?: string }).code ?? `no code: ${error}`;
  }
}

/** With one value replaced. */
function changed<T>(spec: T, key: string, value: unknown): T {
  return { ...spec, [key]: value };
}

const noNumbers = [Number.NaN, Number.POSITIVE_INFINITY, 1e300, -1e300, '1', null, undefined];

async function usable(session: NativeSession): Promise<void> {
  session.truncate(0);
  await session.append(ids, 'none');
  expect(session.ids()).toEqual(ids);
}

describe('numbers out of range', () => {
  test.each<[keyof NativeGenerateSpec, unknown[]]>([
    ['temperature', [...noNumbers, -1]],
    ['topK', [...noNumbers, -1, 0.5, 2 ** 31]],
    ['topP', [...noNumbers, -0.1, 1.1]],
    ['minP', [...noNumbers, -0.1, 1.1]],
    ['repetitionPenalty', [...noNumbers, 0, -1]],
    ['maxTokens', [...noNumbers, 0.5, 2 ** 31]],
    ['topLogprobs', [...noNumbers, -1, 0.5]],
    ['forcedAnchor', [...noNumbers, 0.5, 2 ** 31 - 1]],
    ['seed', [1, '1', null, undefined]],
    ['logprobs', [1, null, undefined]],
    [
      'eosIds',
      [
        [1],
        Int32Array.of(1),
        Uint32Array.of(1e9),
        null,
        undefined,
        new DataView(new ArrayBuffer(4)),
      ],
    ],
    ['bannedIds', [[1], new Uint8Array(4), Uint32Array.of(4294967295), undefined]],
    ['newlineIds', [{ length: 1 }, Float32Array.of(1), Uint32Array.of(1e9), undefined]],
  ])('%s of a generation', async (key, values) => {
    const session = model.createSession(sessionSpec);
    await session.append(ids, 'none');
    for (const value of values) {
      const spec = changed(generateSpec, key, value);
      expect([value, await codeOf(() => session.startGenerate(spec))]).toEqual([
        value,
        'ERR_INVALID_ARGUMENT',
      ]);
    }
    await usable(session);
    session.dispose();
  });

  test.each<[string, unknown[]]>([
    ['contextLength', [...noNumbers, 0, -1, 0.5, 2 ** 30]],
    ['cacheType', ['f64', '', 1, undefined]],
    ['policy', [null, 1, undefined]],
  ])('%s of a session', async (key, values) => {
    for (const value of values) {
      const code = await codeOf(() => model.createSession(changed(sessionSpec, key, value)));
      expect([value, code]).toEqual([value, 'ERR_INVALID_ARGUMENT']);
    }
  });

  test.each<[string, unknown[]]>([
    ['window', [...noNumbers, -1, 0.5]],
    ['sinks', [...noNumbers, -1, 0.5]],
    ['sourceLayer', [...noNumbers, 1000, 0.5]],
    ['consumersAbove', [...noNumbers, 0.5]],
    ['insertedAnchor', [...noNumbers, 0.5]],
    ['anchorIds', [[1], Uint32Array.of(1e9), undefined]],
    ['dense', [new Uint8Array(), new Uint8Array(1000), [1], undefined]],
    ['line', [1, undefined]],
  ])('%s of a policy', async (key, values) => {
    for (const value of values) {
      const policy = changed(sessionSpec.policy, key, value);
      const code = await codeOf(() => model.createSession({ ...sessionSpec, policy }));
      expect([value, code]).toEqual([value, 'ERR_INVALID_ARGUMENT']);
    }
  });

  test.each(['endGenerate', 'truncate', 'fork', 'read'] as const)(
    'position of %s',
    async (name) => {
      const session = model.createSession(sessionSpec);
      await session.append(ids, 'none');
      if (name === 'endGenerate' || name === 'read') session.startGenerate(generateSpec);
      for (const value of [...noNumbers, 0.5, 2 ** 31]) {
        const code = await codeOf(() => session[name](value as number, 0));
        expect([value, code]).toEqual([value, 'ERR_INVALID_ARGUMENT']);
      }
      if (name === 'endGenerate' || name === 'read') await session.endGenerate(ids.length);
      for (const value of name === 'truncate' || name === 'fork' ? [-1, 2 ** 31 - 1] : []) {
        expect(await codeOf(() => session[name](value, 0))).toBe('ERR_POSITION');
      }
      await usable(session);
      session.dispose();
    },
  );

  const refused = ['ERR_INVALID_ARGUMENT', 'ERR_MODEL_INVALID'];
  test.each<[string, unknown[]]>([
    ...['layers', 'hiddenSize', 'heads', 'kvHeads', 'headDim', 'vocabSize', 'contextLength'].map(
      (key): [string, unknown[]] => [key, [...noNumbers, 0, -1, 0.5, 2 ** 31 - 1]],
    ),
    ['normEpsilon', noNumbers],
    ['ropes', [null, [null], [{}], [{ rotaryDims: 4 }]]],
  ])('%s of a model', async (key, values) => {
    for (const value of values) {
      const config = changed(modelSpec.config, key, value);
      const code = await codeOf(() => addon.loadModel({ ...modelSpec, config }));
      expect(code === 'fine' ? [key, value] : refused).toContain(code);
    }
  });

  test('of a tensor', async () => {
    const values = [...noNumbers, -1, 0.5, 2 ** 32, 2 ** 52];
    for (const key of ['file', 'offset', 'length', 'shape', 'name', 'dtype']) {
      for (const value of values) {
        const [first, ...rest] = modelSpec.tensors;
        const shape = [value, 1] as number[];
        const tensor = changed(first!, key, key === 'shape' ? shape : value);
        const tensors = [tensor, ...rest];
        const code = await codeOf(() => addon.loadModel({ ...modelSpec, tensors }));
        expect(refused).toContain(code);
      }
    }
  });

  test('of the rest', async () => {
    for (const key of ['threads', 'maxMemory', 'instructionSet', 'compute', 'files', 'tensors']) {
      for (const value of [Number.NaN, -1e300, undefined, null]) {
        const code = await codeOf(() => addon.loadModel(changed(modelSpec, key, value)));
        expect(code).toBe('ERR_INVALID_ARGUMENT');
      }
    }
    for (const value of [undefined, null, 1, 'spec']) {
      expect(await codeOf(() => addon.loadModel(value as never))).toBe('ERR_INVALID_ARGUMENT');
    }
  });
});

describe('a specification of a model', () => {
  const refused = ['ERR_INVALID_ARGUMENT', 'ERR_MODEL_INVALID'];
  const load = (spec: unknown) => codeOf(() => addon.loadModel(spec as NativeModelSpec));
  const withTensor = (change: object) => {
    const [first, ...rest] = modelSpec.tensors;
    return { ...modelSpec, tensors: [{ ...first, ...change }, ...rest] };
  };
  const withConfig = (change: object) => ({
    ...modelSpec,
    config: { ...modelSpec.config, ...change },
  });

  test('whose lists are none, or longer than any memory', async () => {
    const huge = new Array(2 ** 32 - 1);
    const lists = [new Proxy([], {}), huge, { length: 1 }, new Uint8Array(4), 'files'];
    for (const list of lists) {
      for (const key of ['files', 'tensors']) {
        expect(refused).toContain(await load({ ...modelSpec, [key]: list }));
      }
      for (const key of ['shape', 'parts']) {
        expect(refused).toContain(await load(withTensor({ [key]: list })));
      }
      expect(refused).toContain(await load(withConfig({ ropes: list })));
    }
  });

  test('whose parts lie outside, overflow or do not add up', async () => {
    const { offset, length } = modelSpec.tensors[0] as NativeModelSpec['tensors'][number];
    const most = Number.MAX_SAFE_INTEGER;
    for (const parts of [
      [{ offset: most, length: most }],
      [{ offset, length: length - 1 }],
      [
        { offset, length },
        { offset, length },
      ],
      Array(1000).fill({ offset: 0, length: most }),
      [{ offset: -1, length }],
      [{ offset, length: Number.NaN }],
      [null],
    ]) {
      expect(refused).toContain(await load(withTensor({ parts })));
    }
  });

  test('whose shape has other products, or one that overflows', async () => {
    const big = 2 ** 31 - 1;
    for (const shape of [[], [1], [0], [-1, -1], [big, big, big], Array(100).fill(big), [big, 0]]) {
      expect(refused).toContain(await load(withTensor({ shape })));
    }
  });

  test('with a tensor twice, none, or of a file that is not there', async () => {
    const { tensors } = modelSpec;
    for (const list of [[], [...tensors, tensors[0]], tensors.slice(1)]) {
      expect(await load({ ...modelSpec, tensors: list })).toBe('ERR_MODEL_INVALID');
    }
    expect(await load({ ...modelSpec, files: [] })).toBe('ERR_MODEL_INVALID');
    const [file] = modelSpec.files;
    expect(await load({ ...modelSpec, files: [{ ...file, path: '/nowhere' }] })).toBe(
      'ERR_MODEL_NOT_FOUND',
    );
    for (const path of ['/', '/dev/zero']) {
      expect(await load({ ...modelSpec, files: [{ ...file, path }] })).toBe('ERR_MODEL_INVALID');
    }
  });

  test('that lacks one gate of many', async () => {
    const tensors = modelSpec.tensors.filter(
      ({ name }) => name !== 'model.layers.1.mlp.gate_proj.weight',
    );
    expect(tensors).toHaveLength(modelSpec.tensors.length - 1);
    expect(await load({ ...modelSpec, tensors })).toBe('ERR_MODEL_INVALID');
  });

  test('with layers, windows or ropes without end', async () => {
    const none = { windows: new Int32Array(), layerRopes: new Uint8Array() };
    for (const change of [
      { ...none, layers: 2 ** 31 - 1 },
      { ...none, layers: 2 ** 20 },
      { windows: Int32Array.of(-1, -1) },
      { windows: new Int32Array(1000) },
      { windows: [0, 0] },
      { layerRopes: Uint8Array.of(7, 7) },
      { ropes: [], originalContext: 16 },
      { experts: { count: 2 ** 31 - 1, perToken: 0, intermediateSize: 1, normalize: true } },
      { experts: 7 },
    ]) {
      expect(refused).toContain(await load(withConfig(change)));
    }
  });

  test('whose arrays are detached, shared or odd numbers is refused or harmless', async () => {
    const [rope] = modelSpec.config.ropes;
    const detached = Float64Array.from(rope?.inverseFrequencies ?? []);
    structuredClone(detached, { transfer: [detached.buffer] });
    const ropes = [{ ...rope, inverseFrequencies: detached }];
    expect(await load(withConfig({ ropes }))).toBe('ERR_MODEL_INVALID');
    const { length } = rope?.inverseFrequencies ?? [];
    const shared = new Float64Array(new SharedArrayBuffer(8 * (length ?? 0))).fill(Number.NaN);
    for (const change of [
      { ropes: [{ ...rope, inverseFrequencies: shared }] },
      { ropes: [] },
      { normEpsilon: -1 },
      { attentionScale: -3e38, logitSoftcap: 1e-38 },
    ]) {
      const odd = await addon.loadModel(withConfig(change) as NativeModelSpec);
      const session = odd.createSession(sessionSpec);
      expect(ArrayBuffer.isView(await session.append(ids, 'last'))).toBe(true);
      odd.dispose();
    }
  });

  test('whose getters throw throws the same, and holds nothing', async () => {
    const thrown = new RangeError('mine');
    const trap = new Proxy(modelSpec, {
      get(target, key) {
        if (key === 'threads') throw thrown;
        return Reflect.get(target, key);
      },
    });
    expect(() => addon.loadModel(trap)).toThrow(thrown);
    // A proxy that answers is an object like any other.
    (await addon.loadModel(new Proxy(modelSpec, {}))).dispose();
  });
});

describe('counting what is no number', () => {
  const scan = (change: object) => {
    const [tensor] = modelSpec.tensors;
    const [file] = modelSpec.files;
    const { dtype, offset, length } = tensor as NativeModelSpec['tensors'][number];
    return codeOf(() =>
      addon.countNonFinite({ ...file, dtype, offset, length, ...change } as never),
    );
  };

  test('takes what lies inside a file, and nothing else', async () => {
    expect(await scan({})).toBe('fine');
    expect(await scan({ length: 0 })).toBe('fine');
    for (const change of [
      ...['offset', 'length', 'size'].flatMap((key) =>
        [...noNumbers, -1, 0.5].map((value) => ({ [key]: value })),
      ),
      { path: 7 },
      { dtype: 'I8' },
    ]) {
      expect([change, await scan(change)]).toEqual([change, 'ERR_INVALID_ARGUMENT']);
    }
    const most = Number.MAX_SAFE_INTEGER;
    for (const change of [
      { offset: most, length: most },
      { length: most },
      { length: 3 },
      { size: 1 },
      { path: '/dev/zero' },
    ]) {
      expect([change, await scan(change)]).toEqual([change, 'ERR_MODEL_INVALID']);
    }
    expect(await scan({ path: '/nowhere' })).toBe('ERR_MODEL_NOT_FOUND');
    expect(await codeOf(() => addon.countNonFinite(undefined as never))).toBe(
      'ERR_INVALID_ARGUMENT',
    );
  });
});

describe('ids', () => {
  test('in memory that is shared, detached or resizable', async () => {
    const session = model.createSession(sessionSpec);
    const shared = new Uint32Array(new SharedArrayBuffer(ids.byteLength));
    shared.set(ids);
    const code = await codeOf(() => session.append(shared, 'none'));
    expect(['fine', 'ERR_INVALID_ARGUMENT']).toContain(code);
    session.truncate(0);

    const detached = ids.slice();
    structuredClone(detached, { transfer: [detached.buffer] });
    expect(await codeOf(() => session.append(detached, 'none'))).toBe('ERR_INVALID_ARGUMENT');

    type Resizable = ArrayBuffer & { resize(length: number): void };
    const make = ArrayBuffer as unknown as new (
      length: number,
      options: { maxByteLength: number },
    ) => Resizable;
    const buffer = new make(ids.byteLength, { maxByteLength: 1 << 20 });
    const tracking = new Uint32Array(buffer);
    tracking.set(ids);
    buffer.resize(8);
    await session.append(tracking, 'none');
    expect(session.ids()).toEqual(ids.slice(0, 2));
    const outside = new Uint32Array(buffer, 4, 1);
    buffer.resize(0);
    expect(await codeOf(() => session.append(outside, 'none'))).not.toBe('crashed');
    await usable(session);
    session.dispose();
  });

  test('of other types', async () => {
    const session = model.createSession(sessionSpec);
    for (const value of [[1], Int32Array.of(1), new Float32Array(1), 'ids', 1, null, undefined]) {
      const code = await codeOf(() => session.append(value as never, 'none'));
      expect(code).toBe('ERR_INVALID_ARGUMENT');
    }
    expect(await codeOf(() => session.append(ids, 'some' as never))).toBe('ERR_INVALID_ARGUMENT');
    expect(await codeOf(() => session.append(Uint32Array.of(4294967295), 'none'))).toBe(
      'ERR_INVALID_ARGUMENT',
    );
    await usable(session);
    session.dispose();
  });
});

describe('JavaScript that runs while arguments are read', () => {
  test('disposes the session that is to generate', async () => {
    const session = model.createSession(sessionSpec);
    await session.append(ids, 'none');
    const spec = Object.defineProperty({ ...generateSpec }, 'seed', {
      get() {
        session.dispose();
        return 1n;
      },
    });
    expect(await codeOf(() => session.startGenerate(spec))).toBe('ERR_DISPOSED');
  });

  test('disposes the model that is to make a session', async () => {
    const other = await addon.loadModel(modelSpec);
    const spec = Object.defineProperty({ ...sessionSpec }, 'cacheType', {
      get() {
        other.dispose();
        return 'f32';
      },
    });
    expect(await codeOf(() => other.createSession(spec))).toBe('ERR_DISPOSED');
  });

  test('throws', async () => {
    const spec = Object.defineProperty({ ...sessionSpec }, 'cacheType', {
      get() {
        throw new RangeError('mine');
      },
    });
    expect(() => model.createSession(spec)).toThrow('mine');
  });
});

test('functions work without their object', async () => {
  const { append, stats, dispose } = model.createSession(sessionSpec);
  await append.call(undefined as never, ids, 'none');
  expect(stats.call({} as never).position).toBe(ids.length);
  dispose.call(null as never);
  expect(await codeOf(() => append.call(undefined as never, ids, 'none'))).toBe('ERR_DISPOSED');
});

test('what is disposed says so', async () => {
  const session = model.createSession(sessionSpec);
  session.dispose();
  session.dispose();
  session.abort();
  expect(session.cached).toBe(0);
  const calls: (() => unknown)[] = [
    () => session.append(ids, 'none'),
    () => session.startGenerate(generateSpec),
    () => session.read(0),
    () => session.endGenerate(0),
    () => session.truncate(0),
    () => session.fork(0, 0),
    () => session.snapshot(),
    () => session.ids(),
    () => session.stats(),
  ];
  for (const call of calls) expect(await codeOf(call)).toBe('ERR_DISPOSED');
});

describe('what nobody holds any more', () => {
  async function until(holds: () => boolean): Promise<boolean> {
    for (let i = 0; i < 200 && !holds(); ++i) {
      collect();
      await sleep(10);
    }
    return holds();
  }

  test('goes with the generation that nobody can read', async () => {
    const open = async () => {
      const session = model.createSession(sessionSpec);
      await session.append(ids, 'none');
      session.startGenerate(generateSpec);
      await session.read(0);
    };
    for (let i = 0; i < 20; ++i) await open();
    // A session counts no more as soon as it is to go; its blocks follow.
    expect(await until(() => model.memory().sessions + model.memory().caches === 0)).toBe(true);
  });

  test('but not before its promise is settled', async () => {
    const start = () => model.createSession(sessionSpec).append(ids, 'last');
    const promises = Array.from({ length: 20 }, start);
    collect();
    for (const promise of promises) expect(ArrayBuffer.isView(await promise)).toBe(true);
    expect(await until(() => model.memory().sessions === 0)).toBe(true);
  });

  test('is a model too, once its sessions are gone', async () => {
    const { readFileSync } = await import('node:fs');
    const path = modelSpec.files[0]?.path as string;
    const mappings = () => readFileSync('/proc/self/maps', 'utf8').split(path).length - 1;
    const before = mappings();
    const open = async () => {
      const session = (await addon.loadModel(modelSpec)).createSession(sessionSpec);
      collect();
      await session.append(ids, 'none');
    };
    await open();
    expect(mappings()).toBeGreaterThan(0);
    expect(await until(() => mappings() === before)).toBe(true);
  });
});
