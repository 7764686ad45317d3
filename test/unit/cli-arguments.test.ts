// Texts of the command line to values, and failures to sentences and exit codes.
import { describe, expect, test } from '@jest/globals';
import { CommanderError } from 'commander';
import {
  anchorsOf,
  collect,
  type PolicyOptions,
  parseCount,
  parseCountOrNone,
  parseInsert,
  parseLayers,
  parseNumber,
  parsePolicy,
  parseSeed,
  parseTokens,
  policyOf,
} from '../../lib/cli/arguments.js';
import { failureOf, flagOf } from '../../lib/cli/failure.js';
import { AnchorError } from '../../lib/errors.js';
import { parseOptions } from '../../lib/options.js';
import type { CachePolicy } from '../../types/api.js';

describe('numbers', () => {
  test('integers and decimals are read whole', () => {
    expect(parseCount('128')).toBe(128);
    expect(['0.3', '1', '.5', '1e-3', '-2'].map(parseNumber)).toEqual([0.3, 1, 0.5, 0.001, -2]);
    expect(parseSeed('18446744073709551615')).toBe(2n ** 64n - 1n);
  });

  test.each(['', ' ', '12x', '0x10', '1.5', '-1', 'NaN', '99999999999999999999'])(
    '%j is no count',
    (text) => {
      expect(() => parseCount(text)).toThrow('Expected an integer');
    },
  );

  test.each(['', 'x', '1,5', 'Infinity', '0x10', '1e', '--1'])('%j is no number', (text) => {
    expect(() => parseNumber(text)).toThrow('Expected a number');
  });

  test.each(['', '-1', '1.0', '123456789012345678901'])('%j is no seed', (text) => {
    expect(() => parseSeed(text)).toThrow('Expected an integer from 0 to 2^64 - 1');
  });
});

describe('lists', () => {
  test('layers, ids and words', () => {
    expect(parseLayers('17, 18,20')).toEqual([17, 18, 20]);
    expect(parseLayers('none')).toEqual([]);
    expect(parseTokens('newline')).toBe('newline');
    expect(parseTokens('0,1')).toEqual([0, 1]);
    expect(parseCountOrNone('8')).toBe(8);
    expect(parseCountOrNone('none')).toBe('none');
    expect(parseInsert('32016')).toBe(32016);
    expect(parseInsert('<ANCHOR>')).toBe('<ANCHOR>');
    expect(collect('b', collect('a'))).toEqual(['a', 'b']);
  });

  test.each(['', '1,', '1;2', 'all', '-1', '1-3'])('%j is no list of layers', (text) => {
    expect(() => parseLayers(text)).toThrow('Expected layer numbers');
  });
});

