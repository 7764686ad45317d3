// Anchor settings of configs and options, and the policies that come of them.
import { describe, expect, test } from '@jest/globals';
import { type ModelAnchors, readAnchorConfig, resolveAnchors } from '../../lib/anchors.js';
import type { Json } from '../../lib/files.js';
import { defaultPolicy, describe as explain, nativePolicy } from '../../lib/policy.js';
import type { AnchorOptions, CachePolicy } from '../../types/api.js';
import { FakeTokenizer } from './fake.js';

const words = ['<bos>', '<ANCHOR>', '<fim>', 'a', '\n', '\n  ', '<eos>', 'b'];
const [BOS, ANCHOR, FIM, , LINE, INDENT, EOS] = [0, 1, 2, 3, 4, 5, 6];
const sizes = { layers: 16, vocabSize: words.length };
const trainedConfig: Json = { per: 8, anchor_layer: 8, multilayer: 8 };

function anchorsOf(
  json: Json = {},
  options?: AnchorOptions,
  tokenizer: FakeTokenizer | undefined = new FakeTokenizer(words),
): ModelAnchors {
  return resolveAnchors(json, options, sizes, BOS, tokenizer);
}

function native(policy: CachePolicy, anchors: ModelAnchors) {
  const { anchorIds, dense, insertedAnchor, ...rest } = nativePolicy(policy, anchors);
  expect(insertedAnchor).toBe(anchors.insertId);
  const denseLayers = [...dense].flatMap((isDense, layer) => (isDense ? [layer] : []));
  return { ...rest, anchorIds: [...anchorIds], denseLayers };
}

function error(code: string, text: string) {
  const message = expect.stringContaining(text);
  return expect.objectContaining({ name: 'AnchorError', code, message });
}

const all = Array.from({ length: 16 }, (_, layer) => layer);

describe('settings', () => {
  test('come from AnchorCoder’s keys or from the block, which wins', () => {
    expect(readAnchorConfig({ hidden_size: 3, anchors: null, per: null })).toBeUndefined();
    expect(readAnchorConfig({ ...trainedConfig, anchor_token_ids: 1 })).toEqual({
      ...{ per: 8, sourceLayer: 8, consumersAbove: 8, tokens: [1] },
    });
    const anchors = { dense_layers: [0, 3], source_layer: 3, multi_head_positions: false };
    expect(readAnchorConfig({ ...trainedConfig, anchors })).toEqual({
      ...{ denseLayers: [0, 3], sourceLayer: 3, consumersAbove: 8, multiHeadPositions: false },
    });
    expect(
      readAnchorConfig({ anchors: { tokens: 'newline', window: 4, sinks: 2, per: 4 } }),
    ).toEqual({ tokens: 'newline', window: 4, sinks: 2, per: 4 });
  });

  test.each<[Json, string]>([
    [{ per: 0 }, 'Expected config.json key "per" to be an integer from 1 and up or "none"'],
    [{ per: '8' }, 'received "8" (string)'],
    [{ per: 8, anchor_layer: -1 }, '"anchor_layer"'],
    [{ per: 8, anchor_layer: 16 }, '"sourceLayer" to be a layer from 0 to 15, but received 16'],
    [{ per: 8, anchor_layer: 8, multilayer: 7 }, '"consumersAbove" to be the source layer (8)'],
    [{ per: 8, anchor_token_ids: [8] }, '"tokens" to be ids from 0 to 7, but received 8'],
    [{ per: 8, anchor_token_ids: ['a'] }, '"anchor_token_ids'],
    [{ anchors: 7 }, '"anchors" to be an object'],
    [{ anchors: { pre: 8 } }, 'Unknown config.json key "anchors.pre"; did you mean "anchors.per"?'],
    [{ anchors: { denseLayers: [0] } }, 'did you mean "anchors.dense_layers"?'],
    [{ anchors: { per: 2, dense_layers: [0] } }, 'either "per" or "denseLayers"'],
    [{ anchors: { dense_layers: [0, 0] } }, 'different layers from 0 to 15, but received [0,0]'],
    [{ anchors: { dense_layers: [16] } }, '"denseLayers"'],
    [{ anchor_token_ids: [1] }, 'neither "per" nor dense layers'],
  ])('%j is refused', (json, text) => {
    expect(() => anchorsOf(json)).toThrow(error('ERR_MODEL_INVALID', text));
  });

  test.each<[AnchorOptions, string]>([
    [{ per: 2, denseLayers: [0] }, 'either "per" or "denseLayers"'],
    [{ denseLayers: [99] }, 'different layers from 0 to 15'],
    [{ sourceLayer: 16 }, 'a layer from 0 to 15'],
    [{ sourceLayer: 9 }, '"consumersAbove" to be the source layer (9) or above, but received 8'],
    [{ tokens: [1, 99] }, 'ids from 0 to 7'],
    [{ insert: 99 }, 'a token of this tokenizer (ids 0 to 7)'],
    [{ insert: 'zebra' }, 'but received "zebra" (string)'],
  ])('the option %j is refused', (options, text) => {
    expect(() => anchorsOf(trainedConfig, options)).toThrow(error('ERR_INVALID_ARGUMENT', text));
  });

  test('find the token to insert', () => {
    expect(anchorsOf(trainedConfig).insertId).toBe(ANCHOR);
    expect(anchorsOf(trainedConfig, { insert: null }).insertId).toBe(-1);
    expect(anchorsOf(trainedConfig, { insert: '<fim>' }).insertId).toBe(FIM);
    expect(anchorsOf(trainedConfig, { insert: 2 }).insertId).toBe(FIM);
    // Where it is no anchor it is not inserted.
    expect(anchorsOf(trainedConfig, { tokens: [BOS] }).insertId).toBe(-1);
    // A dense twin was trained on text with anchors, too.
    expect(anchorsOf().insertId).toBe(ANCHOR);
    expect(anchorsOf({}, undefined, new FakeTokenizer(['<bos>', '\n'])).insertId).toBe(-1);
  });

  test('of a trained model need ids or the token', () => {
    const plain = new FakeTokenizer(['<bos>', '\n']);
    const open = (json: Json) => {
      const anchors = resolveAnchors(json, undefined, { layers: 16, vocabSize: 2 }, BOS, plain);
      return nativePolicy(defaultPolicy(anchors), anchors);
    };
    expect(() => open(trainedConfig)).toThrow(error('ERR_MODEL_INVALID', 'no token <ANCHOR>'));
    expect([...open({ ...trainedConfig, anchor_token_ids: [1] }).anchorIds]).toEqual([1]);
  });
});

