// Filling in the middle: every family's marks, order, blanks and ends; what is refused.
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { FillInTheMiddleOptions, Model } from '../../types/api.js';
import { FIRST, goldenIds, type TextModel, TextModels } from './text-models.js';

const shipped = fileURLToPath(new URL('../../models/anchor-code-23m', import.meta.url));
const models = new TextModels();
afterAll(() => models.remove());

const prefix = '\tif x:\n\t\ty = 1\n\t\t\tz = 2';
const suffix = '{\n\n}\n';
const P = goldenIds('newlines', prefix);
const S = goldenIds('newlines', suffix);
const [A, B, C, D, E] = [FIRST, FIRST + 1, FIRST + 2, FIRST + 3, FIRST + 4];
const END = 396; // <|endoftext|>, which is `newlines`' own

// The golden tokenizers have an anchor; what is inserted is the last part's business.
async function open(model: TextModel, insert: number | null = null): Promise<Model> {
  return loadModel(await models.make(model), { anchors: { insert } });
}

function error(code: string, ...parts: string[]) {
  const words = parts.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  const message = expect.stringMatching(new RegExp(words.join('.*')));
  return expect.objectContaining({ name: 'AnchorError', code, message });
}

describe('families, by their marks', () => {
  type Case = [string, string[], 'psm' | 'spm', number[], number[]];
  const cases: Case[] = [
    [
      'Qwen-Coder and Granite 4',
      ['<|fim_prefix|>', '<|fim_middle|>', '<|fim_suffix|>', '<|fim_pad|>', '<|file_sep|>'],
      'psm',
      [A, ...P, C, ...S, B],
      [2, END, A, B, C, D, E],
    ],
    [
      'CodeGemma',
      ['<|fim_prefix|>', '<|fim_middle|>', '<|fim_suffix|>', '<|file_separator|>'],
      'psm',
      [A, ...P, C, ...S, B],
      [2, END, A, B, C, D],
    ],
    [
      'StarCoder',
      ['<fim_prefix>', '<fim_middle>', '<fim_suffix>', '<fim_pad>', '<repo_name>'],
      'psm',
      [A, ...P, C, ...S, B],
      [2, END, A, B, C, D, E],
    ],
    [
      'SantaCoder',
      ['<fim-prefix>', '<fim-middle>', '<fim-suffix>'],
      'psm',
      [A, ...P, C, ...S, B],
      [2, END, A, B, C],
    ],
    [
      'DeepSeek-Coder',
      ['<｜fim▁hole｜>', '<｜fim▁begin｜>', '<｜fim▁end｜>', '<|EOT|>'],
      'psm',
      [B, ...P, A, ...S, C],
      [2, A, B, C, D],
    ],
    [
      'Seed-Coder',
      ['<[fim-prefix]>', '<[fim-suffix]>', '<[fim-middle]>'],
      'spm',
      [B, ...S, A, ...P, C],
      [2, A, B, C],
    ],
    ['Codestral', ['[PREFIX]', '[MIDDLE]', '[SUFFIX]'], 'spm', [C, ...S, A, ...P], [2, A, C]],
    [
      'marks without a middle',
      ['<|fim_prefix|>', '<|fim_suffix|>'],
      'spm',
      [B, ...S, A, ...P],
      [2, END, A, B],
    ],
  ];

  test.each(cases)('%s', async (_, tokens, order, ids, stops) => {
    using model = await open({ tokenizer: 'newlines', tokens, config: { eos_token_id: 2 } });
    expect(model.info.fillInTheMiddle).toBe(order);
    const prompt = await model.fillInTheMiddle({ prefix, suffix });
    expect([...prompt.ids]).toEqual(ids);
    expect(prompt.order).toBe(order);
    expect([...prompt.stopTokens].sort((a, b) => a - b)).toEqual(stops);
  });

  test('marks that the tokenizer lists as text are marks, not text', async () => {
    const marks = ['<|fim_prefix|>', '<|fim_middle|>', '<|fim_suffix|>'];
    const tokens = marks.map((content) => ({ content, special: false }));
    using model = await open({ tokenizer: 'newlines', tokens });
    const { ids } = await model.fillInTheMiddle({ prefix: marks[0] as string, suffix: '' });
    expect(ids[0]).toBe(A);
    expect([...ids].filter((id) => id === A)).toHaveLength(1);
    expect(model.detokenize(ids)).toBe('<|fim_prefix|>');
  });

  test('suffix first in marks that know both orders', async () => {
    const tokens = ['<fim_prefix>', '<fim_middle>', '<fim_suffix>'];
    using model = await open({ tokenizer: 'newlines', tokens });
    const { ids, order } = await model.fillInTheMiddle({ prefix, suffix }, { order: 'spm' });
    expect([...ids]).toEqual([A, C, ...S, B, ...P]);
    expect(order).toBe('spm');
  });
});