describe('policies', () => {
  test.each<[string, CachePolicy]>([
    ['full', { kind: 'full' }],
    ['anchor', { kind: 'anchor' }],
    ['ansan', { kind: 'ansan' }],
    ['window:512', { kind: 'window', size: 512 }],
    ['window:512,0', { kind: 'window', size: 512, sinks: 0 }],
    ['{"kind":"anchor","window":8}', { kind: 'anchor', window: 8 }],
  ])('%s', (text, policy) => {
    expect(parsePolicy(text)).toEqual(policy);
  });

  test.each(['', 'half', 'window', 'window:', 'window:8,', 'window:-8', 'Full'])(
    '%j is none',
    (text) => {
      expect(() => parsePolicy(text)).toThrow('Expected full, anchor, ansan, window:SIZE');
    },
  );

  test('broken JSON is named as such', () => {
    expect(() => parsePolicy('{kind:1}')).toThrow('Not valid JSON');
  });

  test.each<[string, PolicyOptions, CachePolicy | undefined]>([
    ['nothing: of the model', {}, undefined],
    ['a policy alone', { policy: { kind: 'full' } }, { kind: 'full' }],
    ['a word alone means anchors', { window: 64 }, { kind: 'anchor', window: 64 }],
    ['a dense list may be empty', { denseLayers: [] }, { kind: 'anchor', denseLayers: [] }],
    ['no source layer', { sourceLayer: 'none' }, { kind: 'anchor', sourceLayer: null }],
    ['commander turns --no-line into true where it is missing', { line: true }, undefined],
    ['no line', { line: false, window: 8 }, { kind: 'anchor', line: false, window: 8 }],
    [
      'words replace those of a JSON policy',
      { policy: { kind: 'anchor', window: 8, sinks: 2 }, window: 64, anchorTokens: 'newline' },
      { kind: 'anchor', window: 64, sinks: 2, tokens: 'newline' },
    ],
    [
      'a window with dense layers',
      { policy: { kind: 'window', size: 8 }, denseLayers: [0], sinks: 1 },
      { kind: 'window', size: 8, denseLayers: [0], sinks: 1 },
    ],
    [
      'ids of AnLLM',
      { policy: { kind: 'ansan' }, anchorTokens: [3] },
      { kind: 'ansan', tokens: [3] },
    ],
  ])('%s', (_, options, policy) => {
    expect(policyOf(options)).toEqual(policy);
  });

  test.each<[PolicyOptions, string]>([
    [{ policy: { kind: 'full' }, window: 8 }, '--window has no meaning under the policy "full"'],
    [{ policy: { kind: 'ansan' }, denseLayers: [0] }, '--dense-layers has no meaning'],
    [{ policy: { kind: 'window', size: 8 }, line: false }, '--no-line has no meaning'],
    [{ policy: { kind: 'window', size: 8 }, anchorTokens: [1] }, '--anchor-tokens has no meaning'],
  ])('%j is refused', (options, message) => {
    expect(() => policyOf(options)).toThrow(message);
  });

  test('options about inserted anchors', () => {
    expect(anchorsOf({})).toBeUndefined();
    expect(anchorsOf({ insertAnchor: 'none', indent: 'tab4' })).toEqual({
      insert: null,
      indent: 'tab4',
    });
  });
});

describe('failures', () => {
  const failed = (call: () => unknown) => {
    try {
      call();
    } catch (error) {
      return failureOf(error);
    }
    throw new Error('expected a failure');
  };

  test('a bad value names its flag and is a usage error', () => {
    expect(failed(() => parseOptions.generate({ topP: 2 }))).toEqual({
      line: 'ERR_INVALID_ARGUMENT: Expected option --top-p to be a number above 0 and up to 1, but received 2 (number)',
      exitCode: 2,
    });
    expect(failed(() => parseOptions.session({ contextLength: 0 })).line).toContain('--context to');
    expect(failed(() => parseOptions.load({ anchors: { insert: '' } })).line).toContain(
      'option --insert-anchor to be',
    );
    const policy = { kind: 'window', size: 0 };
    expect(failed(() => parseOptions.session({ policy })).line).toContain('"size" of the policy');
  });

  test('others are failures, in one line and without a stack', () => {
    const error = new AnchorError('ERR_MODEL_INVALID', 'First\n  second');
    expect(failureOf(error)).toEqual({
      line: 'ERR_MODEL_INVALID: First second',
      exitCode: 1,
    });
    expect(failureOf(new Error('what'))).toEqual({ line: 'ERR_UNEXPECTED: what', exitCode: 1 });
    expect(failureOf('text').exitCode).toBe(1);
  });

  test('help and version that were asked for are none', () => {
    const of = (exitCode: number, code: string) =>
      failureOf(new CommanderError(exitCode, code, '')).exitCode;
    expect(of(0, 'commander.version')).toBe(0);
    expect(of(0, 'commander.helpDisplayed')).toBe(0);
    expect(of(0, 'commander.help')).toBe(0);
    expect(of(1, 'commander.help')).toBe(2);
    expect(of(1, 'commander.unknownOption')).toBe(2);
  });

  test('flags of options', () => {
    expect(['topP', 'tokens', 'line', 'denseLayers'].map(flagOf)).toEqual([
      '--top-p',
      '--anchor-tokens',
      '--no-line',
      '--dense-layers',
    ]);
  });
});
