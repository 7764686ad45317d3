// Logits and continuations of Hugging Face's transformers, for every model, spelling and type of
// weights, through the public API.
import { copyFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { ComputeMode, Model, SessionOptions } from '../../types/api.js';
import {
  type GoldenModel,
  type GoldenPrompt,
  goldenModel,
  goldenModels,
  relativeError,
  respelled,
  tolerance,
} from '../golden/load.js';
import { Random } from '../reference/random.js';
import { readFolder, type StoredType, writeFile } from '../reference/safetensors.js';
import { best, continuation, Folders, readAll, rowOf, shiftData, weightFile } from './folders.js';
import { firstDifference } from './tiny.js';

const folders = new Folders();
afterAll(() => folders.remove());

const plain = 'config.json';
const spellings = goldenModels().flatMap((name) =>
  [plain, ...goldenModel(name).spellings].map((spelling) => [name, spelling] as const),
);

async function open(golden: GoldenModel, spelling: string, compute: ComputeMode): Promise<Model> {
  if (spelling === plain) return loadModel(golden.folder, { compute });
  const copy = respelled(golden, spelling);
  try {
    return await loadModel(copy.folder, { compute });
  } finally {
    copy.remove(); // what is mapped stays
  }
}

/** longrope: a session turns by the table of its context, transformers by that of its length. */
const shortTables: Record<string, number> = { 'phi3-longrope': 64 };
function sessionOf(name: string, { ids }: GoldenPrompt): SessionOptions {
  const original = shortTables[name];
  return original !== undefined && ids.length < original ? { contextLength: original } : {};
}

const prompts = ({ prompts: { short, long } }: GoldenModel) => [short, long];

describe.each(spellings)('%s by %s', (name, spelling) => {
  const golden = goldenModel(name);
  const width = golden.vocabulary;

  describe('exact', () => {
    let model: Model;
    const logits: Float32Array[] = [];
    beforeAll(async () => {
      model = await open(golden, spelling, 'exact');
      for (const prompt of prompts(golden)) {
        logits.push(await readAll(model, prompt.ids, undefined, sessionOf(name, prompt)));
      }
    });
    afterAll(() => model.dispose());
    const each = (check: (prompt: GoldenPrompt, logits: Float32Array) => void) =>
      prompts(golden).forEach((prompt, i) => void check(prompt, logits[i] as Float32Array));

    test('gives the logits', () => {
      each((prompt, actual) => {
        const errors = prompt.positions.map((position, i) =>
          relativeError(
            rowOf(actual, position, width),
            prompt.logits[i] as Float32Array,
            prompt.largest,
          ),
        );
        expect(Math.max(...errors)).toBeLessThan(tolerance.exact);
      });
    });

    test('finds the best id at every position', () => {
      each((prompt, actual) => {
        const found = Uint32Array.from(prompt.ids, (_, t) => best(rowOf(actual, t, width)));
        expect(found).toEqual(prompt.argmax);
      });
    });

    test.each(['short', 'long'] as const)('continues the %s prompt', async (which) => {
      const { ids, greedy, stopped } = golden.prompts[which];
      using session = model.createSession(sessionOf(name, golden.prompts[which]));
      await session.append(ids);
      const { length: maxTokens } = greedy;
      using twin = session.fork();
      expect(await continuation(session, { maxTokens, stopTokens: [] })).toEqual([...greedy]);
      expect([...session.ids()]).toEqual([...ids, ...greedy]);
      if (!stopped) return;
      expect(await continuation(twin, { maxTokens })).toEqual([...stopped]);
      // The end of the text is reported, but no part of it.
      expect([...twin.ids()]).toEqual([...ids, ...stopped.subarray(0, -1)]);
    });

    test('gives the same bits in any chunks', async () => {
      const { ids } = golden.prompts.long;
      const random = new Random(7);
      const chunkings = [ids.map(() => 1), random.chunks(ids.length, 9), random.chunks(180, 90)];
      for (const sizes of chunkings) {
        const actual = await readAll(model, ids, [...sizes]);
        expect(firstDifference(actual, logits[1] as Float32Array)).toBe(-1);
      }
    });
  });

  describe('bf16', () => {
    test('gives the logits and the same best id where it is clear', async () => {
      using model = await open(golden, spelling, 'bf16');
      for (const prompt of prompts(golden)) {
        const options = sessionOf(name, prompt);
        const actual = await readAll(model, prompt.ids, undefined, options);
        // Gemma 3's random weights amplify rounding: transformers itself loses more in bf16.
        const loses = name.startsWith('gemma3') ? prompt.noise.bfloat16 : 0;
        const bound = Math.max(tolerance.bf16, loses);
        prompt.positions.forEach((position, i) => {
          const row = rowOf(actual, position, width);
          const expected = prompt.logits[i] as Float32Array;
          expect(relativeError(row, expected, prompt.largest)).toBeLessThan(bound);
          const [first = 0, second = 0] = Array.from(expected).sort((a, b) => b - a);
          if (first - second <= 2 * bound * prompt.largest) return;
          expect(best(row)).toBe(prompt.argmax[position]);
        });
        const single = await readAll(model, prompt.ids, ones(prompt.ids.length), options);
        expect(firstDifference(actual, single)).toBe(-1);
      }
    });
  });
});

function ones(count: number): number[] {
  return new Array<number>(count).fill(1);
}

/** Logits of the long prompt of `tinyllama`. */
async function bitsOf(folder: string, compute: ComputeMode): Promise<Float32Array> {
  using model = await loadModel(folder, { compute });
  return await readAll(model, goldenModel('tinyllama').prompts.long.ids);
}

test.each(['exact', 'bf16'] as const)('shards have the bits of one file (%s)', async (compute) => {
  const [one, six] = ['tinyllama', 'sharded'].map((name) => goldenModel(name).folder);
  const expected = await bitsOf(one as string, compute);
  expect(firstDifference(await bitsOf(six as string, compute), expected)).toBe(-1);
});

describe('weights at any byte', () => {
  const { folder } = goldenModel('tinyllama');
  const types = ['F32', 'F16', 'BF16'] as const;
  const computes = ['exact', 'bf16'] as const;
  const cases = types.flatMap((type) => computes.map((compute) => [type, compute] as const));

  /** The model with its weights stored in another type. */
  const stored = (type: StoredType): string => {
    const copy = folders.copy(folder);
    writeFile(join(copy, weightFile), readFolder(folder), type);
    return copy;
  };

  test.each(cases)('%s, %s', async (type, compute) => {
    const copy = stored(type);
    const path = join(copy, weightFile);
    const expected = await bitsOf(copy, compute);
    for (const remainder of [1, 2, 3, 4, 7]) {
      shiftData(path, remainder);
      expect(firstDifference(await bitsOf(copy, compute), expected)).toBe(-1);
    }
  });

  test('F16 and the same values in F32 give the same bits', async () => {
    const expected = await bitsOf(stored('F16'), 'exact');
    expect(firstDifference(await bitsOf(stored('F32'), 'exact'), expected)).toBe(-1);
  });

  test('tensors after ones of odd length', async () => {
    // In one shard of six, so that one file is shifted and the others are not.
    const copy = folders.copy(goldenModel('sharded').folder);
    shiftData(join(copy, 'model-00003-of-00006.safetensors'), 5);
    expect(firstDifference(await bitsOf(copy, 'exact'), await bitsOf(folder, 'exact'))).toBe(-1);
  });
});

test('a model outlives its files', async () => {
  const copy = folders.copy(goldenModel('odd').folder);
  using model = await loadModel(copy, { compute: 'exact' });
  const { ids } = goldenModel('odd').prompts.short;
  const before = await readAll(model, ids);
  rmSync(join(copy, weightFile));
  copyFileSync(join(goldenModel('mqa').folder, weightFile), join(copy, weightFile));
  expect(firstDifference(await readAll(model, ids), before)).toBe(-1);
});