describe('CodeLlama', () => {
  const tokens = ['▁<PRE>', '▁<MID>', '▁<SUF>', '▁<EOT>'];
  const before = goldenIds('sentencepiece', prefix);
  const after = goldenIds('sentencepiece', suffix, 'continued');
  let model: Model;
  beforeAll(async () => {
    model = await open({ tokenizer: 'sentencepiece', tokens, config: { eos_token_id: 2 } });
  });
  afterAll(() => model.dispose());

  test('BOS, a blank before the prefix and none before the suffix', async () => {
    expect(after).not.toEqual(goldenIds('sentencepiece', suffix));
    const psm = await model.fillInTheMiddle({ prefix, suffix });
    expect([...psm.ids]).toEqual([1, A, ...before, C, ...after, B]);
    expect(psm.stopTokens).toEqual([2, D, A, C, B]);
    const spm = await model.fillInTheMiddle({ prefix, suffix }, { order: 'spm' });
    expect([...spm.ids]).toEqual([1, A, C, ...after, B, ...before]);
  });

  test('empty texts have no ids, not even a blank', async () => {
    const { ids } = await model.fillInTheMiddle({ prefix: '', suffix: '' });
    expect([...ids]).toEqual([1, A, C, B]);
  });
});

describe('the shipped model', () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadModel(shipped);
  });
  afterAll(() => model.dispose());

  test('takes the suffix first, with anchors in both texts', async () => {
    const { ids, order, stopTokens } = await model.fillInTheMiddle({ prefix, suffix });
    const [p, s] = [prefix, suffix].map((text) => goldenIds('shipped', text, 'anchored'));
    expect([...ids]).toEqual([0, 2, ...(s as number[]), 3, ...(p as number[])]);
    expect(ids.filter((id) => id === 1)).toHaveLength(5);
    expect({ order, stopTokens }).toEqual({ order: 'spm', stopTokens: [0, 2, 3] });
    expect(model.info.fillInTheMiddle).toBe('spm');
  });

  test('fills a hole in one call, and as the parts do', async () => {
    const hole = {
      prefix: 'for (let i = 0; i < items.',
      suffix: '; i++) {\n  use(items[i]);\n}\n',
    };
    const filled = await model.complete(hole.prefix, { suffix: hole.suffix, maxTokens: 6 });
    expect(filled.text).toMatch(/^length\b/);
    const { ids, stopTokens } = await model.fillInTheMiddle(hole);
    const parts = await model.complete(ids, { maxTokens: 6, stopTokens: [...stopTokens] });
    expect(parts.text).toBe(filled.text);
    expect(filled.usage.promptTokens).toBe(ids.filter((id) => id !== 1).length);
  });

  test('ends a middle at its marks, unless the call names other ends', async () => {
    const around = { suffix: ')\n', maxTokens: 1 };
    const { ids } = await model.complete('print(', around);
    const [next] = ids;
    const ended = await model.complete('print(', { ...around, stopTokens: [next as number] });
    expect(ended).toMatchObject({ finish: 'stop', text: '' });
  });

  test('its marks in the texts stay text', async () => {
    const text = '<|fim_suffix|><ANCHOR><|endoftext|>';
    const { ids } = await model.fillInTheMiddle({ prefix: text, suffix: text });
    expect([...ids].filter((id) => id <= 3)).toEqual([0, 2, 3]);
    expect(model.detokenize(ids)).toBe(text + text);
  });

  test('the marks are anchors: a new line begins behind them', async () => {
    using session = model.createSession();
    const { ids } = await model.fillInTheMiddle({ prefix: 'a', suffix: 'b' });
    await session.append(ids);
    expect(session.stats().anchors).toBe(3);
  });
});

