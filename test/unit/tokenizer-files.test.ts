// Merging the sources of added tokens, and what is refused.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openTokenizer } from '../../dist/lib/tokenizer/tokenizer.js';
import { Encoder } from '../../lib/tokenizer/tokenizer-encode.js';
import { type Json, readTokenizerFiles } from '../../lib/tokenizer/tokenizer-files.js';

const golden = fileURLToPath(new URL('../golden/tokenizer/newlines/', import.meta.url));
const source = JSON.parse(readFileSync(join(golden, 'tokenizer.json'), 'utf8')) as Json & {
  model: Json & { vocab: Record<string, number> };
};
const SIZE = 400;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tokenizer-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A folder with the golden tokenizer, changed, and files beside it. */
function write(changes: Json, beside: Record<string, unknown> = {}): string {
  rmSync(folder, { recursive: true, force: true });
  folder = mkdtempSync(join(tmpdir(), 'tokenizer-'));
  const { added_tokens = [], ...rest } = changes;
  const all = { 'tokenizer.json': { ...source, added_tokens, ...rest }, ...beside };
  for (const [name, value] of Object.entries(all)) {
    const text = typeof value === 'string' ? value : JSON.stringify(value);
    writeFileSync(join(folder, name), text);
  }
  return folder;
}

function load(changes: Json, beside?: Record<string, unknown>, size = SIZE): Encoder {
  return new Encoder(readTokenizerFiles(write(changes, beside), size), size);
}

function encode(encoder: Encoder, text: string, parseSpecial = true): number[] {
  const settings = { parseSpecial, addSpecial: false, continued: false };
  return Array.from(encoder.encode(text, settings));
}

function failure(code: string, ...words: string[]) {
  const parts = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  return expect.objectContaining({
    name: 'AnchorError',
    code,
    message: expect.stringMatching(new RegExp(parts.join('.*'))),
  }) as unknown as Error;
}

const special = (id: number, content: string, more: Json = {}) => {
  return { id, content, special: true, normalized: false, ...more };
};

