// One sentence per problem: thing, value, expectation.
import { describe, expect, test } from '@jest/globals';
import { checkFolder, checkText, parseOptions } from '../../lib/options.js';
import { show } from '../../lib/show.js';
import { nearest } from '../../lib/validate.js';

type Call = keyof typeof parseOptions;

const refused: [Call, unknown, string][] = [
  [
    'generate',
    { temperature: 'hot' },
    'Expected option "temperature" to be a number from 0 and up, but received "hot" (string)',
  ],
  ['generate', { temprature: 1 }, 'Unknown option "temprature"; did you mean "temperature"?'],
  ['generate', { max_tokens: 1 }, 'Unknown option "max_tokens"; did you mean "maxTokens"?'],
  ['generate', { TOPK: 1 }, 'Unknown option "TOPK"; did you mean "topK"?'],
  ['generate', { beamWidth: 1 }, 'Unknown option "beamWidth"'],
  ['generate', null, 'Expected options to be an object, but received null'],
  ['generate', 'x', 'Expected options to be an object, but received "x" (string)'],
  ['generate', [], 'Expected options to be an object, but received [] (array)'],
  [
    'generate',
    { topK: -1, topP: 2 },
    'Expected option "topK" to be an integer from 0 to 2147483647, but received -1 (number). ' +
      'Expected option "topP" to be a number above 0 and up to 1, but received 2 (number)',
  ],
  ['generate', { maxTokens: 0 }, '"maxTokens" to be an integer from 1 to 2147483647'],
  ['generate', { maxTokens: 1.5 }, 'received 1.5 (number)'],
  ['generate', { temperature: Number.NaN }, 'received NaN (number)'],
  ['generate', { temperature: Number.POSITIVE_INFINITY }, 'received Infinity (number)'],
  ['generate', { temperature: -0.1 }, 'received -0.1 (number)'],
  ['generate', { topP: 0 }, 'a number above 0 and up to 1'],
  ['generate', { minP: 1.1 }, '"minP" to be a number from 0 to 1'],
  ['generate', { repetitionPenalty: 0 }, '"repetitionPenalty" to be a number above 0,'],
  ['generate', { seed: -1 }, '"seed" to be an integer from 0 to 2^53 - 1, or a bigint'],
  ['generate', { seed: 2 ** 53 }, '"seed"'],
  ['generate', { seed: 2n ** 64n }, 'received 18446744073709551616 (bigint)'],
  ['generate', { stop: '' }, '"stop" to be a text or a list of texts, none of them empty'],
  [
    'generate',
    { stop: ['a', ''] },
    'option "stop[1]" to be a text that is not empty, but received ""',
  ],
  ['generate', { stop: [1] }, 'received [1] (array)'],
  ['generate', { stopTokens: [1, 'x'] }, 'option "stopTokens[1]" to be an integer from 0'],
  ['generate', { stopTokens: 1 }, '"stopTokens" to be a list of token ids, but received 1'],
  ['generate', { logprobs: -1 }, '"logprobs" to be a boolean or an integer from 0 and up'],
  ['generate', { anchors: 'none' }, '"anchors" to be one of "forced", "sampled", but received'],
  ['generate', { signal: {} }, '"signal" to be an AbortSignal, but received {} (object)'],
  ['append', { logits: true }, '"logits" to be one of "none", "last", "all", but received true'],
  ['append', { parseSpecial: 'no' }, '"parseSpecial" to be a boolean'],
  ['append', { onProgress: 1 }, '"onProgress" to be a function'],
  ['tokenize', { addSpecial: 1 }, '"addSpecial" to be a boolean'],
  ['load', { device: 'gpu' }, '"device" to be one of "auto", "cpu", but received "gpu" (string)'],
  ['load', { threads: 0 }, '"threads" to be an integer from 1 to 1024'],
  ['load', { compute: 'fp16' }, '"compute" to be one of "exact", "bf16"'],
  ['load', { maxMemory: '4 GB' }, '"maxMemory" to be an integer from 1 and up'],
  ['load', { anchors: { pre: 8 } }, 'Unknown option "anchors.pre"; did you mean "anchors.per"?'],
  ['load', { anchors: { per: 0 } }, '"anchors.per" to be an integer from 1 and up or "none"'],
  ['load', { anchors: { tokens: 'lines' } }, '"anchors.tokens" to be a list of token ids or "ne'],
  ['load', { anchors: { insert: '' } }, '"anchors.insert" to be a token id, the text of a token'],
  ['load', { anchors: { sinks: 0 } }, '"anchors.sinks" to be an integer from 1'],
  ['session', { policy: 'full' }, '"policy" to be an object whose "kind" is one of "full", "win'],
  ['session', { policy: {} }, 'option "policy.kind" to be one of "full", "window", "anchor", "a'],
  ['session', { policy: { kind: 'none' } }, 'but received "none" (string)'],
  ['session', { policy: { kind: 'window' } }, '"policy.size" to be an integer from 1'],
  [
    'session',
    { policy: { kind: 'window', size: 4, sink: 1 } },
    'Unknown option "policy.sink"; did you mean "policy.sinks"?',
  ],
  ['session', { policy: { kind: 'full', size: 4 } }, 'Unknown option "policy.size"'],
  ['session', { policy: { kind: 'anchor', insert: 1 } }, 'Unknown option "policy.insert"'],
  ['session', { cacheType: 'int4' }, '"cacheType" to be one of "f32", "bf16", "f16", "int8"'],
  ['session', { contextLength: 0 }, '"contextLength" to be an integer from 1'],
  ['complete', { onChunk: 1, temperature: 'x' }, '"temperature"'],
  ['complete', { onchunk: 1 }, 'did you mean "onChunk"?'],
  ['estimate', { anchorShare: 2 }, '"anchorShare" to be a number from 0 to 1'],
  ['estimate', { context: -1 }, '"context" to be an integer from 1'],
];

