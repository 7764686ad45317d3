// Weights that are no numbers are counted, and files that change are noticed before they are mapped.
import { execFileSync } from 'node:child_process';
import { appendFileSync, truncateSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from '@jest/globals';
import { checkWeights } from 'anchorcoder';
// Built, since the tokenizer's worker needs a real file.
import { openModel } from '../../dist/lib/load.js';
import type { NativeAddon } from '../../types/native.js';
import { HostileFolders, offsetsOf, readWeights, weights, writeWeights } from './hostile.js';
import { shapes, TinyModels } from './tiny.js';

const folders = new HostileFolders();
const models = new TinyModels();
afterAll(() => {
  folders.remove();
  models.remove();
});

const cli = fileURLToPath(new URL('../../dist/lib/cli.js', import.meta.url));
const inspect = (folder: string, ...args: string[]) =>
  execFileSync(process.execPath, [cli, 'inspect', folder, '--check', ...args], {
    encoding: 'utf8',
  });

const patterns = {
  F32: { nan: [0x7fc00000, 0xff800001], infinite: [0x7f800000, 0xff800000], fine: 0xff7fffff },
  BF16: { nan: [0x7fc0, 0xff81], infinite: [0x7f80, 0xff80], fine: 0xff7f },
  F16: { nan: [0x7e00, 0xfc01], infinite: [0x7c00, 0xfc00], fine: 0xfbff },
} as const;

describe('checkWeights', () => {
  test.each(['F32', 'BF16', 'F16'] as const)('counts NaN and infinities in %s', async (dtype) => {
    const { folder } = models.make(shapes['8 heads on 2'] as never, {}, dtype);
    const { tensors, elements, nonFinite } = await checkWeights(folder);
    expect(nonFinite).toEqual([]);
    const { header, data } = readWeights(folder);
    expect([tensors, elements]).toEqual([
      Object.keys(header).length,
      data.length / (dtype === 'F32' ? 4 : 2),
    ]);
    const { nan, infinite, fine } = patterns[dtype];
    const bytes = Buffer.from(data);
    const put = (name: string, at: number, bits: number) => {
      const [begin, end] = offsetsOf(folder, name);
      if (dtype === 'F32') bytes.writeUInt32LE(bits, at < 0 ? end + 4 * at : begin + 4 * at);
      else bytes.writeUInt16LE(bits, at < 0 ? end + 2 * at : begin + 2 * at);
    };
    put('model.norm.weight', 0, nan[0]);
    put('model.norm.weight', -1, infinite[0]);
    put('lm_head.weight', 7, nan[0]);
    put('lm_head.weight', 8, nan[1]);
    put('lm_head.weight', -1, infinite[1]);
    put('model.embed_tokens.weight', 3, fine);
    writeWeights(folder, header, bytes);
    const found = [
      { name: 'model.norm.weight', nan: 1, infinite: 1 },
      { name: 'lm_head.weight', nan: 2, infinite: 1 },
    ];
    expect((await checkWeights(folder)).nonFinite).toEqual(found);
    const said = inspect(folder);
    expect(said).toMatch(/2 tensors with what is no finite number/);
    expect(said).toMatch(/^lm_head.weight +2 +1$/m);
    const json = JSON.parse(inspect(folder, '--json')) as { check: unknown };
    expect(json.check).toEqual({ tensors, elements, nonFinite: found });
  });

  test('says so where all is fine', () => {
    expect(inspect(folders.make())).toMatch(/^Weights: [\d,]+ numbers in 12 tensors, all of them/m);
  });

  test('refuses what loadModel refuses, and can be aborted', async () => {
    const folder = folders.make();
    const reason = new Error('enough');
    const { signal } = new AbortController();
    expect(await checkWeights(folder, { signal })).toMatchObject({ nonFinite: [] });
    await expect(checkWeights(folder, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await expect(checkWeights(folder, { signl: 1 } as object)).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    });
    truncateSync(join(folder, weights), 100);
    await expect(checkWeights(folder)).rejects.toMatchObject({ code: 'ERR_MODEL_INVALID' });
  });
});

describe('a weight file that changes between its header and its mapping', () => {
  const addon = createRequire(import.meta.url)(
    '../../build/Release/anchorcoder.node',
  ) as NativeAddon;

  test.each<[string, (path: string) => void, string, string]>([
    ['becomes shorter', (path) => truncateSync(path, 500), 'ERR_MODEL_INVALID', 'it has 500'],
    ['becomes empty', (path) => writeFileSync(path, ''), 'ERR_MODEL_INVALID', 'it has 0'],
    ['becomes longer', (path) => appendFileSync(path, 'x'), 'ERR_MODEL_INVALID', 'as when its'],
  ])('and %s is refused', async (_, change, code, text) => {
    const folder = folders.make();
    const changing: NativeAddon = {
      version: addon.version,
      instructionSets: () => addon.instructionSets(),
      defaultThreads: () => addon.defaultThreads(),
      countNonFinite: (spec) => addon.countNonFinite(spec),
      loadModel: (spec) => {
        change(join(folder, weights));
        return addon.loadModel(spec);
      },
    };
    const loading = openModel(folder, undefined, () => changing);
    const message = expect.stringContaining(text);
    await expect(loading).rejects.toMatchObject({ name: 'AnchorError', code, message });
  });
});