describe('added tokens', () => {
  test.each([
    ['tokenizer.json', { added_tokens: [special(396, '<ANCHOR>')] }, {}],
    ['added_tokens.json', {}, { 'added_tokens.json': { '<ANCHOR>': 396 } }],
    [
      'tokenizer_config.json',
      {},
      { 'tokenizer_config.json': { added_tokens_decoder: { 396: { content: '<ANCHOR>' } } } },
    ],
  ])('from %s alone', (_, changes, beside) => {
    const encoder = load(changes, beside);
    expect(encode(encoder, 'x<ANCHOR>y')).toContain(396);
    expect(encode(encoder, 'x<ANCHOR>y')).toHaveLength(3);
    expect(encode(encoder, 'x<ANCHOR>y', false)).not.toContain(396);
    expect(encoder.table.control[396]).toBe(1);
  });

  test('named by role are control tokens, whatever else is said', () => {
    const added_tokens = ['<eos>', '<fim>', '<more>', '<text>'].map((content, i) => {
      return { id: 396 + i, content, special: false };
    });
    const encoder = load(
      { added_tokens },
      {
        'tokenizer_config.json': { eos_token: { content: '<eos>' }, pad_token: '<nowhere>' },
        'special_tokens_map.json': {
          additional_special_tokens: ['<fim>'],
          extra_special_tokens: { more: '<more>' },
        },
      },
    );
    expect(Array.from(encoder.table.control.slice(396))).toEqual([1, 1, 1, 0]);
    expect(encode(encoder, '<eos>', false)).not.toContain(396);
    // A token that is added but not special is text: one id, with bytes.
    expect(encode(encoder, '<text>', false)).toEqual([399]);
    const [start, end] = encoder.table.offsets.slice(399);
    expect(Buffer.from(encoder.table.bytes.slice(start, end)).toString()).toBe('<text>');
  });

  test('in the vocabulary are not reached by text either', () => {
    const model = { ...source.model, vocab: { ...source.model.vocab, '<s>': 396 } };
    const merges = [...(source.model.merges as unknown[]), ['<', 's'], ['<s', '>']];
    const vocab = { ...model.vocab, '<s': 397 };
    const encoder = load(
      { model: { ...model, vocab, merges, ignore_merges: true } },
      { 'special_tokens_map.json': { bos_token: '<s>' } },
    );
    expect(encode(encoder, '<s>')).toEqual([396]);
    expect(encode(encoder, '<s>', false)).not.toContain(396);
  });

  test('whose ids disagree', () => {
    const beside = { 'added_tokens.json': { '<ANCHOR>': 397 } };
    expect(() => load({ added_tokens: [special(396, '<ANCHOR>')] }, beside)).toThrow(
      failure(
        'ERR_MODEL_INVALID',
        '"<ANCHOR>"',
        '396',
        'tokenizer.json',
        '397',
        'added_tokens.json',
      ),
    );
    expect(() => load({}, { 'added_tokens.json': { a: 396 } })).toThrow(
      failure('ERR_MODEL_INVALID', '"a"', 'vocabulary of tokenizer.json', '396'),
    );
  });

  test('that share an id', () => {
    const added_tokens = [special(396, '<one>'), special(396, '<two>')];
    expect(() => load({ added_tokens })).toThrow(
      failure('ERR_MODEL_INVALID', '396', '"<one>"', '"<two>"'),
    );
  });

  test('outside the vocabulary of the model', () => {
    const added_tokens = [special(396, '<in>'), special(398, '<out>')];
    expect(() => load({ added_tokens }, {}, 398)).toThrow(
      failure('ERR_MODEL_INVALID', '398', '"<out>" (398)'),
    );
    expect(() => load({}, {}, 100)).toThrow(failure('ERR_MODEL_INVALID', '100', 'and 291 more'));
  });

  test('that do not come back as one id', () => {
    // The first is looked for before the text is normalized, so the second never gets its turn.
    const added_tokens = [special(396, '<A>'), special(397, '<A>x', { normalized: true })];
    expect(() => load({ added_tokens, normalizer: { type: 'Lowercase' } })).toThrow(
      failure('ERR_MODEL_INVALID', '"<A>x" (397)'),
    );
  });
});

describe('ids in front', () => {
  const first = (changes: Json, config: Json) => {
    const added_tokens = [special(396, '<s>'), special(397, '<t>')];
    const folder = write({ added_tokens, ...changes }, { 'tokenizer_config.json': config });
    return readTokenizerFiles(folder, SIZE).first;
  };
  const template = {
    type: 'TemplateProcessing',
    single: [
      { SpecialToken: { id: '<t>', type_id: 0 } },
      { Sequence: { id: 'A', type_id: 0 } },
      { SpecialToken: { id: '<s>', type_id: 0 } },
    ],
  };
  const bytes = { type: 'ByteLevel', trim_offsets: true };
  const both = { type: 'Sequence', processors: [bytes, template] };

  test.each<[string, number[], Json, Json]>([
    ['a template', [397], { post_processor: template }, { add_bos_token: true, bos_token: '<s>' }],
    ['a template in a sequence', [397], { post_processor: both }, {}],
    ['add_bos_token', [396], { post_processor: bytes }, { add_bos_token: true, bos_token: '<s>' }],
    ['no add_bos_token', [], {}, { bos_token: '<s>' }],
    ['Llama by habit', [396], {}, { tokenizer_class: 'LlamaTokenizerFast', bos_token: '<s>' }],
    [
      'Llama without',
      [],
      {},
      { tokenizer_class: 'LlamaTokenizer', bos_token: '<s>', add_bos_token: false },
    ],
    ['BERT', [396], { post_processor: { type: 'BertProcessing', cls: ['<s>', 396] } }, {}],
  ])('by %s', (_, expected, changes, config) => {
    expect(first(changes, config)).toEqual(expected);
  });

  test('that do not exist', () => {
    expect(() => first({}, { add_bos_token: true, bos_token: '<none>' })).toThrow(
      failure('ERR_MODEL_INVALID', '"<none>"'),
    );
  });
});