describe('options', () => {
  test.each(refused)('%s refuses %p', (call, options, sentence) => {
    const message = expect.stringContaining(sentence);
    expect(() => parseOptions[call](options)).toThrow(
      expect.objectContaining({ name: 'AnchorError', code: 'ERR_INVALID_ARGUMENT', message }),
    );
  });

  test('may be missing, and undefined is the same as missing', () => {
    for (const call of Object.keys(parseOptions) as Call[]) {
      expect(parseOptions[call]()).toEqual({});
      expect(parseOptions[call](undefined)).toEqual({});
    }
    const { temperature } = parseOptions.generate({ temperature: undefined, stop: undefined });
    expect(temperature).toBeUndefined();
  });

  test('accept every documented value', () => {
    const { signal } = new AbortController();
    const generate = { seed: 2n ** 64n - 1n, stop: ['a'], logprobs: true, signal, stopTokens: [] };
    expect(parseOptions.generate(generate)).toEqual(generate);
    const anchors = { tokens: 'newline', insert: null, indent: 'tab4', per: 'none', window: 4 };
    expect(parseOptions.load({ anchors })).toEqual({ anchors });
    const policy = { kind: 'anchor', line: false, window: 8, denseLayers: [0], sourceLayer: null };
    expect(parseOptions.session({ policy })).toEqual({ policy });
  });

  test('are copied, so that later changes do not matter', () => {
    const stop = ['a'];
    const parsed = parseOptions.generate({ stop });
    stop.push('b');
    expect(parsed.stop).toEqual(['a']);
  });

  test('survive values that fight back', () => {
    const cycle: { self?: unknown } = {};
    cycle.self = cycle;
    const angry = {
      toJSON() {
        throw new Error('no');
      },
    };
    for (const value of [cycle, angry, Symbol('x'), () => {}, 10n, Object.create(null)]) {
      expect(() => parseOptions.generate({ topK: value })).toThrow(/Expected option "topK"/);
    }
  });

  test('folder and text', () => {
    for (const folder of [undefined, '', 7, 'a\0b', new URL('file:///x')]) {
      expect(() => checkFolder(folder)).toThrow(/Expected the folder to be the path/);
    }
    expect(() => checkText(7, 'the text')).toThrow('Expected the text to be a string, but');
  });
});

describe('sentences', () => {
  test('show long values short', () => {
    expect(show('x'.repeat(100)).length).toBeLessThan(75);
    expect(show(Array.from({ length: 1000 }, () => 1)).length).toBeLessThan(75);
    expect(show(undefined)).toBe('undefined');
  });

  test('suggest only what is near', () => {
    expect(nearest('temperatur', ['temperature', 'topK'])).toBe('temperature');
    expect(nearest('zzz', ['temperature', 'topK'])).toBeUndefined();
    expect(nearest('t'.repeat(10_000), ['topK'])).toBeUndefined();
  });
});