describe('policies of a trained model', () => {
  const anchors = anchorsOf({ ...trainedConfig, anchor_token_ids: [3, 1, 0, 1] });

  test('default to its own attention', () => {
    const policy = defaultPolicy(anchors);
    expect(policy).toEqual({
      ...{ kind: 'anchor', line: true, tokens: [3, 1, 0, 1], per: 8, sourceLayer: 8 },
      ...{ consumersAbove: 8, multiHeadPositions: true, window: 0, sinks: 1 },
    });
    const own = {
      ...{ anchorIds: [0, 1, 3], firstIsAnchor: true, anchorSeesAnchors: true, line: true },
      ...{ window: 0, sinks: 1, denseLayers: [0, 8], sourceLayer: 8, consumersAbove: 8 },
      multiHeadPositions: true,
    };
    expect(native(policy, anchors)).toEqual(own);
    expect(native({ kind: 'anchor' }, anchors)).toEqual(own);
  });

  test('keep spread positions and layer-wise attention with a full cache', () => {
    expect(native({ kind: 'full' }, anchors)).toMatchObject({
      ...{ anchorIds: [0, 1, 3], denseLayers: all, sourceLayer: 8, consumersAbove: 8 },
      multiHeadPositions: true,
    });
    const off = anchorsOf(trainedConfig, { multiHeadPositions: false, sourceLayer: null });
    const expected = { sourceLayer: -1, multiHeadPositions: false };
    expect(native({ kind: 'full' }, off)).toMatchObject(expected);
  });

  test('take what the policy names instead, key by key', () => {
    const policy: CachePolicy = {
      kind: 'anchor',
      denseLayers: [8, 1],
      window: 4,
      tokens: 'newline',
    };
    expect(native(policy, anchors)).toMatchObject({
      ...{ denseLayers: [1, 8], window: 4, line: true, sourceLayer: 8 },
      anchorIds: [BOS, ANCHOR, FIM, LINE, INDENT, EOS],
    });
    expect(native({ kind: 'anchor', per: 'none' }, anchors)).toMatchObject({
      ...{ denseLayers: [], sourceLayer: 8 },
    });
    expect(native({ kind: 'anchor', sourceLayer: null }, anchors).sourceLayer).toBe(-1);
    expect(native({ kind: 'anchor', consumersAbove: 15 }, anchors).sourceLayer).toBe(-1);
  });

  test('of other kinds', () => {
    expect(native({ kind: 'window', size: 32 }, anchors)).toMatchObject({
      ...{ anchorIds: [], firstIsAnchor: false, line: false, window: 32, sinks: 4 },
      ...{ denseLayers: [], sourceLayer: 8, consumersAbove: 8, multiHeadPositions: false },
    });
    expect(native({ kind: 'window', size: 1, sinks: 0, denseLayers: [8] }, anchors)).toMatchObject({
      ...{ sinks: 0, denseLayers: [8] },
    });
    expect(native({ kind: 'ansan' }, anchors)).toEqual({
      ...{ anchorIds: [1, 3], firstIsAnchor: false, anchorSeesAnchors: false, line: true },
      ...{ window: 0, sinks: 0, denseLayers: [], sourceLayer: -1, consumersAbove: 0 },
      multiHeadPositions: false,
    });
    expect(native({ kind: 'ansan', tokens: [0, 4] }, anchors).anchorIds).toEqual([0, 4]);
    expect(native({ kind: 'ansan', tokens: 'newline' }, anchors).anchorIds).not.toContain(BOS);
  });

  test.each<[CachePolicy, string]>([
    [{ kind: 'anchor', line: false }, 'Expected "window" to be 1 or more where "line" is false'],
    [{ kind: 'anchor', per: 2, denseLayers: [0] }, 'either "per" or "denseLayers"'],
    [{ kind: 'anchor', denseLayers: [16] }, 'different layers from 0 to 15'],
    [{ kind: 'anchor', sourceLayer: 12 }, '"consumersAbove" to be the source layer (12) or above'],
    [{ kind: 'anchor', tokens: [77] }, 'ids from 0 to 7'],
    [
      { kind: 'anchor', denseLayers: [12] },
      'the source layer 8 to be dense, since its consumer 12',
    ],
    [{ kind: 'window', size: 4, denseLayers: [3, 3] }, 'different layers'],
    [{ kind: 'window', size: 4, denseLayers: [12] }, 'the source layer 8 to be dense'],
    [{ kind: 'ansan', tokens: [8] }, 'ids from 0 to 7'],
  ])('%j is refused', (policy, text) => {
    expect(() => native(policy, anchors)).toThrow(error('ERR_INVALID_ARGUMENT', text));
  });
});