describe('what is refused', () => {
  const model = (changes: Json) => ({ model: { ...source.model, ...changes } });
  test.each<[string, Json, string[]]>([
    ['Unigram', model({ type: 'Unigram', vocab: [] }), ['Unigram', 'BPE']],
    ['suffixes', model({ end_of_word_suffix: '</w>' }), ['end_of_word_suffix', '</w>']],
    ['an unknown decoder', { decoder: { type: 'CTC' }, pre_tokenizer: null }, ['CTC']],
    ['an unknown normalizer', { normalizer: { type: 'BertNormalizer' } }, ['BertNormalizer']],
    [
      'an unknown pre-tokenizer',
      { pre_tokenizer: { type: 'BertPreTokenizer' } },
      ['BertPreTokenizer'],
    ],
    [
      'merged splits',
      {
        pre_tokenizer: {
          type: 'Split',
          pattern: { String: ' ' },
          behavior: 'MergedWithNext',
          invert: false,
        },
      },
      ['Split', 'mergedwithnext'],
    ],
    [
      'a pattern that JavaScript does not have',
      {
        pre_tokenizer: {
          type: 'Split',
          pattern: { Regex: '(?<x' },
          behavior: 'Isolated',
          invert: false,
        },
      },
      ['not supported'],
    ],
    [
      'single words',
      { added_tokens: [special(396, '<s>', { single_word: true })] },
      ['single_word'],
    ],
  ])('%s', (_, changes, words) => {
    const decoder = { type: 'ByteLevel' };
    expect(() => load({ decoder, ...changes })).toThrow(failure('ERR_MODEL_UNSUPPORTED', ...words));
  });

  test.each<[string, Json, string[]]>([
    ['an id that is none', model({ vocab: { a: -1 } }), ['"a"', '-1']],
    ['a merge that is none', model({ merges: ['a'] }), ['"a"', 'no pair']],
    ['a merge of nothing', model({ merges: [['a', 'zzz']] }), ['["a","zzz"]']],
    ['no vocabulary', model({ vocab: undefined }), ['vocabulary']],
    ['no model', { model: undefined }, ['no model']],
    ['an empty token', { added_tokens: [special(396, '')] }, ['396', 'empty']],
    ['a token without text', { added_tokens: [{ id: 396 }] }, ['content']],
  ])('%s', (_, changes, words) => {
    expect(() => load(changes)).toThrow(failure('ERR_MODEL_INVALID', ...words));
  });

  test('a file that is no JSON', () => {
    const beside = { 'tokenizer_config.json': '{' };
    expect(() => load({}, beside)).toThrow(failure('ERR_MODEL_INVALID', 'tokenizer_config.json'));
    expect(() => load({}, { 'added_tokens.json': '[]' })).toThrow(
      failure('ERR_MODEL_INVALID', 'added_tokens.json'),
    );
  });

  test('another vocabulary without tokenizer.json', async () => {
    write({}, { 'tokenizer.model': 'x' });
    rmSync(join(folder, 'tokenizer.json'));
    await expect(openTokenizer(folder, SIZE)).rejects.toEqual(
      failure('ERR_MODEL_UNSUPPORTED', 'tokenizer.model', 'tokenizer.json'),
    );
  });

  test('through the worker, with the same code', async () => {
    write({ decoder: { type: 'CTC' }, pre_tokenizer: null });
    await expect(openTokenizer(folder, SIZE)).rejects.toEqual(
      failure('ERR_MODEL_UNSUPPORTED', 'CTC'),
    );
  });
});
