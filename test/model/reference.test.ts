// The engine against the float64 reference: shapes, policies and texts, read whole, in random
// chunks and token by token, with the cache's rows counted at every token.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { CachePolicy, Model } from '../../types/api.js';
import { forward } from '../reference/model.js';
import { Random } from '../reference/random.js';
import { mirrorRows, rowsPerLayer } from '../reference/rows.js';
import { type Settings, settingsOf } from '../reference/settings.js';
import {
  ANCHORS,
  anchored,
  EXACT,
  errorOf,
  firstDifference,
  longText,
  policies,
  readIn,
  shapes,
  type TinyModel,
  TinyModels,
  texts,
} from './tiny.js';

const models = new TinyModels();
afterAll(() => models.remove());

/** Reads ids in three ways and holds logits and rows against the reference. */
async function check(
  model: Model,
  tiny: TinyModel,
  ids: number[],
  policy: CachePolicy | undefined,
  settings: Settings,
  seed: number,
): Promise<void> {
  const expected = forward(tiny.reference, ids, settings);
  const stats = ids.map((_, last) => {
    const prefix = ids.slice(0, last + 1);
    const rows = rowsPerLayer(prefix, settings);
    return {
      position: prefix.length,
      pending: 0,
      rowsPerLayer: rows,
      rows: rows.reduce((a, b) => a + b, 0),
      mirrorRows: mirrorRows(prefix, settings),
      full: { rows: prefix.length * tiny.layers },
    };
  });
  const read = async (sizes: number[]) => {
    using session = model.createSession({ policy, cacheType: 'f32' });
    return await readIn(session, ids, sizes, (done) => {
      expect(session.stats()).toMatchObject(stats[done - 1] as object);
    });
  };
  const whole = await read([ids.length]);
  expect(errorOf(whole, expected)).toBeLessThan(EXACT);
  const random = new Random(seed);
  for (const longest of [5, 40]) {
    const chunked = await read(random.chunks(ids.length, longest));
    expect(firstDifference(chunked, whole)).toBe(-1);
  }
  const single = await read(ids.map(() => 1));
  expect(firstDifference(single, whole)).toBe(-1);
}

describe.each(Object.entries(shapes))('%s', (shape, sizes) => {
  let tiny: TinyModel;
  let model: Model;
  beforeAll(async () => {
    tiny = models.make(sizes);
    model = await loadModel(tiny.folder, { compute: 'exact' });
  });
  afterAll(() => model.dispose());

  test.each(Object.entries(policies))('%s', async (_, policy) => {
    const settings = settingsOf(policy, tiny.layers);
    let seed = 0;
    for (const ids of Object.values(texts(5))) {
      await check(model, tiny, ids, policy, settings, seed++);
    }
  });

  // The long text is dear in the reference: a shape of each kind is enough.
  if (!shape.startsWith('8')) return;
  test.each(Object.entries(policies))('a line of 310: %s', async (_, policy) => {
    await check(model, tiny, longText(6), policy, settingsOf(policy, tiny.layers), 7);
  });
});

describe('a model trained for anchors', () => {
  const trained = {
    tokens: ANCHORS,
    per: 2,
    sourceLayer: 2,
    consumersAbove: 2,
    multiHeadPositions: true,
  };
  const config = { per: 2, anchor_layer: 2, multilayer: 2, anchor_token_ids: ANCHORS };
  const cases: [string, CachePolicy | undefined][] = [
    ['its own policy', undefined],
    ['full', { kind: 'full' }],
    ['the anchor policy', { kind: 'anchor' }],
    ['the anchor policy with another layout', { kind: 'anchor', per: 1 }],
    ['the anchor policy with a window', { kind: 'anchor', window: 5 }],
    ['plain positions', { kind: 'anchor', multiHeadPositions: false }],
    ['no source layer', { kind: 'anchor', sourceLayer: null }],
  ];
  const sizes = shapes['8 heads of 8'] as NonNullable<(typeof shapes)[string]>;
  let fromConfig: TinyModel;
  let fromOptions: TinyModel;
  beforeAll(() => {
    fromConfig = models.make(sizes, config);
    fromOptions = models.make(sizes);
  });

  test.each(cases)('%s', async (_, policy) => {
    const own: CachePolicy = { kind: 'anchor' };
    const settings = settingsOf(policy ?? own, sizes.layers, trained);
    using first = await loadModel(fromConfig.folder, { compute: 'exact' });
    using second = await loadModel(fromOptions.folder, { compute: 'exact', anchors: trained });
    for (const ids of Object.values(texts(9))) {
      await check(first, fromConfig, ids, policy, settings, 1);
      // Options say how to run a model; that it was trained so, only its config says.
      if (policy?.kind === 'full') continue;
      const expected = forward(fromOptions.reference, ids, settings);
      using session = second.createSession({ policy: policy ?? own });
      const logits = await readIn(session, ids, [ids.length]);
      expect(errorOf(logits, expected)).toBeLessThan(EXACT);
    }
  });
});

describe('stored types', () => {
  const sizes = shapes['8 heads on 2'] as NonNullable<(typeof shapes)[string]>;
  const policy = anchored({ per: 2, sourceLayer: 2, consumersAbove: 2 });

  test.each(['BF16', 'F16'] as const)('%s weights, exact', async (dtype) => {
    const tiny = models.make(sizes, {}, dtype);
    using model = await loadModel(tiny.folder, { compute: 'exact' });
    const settings = settingsOf(policy, tiny.layers);
    for (const ids of Object.values(texts(11))) {
      await check(model, tiny, ids, policy, settings, 2);
    }
  });

  test('bf16 activations stay within 2 % of the largest logit', async () => {
    const tiny = models.make(sizes, {}, 'BF16');
    using model = await loadModel(tiny.folder, { compute: 'bf16' });
    for (const ids of Object.values(texts(12))) {
      const expected = forward(tiny.reference, ids, settingsOf(policy, tiny.layers));
      using session = model.createSession({ policy, cacheType: 'f32' });
      const whole = await readIn(session, ids, [ids.length]);
      expect(errorOf(whole, expected)).toBeLessThan(2e-2);
      using other = model.createSession({ policy, cacheType: 'f32' });
      const single = await readIn(
        other,
        ids,
        ids.map(() => 1),
      );
      expect(firstDifference(single, whole)).toBe(-1);
    }
  });
});
