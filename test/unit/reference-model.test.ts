// The float64 reference, against transformers on plain models and against an independent float64
// implementation of the specification on the shipped one.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import { goldenModel, goldenModels, goldenTop, relativeError, respelled } from '../golden/load.js';
import { attend, forward } from '../reference/model.js';
import { Random } from '../reference/random.js';
import { rowsPerLayer } from '../reference/rows.js';
import { fromF16, toF16 } from '../reference/safetensors.js';
import { plainSettings, settingsOf } from '../reference/settings.js';
import { loadReference, type ReferenceModel, randomModel } from '../reference/weights.js';

const shippedFolder = fileURLToPath(new URL('../../models/anchor-code-23m', import.meta.url));

/** What the README of the shipped model says, in the words of the public policy. */
const trained = {
  kind: 'anchor',
  tokens: [0, 1, 2, 3],
  per: 8,
  sourceLayer: 8,
  consumersAbove: 8,
} as const;

/** Rows (tokens) of logits. */
function rowsOf(logits: Float64Array, vocabSize: number): Float64Array[] {
  return Array.from({ length: logits.length / vocabSize }, (_, t) =>
    logits.subarray(t * vocabSize, (t + 1) * vocabSize),
  );
}

/** Ids, most probable first. */
function best(row: Float64Array, count: number): number[] {
  const order = [...row.keys()].sort((a, b) => (row[b] as number) - (row[a] as number));
  return order.slice(0, count);
}

/** The reference knows the Llama class; other families have transformers for a reference. */
const llamas = goldenModels().filter((name) => {
  const config = readFileSync(`${goldenModel(name).folder}/config.json`, 'utf8');
  return JSON.parse(config).architectures[0] === 'LlamaForCausalLM';
});

describe('against transformers', () => {
  test.each(llamas)('%s', (name) => {
    const golden = goldenModel(name);
    const check = (folder: string) => {
      const model = loadReference(folder);
      for (const prompt of Object.values(golden.prompts)) {
        const logits = forward(model, [...prompt.ids], plainSettings(model.layers));
        const rows = rowsOf(logits, model.vocabSize);
        prompt.positions.forEach((position, n) => {
          const row = rows[position] as Float64Array;
          const expected = prompt.logits[n] as Float32Array;
          expect(relativeError(row, expected, prompt.largest)).toBeLessThan(2e-6);
        });
        expect(rows.map((row) => best(row, 1)[0])).toEqual([...prompt.argmax]);
      }
    };
    check(golden.folder);
    for (const spelling of golden.spellings) {
      const { folder, remove } = respelled(golden, spelling);
      check(folder);
      remove();
    }
  });
});

describe('on the shipped model', () => {
  let model: ReferenceModel;
  const shipped = () => {
    model ??= loadReference(shippedFolder);
    return model;
  };

  test('anchor attention: best ids, their logits and rows', () => {
    const parity = JSON.parse(readFileSync(`${shippedFolder}/parity.json`, 'utf8')) as {
      ids: number[];
      argmax: number[];
      top5: [number, number][][];
    };
    const { vocabSize, layers } = shipped();
    const settings = settingsOf(trained, layers);
    const rows = rowsOf(forward(model, parity.ids, settings), vocabSize);
    expect(rows.map((row) => best(row, 1)[0])).toEqual(parity.argmax);
    rows.forEach((row, t) => {
      const top = parity.top5[t] as [number, number][];
      expect(best(row, 5)).toEqual(top.map(([id]) => id));
      // The file holds four decimals.
      for (const [id, logit] of top)
        expect(Math.abs((row[id] as number) - logit)).toBeLessThan(6e-5);
    });
    const perLayer = rowsPerLayer(parity.ids, settings);
    expect(perLayer).toEqual(perLayer.map((_, l) => (l % 8 === 0 ? 329 : 33)));
  });

  test('plain attention: logits of transformers', () => {
    const golden = goldenTop('shipped');
    const { vocabSize, layers } = shipped();
    const ids = [...golden.ids.subarray(0, 60)];
    const rows = rowsOf(forward(model, ids, plainSettings(layers)), vocabSize);
    rows.forEach((row, t) => {
      const logits = [...(golden.top[t] as Uint32Array)].map((id) => row[id] as number);
      const expected = golden.logits[t] as Float32Array;
      expect(relativeError(logits, expected, golden.largest)).toBeLessThan(1e-5);
    });
  });
});

