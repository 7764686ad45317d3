// What the families have beyond golden.test.ts, which runs every golden folder: single tokens,
// weights in other layouts, and what a model's own windows keep.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { estimate, loadModel } from 'anchorcoder';
import { parseConfig } from '../../lib/config.js';
import { runnable, whyNotRunnable } from '../../lib/engine.js';
import { families } from '../../lib/families/index.js';
import type { Json } from '../../lib/files.js';
import { goldenModel, goldenModels, relativeError, tolerance } from '../golden/load.js';
import { readFolder, type Tensor, writeFile } from '../reference/safetensors.js';
import { best, continuation, Folders, readAll, rowOf, weightFile } from './folders.js';
import { firstDifference } from './tiny.js';

const folders = new Folders();
afterAll(() => folders.remove());

const configOf = (name: string) => {
  const path = join(goldenModel(name).folder, 'config.json');
  return parseConfig(JSON.parse(readFileSync(path, 'utf8')) as Json);
};
const names = goldenModels().filter((name) => goldenModel(name).prompts.one !== undefined);
const [running, waiting] = [true, false].map((runs) =>
  names.filter((name) => (whyNotRunnable(configOf(name)) === undefined) === runs),
) as [string[], string[]];

test('every class has a golden folder, and the engine knows no other', () => {
  const tried = new Set(goldenModels().map((name) => configOf(name).architecture));
  const known = families.map(({ architecture }) => architecture);
  expect([...tried].sort()).toEqual([...known].sort());
  expect(known).toEqual(expect.arrayContaining([...runnable.classes]));
});

describe('a text of one token', () => {
  test.each(running)('%s', async (name) => {
    const { folder, prompts, vocabulary } = goldenModel(name);
    const { ids, logits, argmax, greedy, largest, context } = prompts.one as typeof prompts.short;
    const options = context === undefined ? {} : { contextLength: context };
    using model = await loadModel(folder, { compute: 'exact' });
    using session = model.createSession(options);
    const actual = (await session.append(ids, { logits: 'all' })) as Float32Array;
    expect(actual.length).toBe(vocabulary);
    expect(relativeError(actual, logits[0] as Float32Array, largest)).toBeLessThan(tolerance.exact);
    expect(best(actual)).toBe(argmax[0]);
    const wanted = { maxTokens: greedy.length, stopTokens: [] };
    expect(await continuation(session, wanted)).toEqual([...greedy]);
  });
});

if (waiting.length > 0) {
  test.each(waiting)('%s is refused until the engine runs it', async (name) => {
    await expect(loadModel(goldenModel(name).folder)).rejects.toMatchObject({
      name: 'AnchorError',
      code: 'ERR_MODEL_UNSUPPORTED',
    });
  });
}

describe('the longrope table', () => {
  const { folder, prompts, vocabulary } = goldenModel('phi3-longrope');
  const { ids, positions, logits, context = 0 } = prompts.short;

  test('is that of the session, whatever its length', async () => {
    using model = await loadModel(folder, { compute: 'exact' });
    const short = await readAll(model, ids, undefined, { contextLength: context });
    const longer = await readAll(model, ids, undefined, { contextLength: context + 1 });
    positions.forEach((position, i) => {
      const [ours, other] = [short, longer].map((all) => rowOf(all, position, vocabulary));
      const error = relativeError(ours as Float32Array, logits[i] as Float32Array, 1);
      expect(error).toBeLessThan(tolerance.exact);
      // The first position turns by no angle, but by the same factor.
      if (position > 0)
        expect(firstDifference(ours as Float32Array, other as Float32Array)).not.toBe(-1);
    });
  });

  test('is kept by forks, and sessions of both share passes', async () => {
    using model = await loadModel(folder, { compute: 'exact' });
    const { long } = prompts;
    using parent = model.createSession({ contextLength: context });
    await parent.append(ids);
    using child = parent.fork();
    using other = model.createSession();
    const [first, second] = await Promise.all([
      child.append([3], { logits: 'last' }),
      other.append(long.ids, { logits: 'last' }),
    ]);
    const alone = await readAll(model, Uint32Array.of(...ids, 3), undefined, {
      contextLength: context,
    });
    const row = rowOf(alone, ids.length, vocabulary);
    expect(firstDifference(first as Float32Array, row)).toBe(-1);
    const last = long.logits.at(-1) as Float32Array;
    expect(relativeError(second as Float32Array, last, long.largest)).toBeLessThan(tolerance.exact);
  });
});