describe('policies of another model', () => {
  const plain = new FakeTokenizer(['<bos>', 'a', '\n', '\n\n', 'b', 'c', 'd', 'e']);
  const anchors = anchorsOf({}, undefined, plain);

  test('default to a full cache without anchors', () => {
    expect(defaultPolicy(anchors)).toEqual({ kind: 'full' });
    expect(native({ kind: 'full' }, anchors)).toMatchObject({
      ...{ anchorIds: [], denseLayers: all, sourceLayer: -1, multiHeadPositions: false },
    });
  });

  test('take every newline and every eighth layer unless told otherwise', () => {
    expect(native({ kind: 'anchor' }, anchors)).toEqual({
      ...{ anchorIds: [0, 2, 3], firstIsAnchor: true, anchorSeesAnchors: true, line: true },
      ...{ window: 0, sinks: 1, denseLayers: [0, 8], sourceLayer: -1, consumersAbove: 0 },
      multiHeadPositions: false,
    });
    expect(explain({ kind: 'anchor', window: 8 }, anchors)).toEqual({
      ...{ kind: 'anchor', line: true, per: 8, window: 8, sinks: 1, sourceLayer: null },
      multiHeadPositions: false,
    });
  });

  test('take the options of loading as their defaults', () => {
    const asked = anchorsOf({}, { denseLayers: [0, 5], window: 16, sinks: 4 }, plain);
    expect(defaultPolicy(asked)).toEqual({ kind: 'full' });
    expect(native({ kind: 'anchor', line: false }, asked)).toMatchObject({
      ...{ denseLayers: [0, 5], window: 16, sinks: 4, line: false },
    });
  });

  test('need a tokenizer to find newlines', () => {
    const blind = resolveAnchors({}, undefined, sizes, BOS, undefined);
    expect(() => native({ kind: 'anchor' }, blind)).toThrow(error('ERR_NO_TOKENIZER', 'newlines'));
    expect(native({ kind: 'anchor', tokens: [4] }, blind).anchorIds).toEqual([4]);
  });
});