describe('properties', () => {
  const sizes = {
    layers: 4,
    hiddenSize: 16,
    intermediateSize: 24,
    heads: 8,
    kvHeads: 8,
    headDim: 8,
    vocabSize: 32,
  };
  const model = randomModel(sizes, 7);
  const random = new Random(8);
  const ids = Array.from({ length: 60 }, () => random.integer(1, 32));
  const anchors = [3, 4];
  const base = { kind: 'anchor', tokens: anchors } as const;
  const run = (policy: object, options = {}) =>
    forward(model, ids, settingsOf({ ...base, ...policy }, 4), options);
  const distance = (a: Float64Array, b: Float64Array) => {
    const largest = b.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    return relativeError(a, b, largest);
  };
  const plain = forward(model, ids, plainSettings(4));

  test('every layer dense and no multi-head positions: the plain model', () => {
    expect(distance(run({ per: 1, multiHeadPositions: false }), plain)).toBe(0);
  });

  test('each part of the method moves the logits by far more than the bound of the tests', () => {
    const whole = { per: 2, sourceLayer: 2, consumersAbove: 2 };
    const logits = run(whole);
    const others = [
      { ...whole, per: 'none', sourceLayer: null },
      { ...whole, sourceLayer: null },
      { ...whole, sourceLayer: 0 },
      { ...whole, consumersAbove: 3 },
      { ...whole, multiHeadPositions: false },
      { ...whole, tokens: [3] },
      { ...whole, window: 3 },
      { ...whole, sinks: 3 },
      { ...whole, line: false, window: 4 },
    ];
    for (const other of others) {
      const moved = distance(run(other), logits);
      expect(moved).toBeGreaterThan(0.01);
    }
  });

  test('the future is not read', () => {
    const whole = settingsOf({ ...base, per: 2, sourceLayer: 0, consumersAbove: 1 }, 4);
    const logits = forward(model, ids, whole);
    for (const length of [1, 2, 17, 59]) {
      const shorter = forward(model, ids.slice(0, length), whole);
      expect(distance(shorter, logits.subarray(0, shorter.length))).toBeLessThan(1e-14);
    }
  });

  test('source rows whose values are 0 change only the sum of the weights', () => {
    const rows = () => Float64Array.from({ length: 10 * 64 }, () => random.normal());
    const query = rows();
    const own = { keys: rows(), values: rows() };
    const source = { keys: rows(), values: new Float64Array(10 * 64) };
    const seen = Array.from({ length: 10 }, (_, i) => [...Array(i + 1).keys()]);
    const alone = attend(sizes, query, [own], seen);
    const both = attend(sizes, query, [own, source], seen);
    for (let head = 0; head < alone.length; head += 8) {
      const factor = (both[head] as number) / (alone[head] as number);
      expect(factor).toBeGreaterThan(0);
      expect(factor).toBeLessThan(1);
      const scaled = alone.subarray(head, head + 8).map((value) => factor * value);
      expect(relativeError(both.subarray(head, head + 8), scaled, 1)).toBeLessThan(1e-12);
    }
  });

  test('rounded rows: an error that fits the type', () => {
    const error = (cache: 'f32' | 'f16' | 'bf16' | 'int8') => distance(run({}, { cache }), run({}));
    expect(error('f32')).toBeLessThan(1e-6);
    expect(error('f16')).toBeLessThan(3e-3);
    expect(error('f16')).toBeGreaterThan(1e-6);
    expect(error('bf16')).toBeLessThan(3e-2);
    expect(error('bf16')).toBeGreaterThan(error('f16'));
    expect(error('int8')).toBeLessThan(5e-2);
    expect(error('int8')).toBeGreaterThan(error('f16'));
  });

  test('float16 there and back', () => {
    const finite = [...Array(0x7c00).keys()];
    expect(finite.filter((bits) => toF16(fromF16(bits)) !== bits)).toEqual([]);
    expect(toF16(1 + 2 ** -11)).toBe(toF16(1));
    expect(fromF16(toF16(1 + 3 * 2 ** -11))).toBe(1 + 2 ** -9);
    expect(fromF16(toF16(-2047.9))).toBe(-2048);
  });
});
