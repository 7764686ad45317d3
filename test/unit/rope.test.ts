// Frequencies as transformers computes them (in float32; rope.json holds what it gave).
import { readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { parseConfig } from '../../lib/config.js';
import type { Json } from '../../lib/files.js';
import { computeRope, type RopeParameters } from '../../lib/rope.js';
import { goldenModel, goldenModels } from '../golden/load.js';

interface Case {
  config: Json & { rope_parameters: Json };
  scale: number;
  inverseFrequencies: number[];
}

const { cases } = JSON.parse(readFileSync(new URL('./rope.json', import.meta.url), 'utf8')) as {
  cases: Record<string, Case>;
};

const base = { architectures: ['LlamaForCausalLM'] };

const ropeOf = (config: Json) => parseConfig(config).ropes[0] as RopeParameters;

function expectSame(config: Json, { scale, inverseFrequencies }: Case) {
  const rope = computeRope(ropeOf({ ...base, ...config }));
  expect(rope.rotaryDims).toBe(inverseFrequencies.length * 2);
  expect(rope.scale).toBeCloseTo(scale, 12);
  for (const [i, expected] of inverseFrequencies.entries()) {
    const actual = rope.inverseFrequencies[i] as number;
    expect(Math.abs(actual / expected - 1)).toBeLessThan(2e-6);
  }
}

describe('rotary frequencies', () => {
  test.each(Object.entries(cases))('%s', (_, golden) => {
    expectSame(golden.config, golden);
    const { rope_parameters: rope, ...rest } = golden.config;
    const { rope_theta, ...scaling } = rope;
    expectSame({ ...rest, rope_theta, rope_scaling: scaling }, golden);
  });

  test('a factor of 0 beside yarn counts as missing, as in Python', () => {
    const golden = cases.yarn as Case;
    const zeros = { mscale: 0, mscale_all_dim: 1, beta_fast: 0, beta_slow: 0 };
    const rope_parameters = { ...golden.config.rope_parameters, ...zeros };
    expectSame({ ...golden.config, rope_parameters }, golden);
  });

  test('that are no numbers are refused', () => {
    const golden = cases.yarn as Case;
    const rope_parameters = { ...golden.config.rope_parameters, rope_theta: 1 };
    const rope = ropeOf({ ...base, ...golden.config, rope_parameters });
    expect(() => computeRope(rope)).toThrow(
      expect.objectContaining({ code: 'ERR_MODEL_INVALID', name: 'AnchorError' }),
    );
  });

  test('are the same in every spelling of the golden models', () => {
    for (const { folder, spellings } of goldenModels().map(goldenModel)) {
      const read = (name: string) =>
        parseConfig(JSON.parse(readFileSync(`${folder}/${name}`, 'utf8')) as Json);
      for (const name of spellings) {
        expect(read(`config.${name}.json`)).toEqual(read('config.json'));
      }
    }
  });
});
