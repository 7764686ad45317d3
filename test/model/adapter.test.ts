// LoRA adapters: PEFT's own logits, the sum by hand, and what is refused.
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { LoadOptions } from '../../types/api.js';
import { tolerance } from '../golden/load.js';
import { readFolder, type Tensor, writeFile } from '../reference/safetensors.js';
import { Folders, type Json, readAll } from './folders.js';

const golden = join(import.meta.dirname, '../golden');
const folders = new Folders();
afterAll(() => folders.remove());

interface GoldenAdapter {
  base: string;
  ids: number[];
  logits: string;
  moved: number;
}

function adapter(name: string) {
  const folder = join(golden, 'adapters', name);
  const stored = JSON.parse(readFileSync(join(folder, 'golden.json'), 'utf8')) as GoldenAdapter;
  const bytes = Buffer.from(stored.logits, 'base64');
  const logits = Float32Array.from({ length: bytes.length / 4 }, (_, i) =>
    bytes.readFloatLE(4 * i),
  );
  return { ...stored, name, folder, logits, model: join(golden, 'models', stored.base) };
}

/** Largest difference, relative to the largest logit. */
function errorOf(actual: Float32Array, expected: Float32Array): number {
  let largest = 0;
  let worst = 0;
  for (const [i, value] of expected.entries()) {
    largest = Math.max(largest, Math.abs(value));
    worst = Math.max(worst, Math.abs((actual[i] as number) - value));
  }
  return worst / largest;
}

async function logitsOf(folder: string, ids: number[], options: LoadOptions) {
  using model = await loadModel(folder, options);
  return await readAll(model, Uint32Array.from(ids));
}

describe("PEFT's logits", () => {
  test.each(['granite', 'deepseek', 'phi3'])('%s', async (name) => {
    const { folder, model, ids, logits } = adapter(name);
    // In float32, so that nothing is rounded when the adapter is merged.
    const wide = folders.copy(model);
    writeFile(join(wide, 'model.safetensors'), readFolder(model), 'F32');
    const own = await logitsOf(wide, ids, { compute: 'exact', adapter: folder });
    expect(errorOf(own, logits)).toBeLessThan(tolerance.exact);
    const plain = await logitsOf(wide, ids, { compute: 'exact' });
    expect(errorOf(plain, logits)).toBeGreaterThan(0.5);
  });

  test('on any number of threads the same bits', async () => {
    const { folder, model, ids } = adapter('granite');
    const one = await logitsOf(model, ids, { threads: 1, adapter: folder });
    const three = await logitsOf(model, ids, { threads: 3, adapter: folder });
    expect(Buffer.compare(Buffer.from(one.buffer), Buffer.from(three.buffer))).toBe(0);
  });
});

test('is the sum: a model with the matrices added by hand gives the same', async () => {
  const { folder, model, ids } = adapter('deepseek');
  const weights = readFolder(model);
  const factors = new Map<string, Tensor>();
  const copy = folders.copy(folder);
  renameSync(join(copy, 'adapter_model.safetensors'), join(copy, 'model.safetensors'));
  for (const [name, tensor] of readFolder(copy)) factors.set(name, tensor);
  let changed = 0;
  for (const [name, { shape, data }] of weights) {
    const module = `base_model.model.${name.replace(/\.weight$/, '')}`;
    const a = factors.get(`${module}.lora_A.weight`);
    const b = factors.get(`${module}.lora_B.weight`);
    if (!a || !b) continue;
    ++changed;
    const [rank = 0, cols = 0] = a.shape;
    const alpha = module.endsWith('v_proj') ? 7 : 3;
    for (let r = 0; r < (shape[0] as number); ++r) {
      for (let c = 0; c < cols; ++c) {
        let sum = 0;
        for (let k = 0; k < rank; ++k) {
          sum += (b.data[r * rank + k] as number) * (a.data[k * cols + c] as number);
        }
        const scale = alpha / Math.sqrt(rank);
        data[r * cols + c] = (data[r * cols + c] as number) + scale * sum;
      }
    }
  }
  expect(changed).toBe(7);
  const merged = folders.copy(model);
  writeFile(join(merged, 'model.safetensors'), weights, 'F32');
  const expected = await logitsOf(merged, ids, { compute: 'exact' });
  const own = await logitsOf(model, ids, { compute: 'exact', adapter: folder });
  expect(errorOf(own, expected)).toBeLessThan(1e-5);
});

test('is named, counted, and part of what a snapshot is of', async () => {
  const { folder, model, ids } = adapter('granite');
  using plain = await loadModel(model);
  using tuned = await loadModel(model, { adapter: folder });
  expect(plain.info.adapter).toBeUndefined();
  expect(tuned.info.adapter).toBe(folder);
  expect(tuned.info.parameters).toBe(plain.info.parameters);
  expect(tuned.memory().weights).toBeGreaterThan(plain.memory().weights);
  using session = tuned.createSession();
  await session.append(ids);
  const snapshot = await session.snapshot();
  using restored = await tuned.restore(snapshot);
  expect(restored.position).toBe(ids.length);
  await expect(plain.restore(snapshot)).rejects.toMatchObject({ code: 'ERR_SNAPSHOT_INVALID' });
});