describe('weights in another layout', () => {
  /** Where logits of a BF16 folder differ once `change` has rewritten its tensors; -1: nowhere. */
  async function changed(name: string, change: (tensors: Map<string, Tensor>) => void) {
    const golden = goldenModel(name);
    const copy = folders.copy(golden.folder);
    const tensors = readFolder(golden.folder);
    change(tensors);
    writeFile(join(copy, weightFile), tensors, 'BF16');
    using model = await loadModel(copy, { compute: 'exact' });
    expect(model.info.warnings).toEqual([]);
    using plain = await loadModel(golden.folder, { compute: 'exact' });
    const { ids } = golden.prompts.long;
    return firstDifference(await readAll(model, ids), await readAll(plain, ids));
  }

  test('experts as transformers holds them: all in one tensor', async () => {
    const difference = await changed('qwen3-moe', (tensors) => {
      for (const layer of [0, 2]) fuseExperts(tensors, `model.layers.${layer}.mlp.experts`, 6);
    });
    expect(difference).toBe(-1);
  });

  test('the text part of a wrapper under its newer name', async () => {
    const difference = await changed('gemma3-nested', (tensors) => {
      for (const [name, tensor] of [...tensors]) {
        const inner = /^language_model\.model\.(.*)$/.exec(name)?.[1];
        const newer = inner ? `model.language_model.${inner}` : `model.${name}`;
        tensors.delete(name);
        tensors.set(newer, tensor);
      }
    });
    expect(difference).toBe(-1);
  });
});

/** Puts `count` experts one behind the other, gate above up in each. */
function fuseExperts(tensors: Map<string, Tensor>, prefix: string, count: number): void {
  const take = (expert: number, word: string): Tensor => {
    const name = `${prefix}.${expert}.${word}_proj.weight`;
    const tensor = tensors.get(name) as Tensor;
    tensors.delete(name);
    return tensor;
  };
  const stack = (name: string, parts: Tensor[], rows: number) => {
    const [first] = parts as [Tensor];
    const data = Float32Array.from(parts.flatMap((part) => [...part.data]));
    tensors.set(`${prefix}.${name}`, { shape: [count, rows, first.shape[1] as number], data });
  };
  const experts = Array.from({ length: count }, (_, i) => i);
  const size = tensors.get(`${prefix}.0.up_proj.weight`)?.shape[0] as number;
  const inward = experts.flatMap((expert) => [take(expert, 'gate'), take(expert, 'up')]);
  stack('gate_up_proj', inward, 2 * size);
  const outward = experts.map((expert) => take(expert, 'down'));
  stack('down_proj', outward, outward[0]?.shape[0] as number);
}

describe("a model's own windows", () => {
  const windowed = running.filter((name) => configOf(name).windows.some((size) => size > 0));

  test.each(windowed)('free rows as estimated: %s', async (name) => {
    const { folder, prompts } = goldenModel(name);
    const { windows } = configOf(name);
    const { ids } = prompts.long;
    using model = await loadModel(folder);
    using session = model.createSession({ cacheType: 'f32' });
    await session.append(ids);
    const stats = session.stats();
    // The next token's row takes the place of the one that it does not see.
    const rows = windows.map((size) => (size > 0 ? size - 1 : ids.length));
    expect(stats.rowsPerLayer).toEqual(rows);
    expect(stats.full.rows).toBe(windows.length * ids.length);
    const expected = await estimate(folder, { context: ids.length, cacheType: 'f32' });
    const last = windows.filter((size) => size > 0).length;
    expect(expected).toMatchObject({ rows: stats.rows + last, fullRows: stats.full.rows });
    // Beside blocks the engine counts a few bytes for each layer.
    expect(stats.bytes).toBeLessThanOrEqual(expected.cacheBytes + 64 * windows.length);
  });

  test.each(windowed)('go with anchored layers, in any chunks: %s', async (name) => {
    const { folder, prompts } = goldenModel(name);
    const { ids } = prompts.long;
    using model = await loadModel(folder, { compute: 'exact' });
    const tokens = [ids[5] as number, ids[40] as number];
    const policy = { kind: 'anchor', tokens, per: 2, sourceLayer: null } as const;
    const whole = await readAll(model, ids, undefined, { policy });
    const single = await readAll(model, ids, new Array<number>(ids.length).fill(1), { policy });
    expect(firstDifference(whole, single)).toBe(-1);
  });
});