describe('refused', () => {
  test('a model without marks, naming those that were looked for', async () => {
    using model = await open({ tokenizer: 'newlines', tokens: ['<fim_prefix>', '<fim_suffix>'] });
    expect(model.info.fillInTheMiddle).toBeUndefined();
    const expected = error(
      'ERR_MODEL_UNSUPPORTED',
      'fill in the middle',
      '<fim_middle>',
      '[SUFFIX]',
    );
    await expect(model.fillInTheMiddle({ prefix, suffix })).rejects.toEqual(expected);
    await expect(model.complete(prefix, { suffix })).rejects.toEqual(expected);
  });

  test('a model that was trained for anchors, but not with its marks', async () => {
    const tokens = ['<fim_prefix>', '<fim_middle>', '<fim_suffix>'];
    const config = { per: 1, anchor_token_ids: [397] };
    using without = await open({ tokenizer: 'newlines', tokens, config });
    expect(without.info.fillInTheMiddle).toBeUndefined();
    await expect(without.fillInTheMiddle({ prefix, suffix })).rejects.toEqual(
      error('ERR_MODEL_UNSUPPORTED', 'trained for anchors', '<fim_prefix>'),
    );
    const anchors = [397, A, B, C];
    using model = await open({
      ...{ tokenizer: 'newlines', tokens, config: { per: 1, anchor_token_ids: anchors } },
    });
    const prompt = await model.fillInTheMiddle({ prefix: 'a', suffix: 'a' });
    const [a] = goldenIds('newlines', 'a');
    expect([...prompt.ids]).toEqual([A, C, a, B, a]);
    await expect(model.fillInTheMiddle({ prefix, suffix }, { order: 'psm' })).rejects.toEqual(
      error('ERR_MODEL_UNSUPPORTED', 'suffix first'),
    );
  });

  test('an anchored model whose marks have no suffix-first order', async () => {
    const tokens = ['<｜fim▁hole｜>', '<｜fim▁begin｜>', '<｜fim▁end｜>'];
    const config = { per: 1, anchor_token_ids: [397, A, B, C] };
    using model = await open({ tokenizer: 'newlines', tokens, config });
    expect(model.info.fillInTheMiddle).toBeUndefined();
    await expect(model.fillInTheMiddle({ prefix, suffix })).rejects.toEqual(
      error('ERR_MODEL_UNSUPPORTED', 'no suffix-first order'),
    );
  });

  test('an order that the marks do not have', async () => {
    using model = await open({ tokenizer: 'newlines', tokens: ['[PREFIX]', '[SUFFIX]'] });
    await expect(model.fillInTheMiddle({ prefix, suffix }, { order: 'psm' })).rejects.toEqual(
      error('ERR_MODEL_UNSUPPORTED', 'Codestral', '"psm"'),
    );
  });

  test('texts beyond the context', async () => {
    using model = await open({ tokenizer: 'newlines', tokens: ['[PREFIX]', '[SUFFIX]'] });
    const long = 'if x:\n'.repeat(300);
    await expect(model.fillInTheMiddle({ prefix: long, suffix })).rejects.toEqual(
      error('ERR_CONTEXT_LENGTH', `The prefix has `, 'the context of 512'),
    );
    await expect(model.complete(prefix, { suffix, contextLength: 8 })).rejects.toEqual(
      error('ERR_CONTEXT_LENGTH'),
    );
  });

  test('a folder without a tokenizer', async () => {
    const folder = fileURLToPath(new URL('../golden/models/tinyllama', import.meta.url));
    using model = await loadModel(folder);
    expect(model.info.fillInTheMiddle).toBeUndefined();
    await expect(model.fillInTheMiddle({ prefix, suffix })).rejects.toEqual(
      error('ERR_NO_TOKENIZER'),
    );
  });

  test('what is no text', async () => {
    using model = await open({ tokenizer: 'newlines', tokens: ['[PREFIX]', '[SUFFIX]'] });
    const refusal = async (call: Promise<unknown>, ...words: string[]) =>
      expect(call).rejects.toEqual(error('ERR_INVALID_ARGUMENT', ...words));
    await refusal(model.fillInTheMiddle({ prefix } as never), '"suffix" to be a string');
    await refusal(model.fillInTheMiddle(undefined as never), 'the texts to be an object');
    await refusal(model.complete([1, 2], { suffix }), 'the prompt before a suffix to be a string');
    await refusal(model.complete('a', { suffix: 7 as never }), 'option "suffix" to be a string');
  });
});

describe('marks of the caller', () => {
  const tokens = ['<hole>', '<tail>'];
  const texts = { prefix, suffix };
  let model: Model;
  beforeAll(async () => {
    model = await open({ tokenizer: 'newlines', tokens, config: { eos_token_id: 2 } });
  });
  afterAll(() => model.dispose());

  test('by text and id, in any order', async () => {
    const format = ['<hole>', '{prefix}', B, '{suffix}'];
    const { ids, order, stopTokens } = await model.fillInTheMiddle(texts, { format });
    expect([...ids]).toEqual([A, ...P, B, ...S]);
    expect({ order, stopTokens }).toEqual({ order: 'psm', stopTokens: [2, A, B] });
  });

  test.each<[string, FillInTheMiddleOptions, string]>([
    ['a token that is none', { format: ['<none>', '{prefix}', '{suffix}'] }, '"format[0]"'],
    ['an id that is none', { format: ['{prefix}', '{suffix}', 480] }, 'ids 0 to 479'],
    ['one text', { format: ['<hole>', '{prefix}'] }, 'once each'],
    ['a text twice', { format: ['{prefix}', '{prefix}', '{suffix}'] }, 'once each'],
    ['two orders', { format: ['{prefix}', '{suffix}'], order: 'spm' }, 'option "order"'],
    ['an order that is none', { order: 'mps' as never }, 'one of "psm", "spm"'],
  ])('%s', async (_, options, words) => {
    await expect(model.fillInTheMiddle(texts, options)).rejects.toEqual(
      error('ERR_INVALID_ARGUMENT', words),
    );
  });
});