test('brings its own anchors', async () => {
  const { folder, model, ids } = adapter('granite');
  const copy = folders.copy(folder);
  const anchors = { tokens: [5, 9], dense_layers: [0], window: 3 };
  writeFileSync(join(copy, 'anchors.json'), JSON.stringify(anchors));
  using tuned = await loadModel(model, { adapter: copy });
  expect(tuned.info.trainedForAnchors).toBe(true);
  const expected = { kind: 'anchor', tokens: [5, 9], denseLayers: [0], window: 3 };
  expect(tuned.info.defaultPolicy).toMatchObject(expected);
  using session = tuned.createSession();
  await session.append(ids);
  // Over the base's own, key by key; dense layers may be named in the other way.
  const base = folders.copyWith(model, { anchors: { tokens: [5], per: 2, window: 7 } });
  using other = await loadModel(base, { adapter: copy });
  expect(other.info.defaultPolicy).toMatchObject(expected);
  writeFileSync(join(copy, 'anchors.json'), JSON.stringify({ tokens: [5, 9] }));
  using same = await loadModel(base, { adapter: copy });
  expect(same.info.defaultPolicy).toMatchObject({ tokens: [5, 9], per: 2, window: 7 });
  writeFileSync(join(copy, 'anchors.json'), JSON.stringify({ tokens: 'line' }));
  const refusal = loadModel(model, { adapter: copy });
  await expect(refusal).rejects.toMatchObject({ code: 'ERR_MODEL_INVALID' });
});

describe('refuses', () => {
  const { folder, model } = adapter('granite');
  const failure = async (change: (copy: string) => void, base = model) => {
    const copy = folders.copy(folder);
    change(copy);
    const loading = loadModel(base, { adapter: copy });
    return await loading.then(
      () => 'loaded',
      ({ code, message }) => `${code}: ${message}`,
    );
  };
  const settings = (change: Json) => (copy: string) => {
    const path = join(copy, 'adapter_config.json');
    const json = JSON.parse(readFileSync(path, 'utf8')) as Json;
    writeFileSync(path, JSON.stringify({ ...json, ...change }));
  };

  test.each<[Json, string]>([
    [{ peft_type: 'IA3' }, 'ERR_MODEL_UNSUPPORTED: adapter_config.json: "peft_type" is "IA3"'],
    [{ bias: 'all' }, 'ERR_MODEL_UNSUPPORTED: adapter_config.json: "bias" is "all"'],
    [{ use_dora: true }, 'ERR_MODEL_UNSUPPORTED: adapter_config.json: "use_dora" is true'],
    [{ modules_to_save: ['lm_head'] }, 'ERR_MODEL_UNSUPPORTED: adapter_config.json: "modules_to'],
    [{ init_lora_weights: 'pissa' }, 'ERR_MODEL_UNSUPPORTED: adapter_config.json: "init_lora_w'],
    [{ rank_pattern: { '(a+)+': 3 } }, 'ERR_MODEL_UNSUPPORTED: adapter_config.json has the patt'],
    [{ rank_pattern: { q_proj: 3 } }, 'ERR_MODEL_INVALID: Expected tensor "base_model.model.mod'],
    [{ r: 5 }, 'ERR_MODEL_INVALID: Expected tensor "base_model.model.model.layers.0.self_attn'],
    [{ r: 0 }, 'ERR_MODEL_INVALID: Expected "r" in adapter_config.json to be an integer from 1'],
    [{ lora_alpha: -1 }, 'ERR_MODEL_INVALID: Expected "lora_alpha" in adapter_config.json to be'],
    [{ lora_alpha: '8' }, 'ERR_MODEL_INVALID: Expected "lora_alpha" in adapter_config.json to b'],
    [{ use_rslora: 1 }, 'ERR_MODEL_INVALID: Expected "use_rslora" in adapter_config.json to be'],
  ])('%j', async (change, message) => {
    expect(await failure(settings(change))).toContain(message);
  });

  test('another model', async () => {
    const other = join(golden, 'models/qwen2');
    expect(await failure(() => {}, other)).toMatch(/^ERR_MODEL_INVALID: /);
  });

  test('what is no adapter, or not all of one', async () => {
    const none = await failure((copy) => rmSync(join(copy, 'adapter_config.json')));
    expect(none).toMatch(/^ERR_MODEL_NOT_FOUND: .* so it is no adapter$/);
    const empty = await failure((copy) => rmSync(join(copy, 'adapter_model.safetensors')));
    expect(empty).toMatch(/^ERR_MODEL_NOT_FOUND: .*adapters are read from safetensors only$/);
    const missing = loadModel(model, { adapter: join(folders.root, 'none') });
    await expect(missing).rejects.toMatchObject({ code: 'ERR_MODEL_NOT_FOUND' });
    const wrong = loadModel(model, { adapter: 5 as never });
    await expect(wrong).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' });
  });

  test.each<[string, (tensors: Map<string, Tensor>, first: string) => void, RegExp]>([
    ['half a pair', (tensors, first) => tensors.delete(first), /both factors of a matrix/],
    [
      'a change of nothing',
      (tensors, first) => tensors.set(`${first}x`, tensors.get(first) as Tensor),
      /of none that this model has/,
    ],
    [
      'a magnitude vector',
      (tensors) => tensors.set('lora_magnitude_vector', { shape: [1], data: new Float32Array(1) }),
      /of a kind that is not merged/,
    ],
  ])('%s', async (_, change, message) => {
    const text = await failure((copy) => {
      const path = join(copy, 'adapter_model.safetensors');
      const single = join(copy, 'single');
      mkdirSync(single);
      renameSync(path, join(single, 'model.safetensors'));
      const tensors = readFolder(single);
      change(tensors, [...tensors.keys()].sort()[0] as string);
      writeFile(path, tensors, 'F32');
    });
    expect(text).toMatch(/^ERR_MODEL_INVALID: /);
    expect(text).toMatch(message);
  });
});
