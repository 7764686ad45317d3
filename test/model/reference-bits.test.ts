// The same bits whatever runs beside a session and on however many threads; within bounds on every
// instruction set of the machine.
import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { CachePolicy, Model } from '../../types/api.js';
import type { NativeAddon } from '../../types/native.js';
import { forward } from '../reference/model.js';
import { Random } from '../reference/random.js';
import { settingsOf } from '../reference/settings.js';
import {
  EXACT,
  errorOf,
  firstDifference,
  policies,
  randomIds,
  readIn,
  shapes,
  type TinyModel,
  TinyModels,
  texts,
} from './tiny.js';

const models = new TinyModels();
afterAll(() => models.remove());

const sizes = shapes['8 heads of 8'] as NonNullable<(typeof shapes)[string]>;
const policy = policies['per 2, source 2'] as CachePolicy;

/** Eight texts of different lengths with policies of their own. */
function eight(seed: number): { ids: number[]; policy: CachePolicy; sizes: number[] }[] {
  const random = new Random(seed);
  const choices = Object.values(policies);
  return Array.from({ length: 8 }, () => {
    const ids = randomIds(random, random.integer(1, 150), random.pick([3, 9, 1000]));
    return { ids, policy: random.pick(choices), sizes: random.chunks(ids.length, 30) };
  });
}

describe('eight sessions at once', () => {
  let tiny: TinyModel;
  let model: Model;
  beforeAll(async () => {
    tiny = models.make(sizes);
    model = await loadModel(tiny.folder, { compute: 'exact' });
  });
  afterAll(() => model.dispose());

  test.each([1, 2, 3, 4])('read as they would alone (%i)', async (seed) => {
    const jobs = eight(seed);
    const alone: Float32Array[] = [];
    for (const job of jobs) {
      using session = model.createSession({ policy: job.policy });
      alone.push(await readIn(session, job.ids, [job.ids.length]));
    }
    const together = await Promise.all(
      jobs.map(async (job) => {
        using session = model.createSession({ policy: job.policy });
        return await readIn(session, job.ids, job.sizes);
      }),
    );
    together.forEach((logits, i) => {
      expect(firstDifference(logits, alone[i] as Float32Array)).toBe(-1);
    });
  });

  test('generate as they would alone', async () => {
    const jobs = eight(5);
    const generate = async (job: (typeof jobs)[number], seed: number) => {
      using session = model.createSession({ policy: job.policy });
      await session.append(job.ids);
      const chunks: [number, number | undefined][] = [];
      const options = { maxTokens: 40, temperature: 1, seed, stopTokens: [], logprobs: true };
      for await (const { id, logprob } of session.generate(options)) chunks.push([id, logprob]);
      return chunks;
    };
    const together = await Promise.all(jobs.map(generate));
    for (const [i, job] of jobs.entries()) {
      expect(together[i]).toHaveLength(40);
      expect(await generate(job, i)).toEqual(together[i]);
    }
  });
});

test('one thread and two give the same bits', async () => {
  const tiny = models.make(shapes['8 heads on 2'] as typeof sizes);
  using one = await loadModel(tiny.folder, { compute: 'exact', threads: 1 });
  using two = await loadModel(tiny.folder, { compute: 'exact', threads: 2 });
  expect([one.info.threads, two.info.threads]).toEqual([1, 2]);
  const random = new Random(4);
  for (const own of Object.values(policies)) {
    // Long enough for several groups of keys, which threads share.
    const ids = randomIds(random, 700, 30);
    using a = one.createSession({ policy: own });
    using b = two.createSession({ policy: own });
    const first = await readIn(a, ids, [ids.length]);
    const second = await readIn(b, ids, random.chunks(ids.length, 200));
    expect(firstDifference(first, second)).toBe(-1);
  }
});

test('all layers dense, no source layer and plain positions: the bits of the plain model', async () => {
  const tiny = models.make(sizes);
  using model = await loadModel(tiny.folder, { compute: 'exact' });
  for (const ids of Object.values(texts(16))) {
    const read = async (own: CachePolicy) => {
      using session = model.createSession({ policy: own });
      return await readIn(session, ids, [ids.length]);
    };
    const dense = await read(policies['all layers dense, plain positions'] as CachePolicy);
    const plain = await read({ kind: 'full' });
    expect(firstDifference(dense, plain)).toBe(-1);
  }
});

describe('instruction sets', () => {
  const require = createRequire(import.meta.url);
  const addon = require('../../build/Release/anchorcoder.node') as NativeAddon;
  const script = fileURLToPath(new URL('print-logits.mjs', import.meta.url));

  test.each(addon.instructionSets())('%s', async (name) => {
    const tiny = models.make(sizes);
    const ids = Object.values(texts(15)).flat();
    const job = JSON.stringify({ folder: tiny.folder, ids, policy });
    const env = { ...process.env, ANCHOR_ISA: name };
    const maxBuffer = 2 ** 26;
    const { stdout } = await promisify(execFile)(process.execPath, [script, job], {
      env,
      maxBuffer,
    });
    const result = JSON.parse(stdout) as { instructionSet: string; logits: string };
    expect(result.instructionSet).toBe(name);
    const bytes = Buffer.from(result.logits, 'base64');
    const logits = Float32Array.from({ length: bytes.length / 4 }, (_, i) =>
      bytes.readFloatLE(4 * i),
    );
    const expected = forward(tiny.reference, ids, settingsOf(policy, tiny.layers));
    expect(errorOf(logits, expected)).toBeLessThan(EXACT);
  });
});
