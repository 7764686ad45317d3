// Rows in fewer bits: the engine against the reference, plain and with rows rounded in the same way.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { Model } from '../../types/api.js';
import { forward } from '../reference/model.js';
import { Random } from '../reference/random.js';
import { settingsOf } from '../reference/settings.js';
import {
  errorOf,
  firstDifference,
  policies,
  readIn,
  shapes,
  type TinyModel,
  TinyModels,
  texts,
} from './tiny.js';

/**
 * Bounds relative to the largest logit: of what a type costs, and of what remains against a
 * reference that rounds as well. There a value close to the middle between two stored ones may
 * still go the other way than in float64.
 */
const bounds = {
  f16: { cost: 4e-3, rest: 2e-3 },
  bf16: { cost: 3e-2, rest: 8e-3 },
  int8: { cost: 7e-2, rest: 8e-3 },
} as const;

const chosen = [
  'full',
  'per 2, source 2',
  'line and window, source 0',
  'AnSAN',
  'StreamingLLM with a dense layer',
] as const;

const models = new TinyModels();
afterAll(() => models.remove());

describe.each(['8 heads of 8', '8 heads on 2'])('%s', (shape) => {
  let tiny: TinyModel;
  let model: Model;
  beforeAll(async () => {
    tiny = models.make(shapes[shape] as NonNullable<(typeof shapes)[string]>);
    model = await loadModel(tiny.folder, { compute: 'exact' });
  });
  afterAll(() => model.dispose());

  const types = ['f16', 'bf16', 'int8'] as const;
  const cases = types.flatMap((type) => chosen.map((name) => [type, name] as const));
  test.each(cases)('%s rows: %s', async (cacheType, name) => {
    const policy = policies[name];
    const settings = settingsOf(policy as NonNullable<typeof policy>, tiny.layers);
    const random = new Random(3);
    for (const ids of Object.values(texts(13))) {
      using session = model.createSession({ policy, cacheType });
      const logits = await readIn(session, ids, random.chunks(ids.length, 20));
      const plain = forward(tiny.reference, ids, settings);
      expect(errorOf(logits, plain)).toBeLessThan(bounds[cacheType].cost);
      const rounded = forward(tiny.reference, ids, settings, { cache: cacheType });
      expect(errorOf(logits, rounded)).toBeLessThan(bounds[cacheType].rest);
      using other = model.createSession({ policy, cacheType });
      const single = await readIn(
        other,
        ids,
        ids.map(() => 1),
      );
      expect(firstDifference(single, logits)).toBe(-1);
    }
  });
});
