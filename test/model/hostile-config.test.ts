// Configurations and tokenizers that lie.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import {
  type Case,
  edit,
  HostileFolders,
  invalid,
  type Json,
  many,
  mega,
  offsetsOf,
  readWeights,
  tokenizer,
  tokenizerModel,
  unsupported,
  writeJson,
  writeSparse,
  writeWeights,
} from './hostile.js';

const folders = new HostileFolders();
afterAll(() => folders.remove());

const config = (change: Json) => edit('config.json', change);
const text = (value: string) => (folder: string) => writeJson(folder, 'config.json', value);

/** A value for a key that JSON.stringify could not write. */
const literal = (key: string, value: string) => (folder: string) => {
  edit('config.json', { [key]: '@' })(folder);
  const path = join(folder, 'config.json');
  writeFileSync(path, readFileSync(path, 'utf8').replace('"@"', value));
};

const integers: [key: string, most: number][] = [
  ['num_hidden_layers', 1024],
  ['hidden_size', 2 ** 20],
  ['intermediate_size', 2 ** 22],
  ['num_attention_heads', 4096],
  ['num_key_value_heads', 4096],
  ['head_dim', 1024],
  ['vocab_size', 2 ** 24],
  ['max_position_embeddings', 2 ** 28],
];

const rope = (change: Json) =>
  config({ rope_scaling: { rope_type: 'linear', factor: 2, ...change } });
const experts = {
  architectures: ['Qwen3MoeForCausalLM'],
  num_experts: 4,
  moe_intermediate_size: 4,
};

test('config.json', async () => {
  const cases: Case[] = [
    ...integers.flatMap(([key, most]) =>
      [0, -1, 1.5, most + 1, 1e9 + 0.5, 2 ** 31 + most, 1e308, '8', [8], {}, true].map(
        (value): Case => [
          `${key} ${JSON.stringify(value)}`,
          config({ [key]: value }),
          invalid,
          new RegExp(`Expected "${key}" in config.json to be an integer from 1 to ${most}`),
        ],
      ),
    ),
    ...integers.flatMap(([key]): Case[] => [
      [`${key} NaN`, literal(key, 'NaN'), invalid, /config.json is not valid JSON/],
      [`${key} 1e999`, literal(key, '1e999'), invalid, /but received Infinity/],
    ]),
    ...['rms_norm_eps', 'rope_theta'].flatMap((key) =>
      [0, -1, 1e308, '1', [], {}, false].map(
        (value): Case => [
          `${key} ${JSON.stringify(value)}`,
          config({ [key]: value }),
          invalid,
          new RegExp(`"${key}" in config.json to be a number above 0 and below 1e\\+38`),
        ],
      ),
    ),
    ...[0, -1, null, 1e308, '2', {}].map(
      (factor): Case => [
        `factor ${JSON.stringify(factor)}`,
        rope({ factor }),
        invalid,
        /"rope_scaling.factor"/,
      ],
    ),
    [
      'factor NaN',
      literal('rope_scaling', '{"rope_type":"linear","factor":NaN}'),
      invalid,
      /not valid JSON/,
    ],
    [
      'factor 1e999',
      literal('rope_scaling', '{"rope_type":"linear","factor":1e999}'),
      invalid,
      /received Infinity/,
    ],
    [
      'a scale beyond float32',
      rope({ rope_type: 'yarn', mscale: 9e37, mscale_all_dim: 1e-30, factor: 1e37 }),
      invalid,
      /its rotary scaling multiplies by/,
    ],
    ['scaling of another type', rope({ rope_type: '\x1b[2J' }), unsupported, /type "\\u001b\[2J"/],
    [
      'scaling that is a list',
      config({ rope_scaling: [] }),
      invalid,
      /"rope_scaling" in config.json to be an object/,
    ],
    [
      'an odd head_dim',
      config({ head_dim: 5 }),
      invalid,
      /head size of 5; rotary positions need an even one/,
    ],
    [
      'kvHeads that do not divide',
      config({ num_attention_heads: 8, num_key_value_heads: 3 }),
      invalid,
      /a divisor of "num_attention_heads" \(8\)/,
    ],
    [
      'more kvHeads than heads',
      config({ num_key_value_heads: 4 }),
      invalid,
      /a divisor of "num_attention_heads"/,
    ],
    [
      'a negative window',
      config({ architectures: ['MistralForCausalLM'], sliding_window: -1 }),
      invalid,
      /"sliding_window" in config.json to be an integer from 1/,
    ],
    [
      'a window of text',
      config({ architectures: ['MistralForCausalLM'], sliding_window: '4' }),
      invalid,
      /"sliding_window"/,
    ],
    [
      'more experts per token than experts',
      config({ ...experts, num_experts_per_tok: 5 }),
      invalid,
      /"num_experts_per_tok" in config.json to be an integer from 1 to 4/,
    ],
    ['no experts', config({ ...experts, num_experts: 0 }), invalid, /"num_experts"/],
    ['a billion experts', config({ ...experts, num_experts: 1e9 }), invalid, /"num_experts"/],
    [
      '4096 experts that are not there',
      config({ ...experts, num_experts: 4096 }),
      invalid,
      /hold no tensor/,
    ],
    [
      'many experts in many layers',
      config({ ...experts, num_experts: 4096, num_hidden_layers: 1024 }),
      unsupported,
      /implies 4194304 experts/,
    ],
    [
      '1024 layers that are not there',
      config({ num_hidden_layers: 1024 }),
      invalid,
      /hold no tensor "model.layers.1\./,
    ],
    [
      'layers of unknown types',
      config({
        architectures: ['Qwen2ForCausalLM'],
        layer_types: ['\u202e'],
        use_sliding_window: true,
      }),
      unsupported,
      /layers of the type "\\u202e"/,
    ],
    [
      'a class of no string',
      config({ architectures: [{ toString: 1 }] }),
      unsupported,
      /the model class \{"toString":1\}/,
    ],
    [
      'a class of a megabyte',
      config({ architectures: ['x'.repeat(mega)] }),
      unsupported,
      /the model class x{57}\.\.\.;/,
    ],
    [
      'the class __proto__',
      config({ architectures: ['__proto__'] }),
      unsupported,
      /the model class __proto__/,
    ],
    [
      'the activation constructor',
      config({ hidden_act: 'constructor' }),
      unsupported,
      /"hidden_act" = "constructor"/,
    ],
    [
      'ids outside',
      config({ eos_token_id: [64] }),
      invalid,
      /"eos_token_id" in config.json to be a token id below 64/,
    ],
    ['negative ids', config({ bos_token_id: -1 }), invalid, /"bos_token_id"/],
    [
      'an id of a generation outside',
      (folder) => writeJson(folder, 'generation_config.json', { eos_token_id: 1e9 }),
      invalid,
      /"eos_token_id" in generation_config.json/,
    ],
    ['a list', text('[]'), invalid, /config.json holds no JSON object/],
    ['null', text('null'), invalid, /holds no JSON object/],
    ['a number', text('1'), invalid, /holds no JSON object/],
    [
      '100,000 levels',
      text(`{"a":${'{"a":'.repeat(100_000)}1${'}'.repeat(100_001)}`),
      invalid,
      /config.json nests deeper than the 100 levels/,
    ],
    [
      '5 MB of blanks',
      text(`{}${' '.repeat(5 * mega)}`),
      invalid,
      /config.json has \d+ bytes, more than the 4194304/,
    ],
    [
      'bad UTF-8',
      (folder) =>
        writeFileSync(join(folder, 'config.json'), Buffer.from('7b2261223a22ff227d', 'hex')),
      invalid,
      /config.json is not UTF-8/,
    ],
    [
      'UTF-16',
      (folder) => writeFileSync(join(folder, 'config.json'), '\uFEFF{}', 'utf16le'),
      invalid,
      /not UTF-8/,
    ],
    ['control characters', text('{"\x1b[2J\x07'), invalid, /^\P{Cc}*not valid JSON\P{Cc}*$/u],
    ['anchors of no kind', config({ per: 'all' }), invalid, /"per"/],
    ['anchors outside', config({ per: 1, anchor_token_ids: [64] }), invalid, /ids from 0 to 63/],
    [
      'an anchor block of texts',
      config({ anchors: 'newline' }),
      invalid,
      /config.json key "anchors" to be an object/,
    ],
    [
      'an anchor block with __proto__',
      text('{"architectures":["LlamaForCausalLM"],"anchors":{"__proto__":{"per":1}}}'),
      invalid,
      /./,
    ],
    [
      'an anchor that is not one token',
      config({ anchors: { per: 1, tokens: [40], insert: 'ab' } }),
      invalid,
      /config.json: Expected "insert" to be a token of this tokenizer/,
    ],
  ];
  await folders.check(cases);
});

const file = (value: unknown) => (folder: string) => writeJson(folder, 'tokenizer.json', value);
const change = (json: Json) => file(tokenizer(json));
const model = (json: Json) => file(tokenizerModel(json));
const token = (id: unknown, content: unknown, more: Json = {}) => ({
  id,
  content,
  special: true,
  ...more,
});
const added = (...tokens: unknown[]) => change({ added_tokens: tokens });
const normalizer = (...normalizers: unknown[]) =>
  change({ normalizer: { type: 'Sequence', normalizers } });
const replace = (pattern: unknown, content: unknown) => ({ type: 'Replace', pattern, content });

test('tokenizers', async () => {
  const opened = '{"type":"Sequence","normalizers":[';
  const sequence = (depth: number): unknown =>
    depth === 0 ? null : { type: 'Sequence', normalizers: [sequence(depth - 1)] };
  const cases: Case[] = [
    [
      'an id outside',
      model({ vocab: { a: 2, b: 64 } }),
      invalid,
      /ids outside the model's vocabulary of 64: "b" \(64\)/,
    ],
    ['an id of 2^31', model({ vocab: { a: 2 ** 31 } }), invalid, /"a" \(2147483648\)/],
    [
      'ids outside, many',
      model({
        vocab: Object.fromEntries(Array.from({ length: 1e5 }, (_, i) => [`t${i}`, 100 + i])),
      }),
      invalid,
      /and 99995 more/,
    ],
    ['an id twice', model({ vocab: { a: 2, b: 2 } }), invalid, /gives id 2 to "a" and "b"/],
    [
      'a negative id',
      model({ vocab: { a: -1 } }),
      invalid,
      /expected the id of "a" to be an integer, not -1/,
    ],
    ['half an id', model({ vocab: { a: 0.5 } }), invalid, /expected the id of "a"/],
    [
      'an id of text',
      model({ vocab: { a: '2' } }),
      invalid,
      /expected the id of "a" to be an integer, not "2"/,
    ],
    ['a vocabulary that is a list', model({ vocab: ['a'] }), invalid, /lacks its vocabulary/],
    [
      'a merge of unknown tokens',
      model({ merges: ['a zz'] }),
      invalid,
      /merge \["a","zz"\] is not in the vocabulary/,
    ],
    [
      'a merge of __proto__',
      model({ merges: [['__proto__', 'a']] }),
      invalid,
      /\["__proto__","a"\] is not in/,
    ],
    ['a merge of three', model({ merges: [['a', 'b', 'c']] }), invalid, /is no pair to merge/],
    ['a merge of numbers', model({ merges: [[1, 2]] }), invalid, /is no pair to merge/],
    ['another model', model({ type: 'WordPiece' }), unsupported, /a "WordPiece" \(string\) model/],
    [
      'an added token with the id of another',
      added(token(2, '<x>')),
      invalid,
      /gives id 2 to "a" and "<x>"/,
    ],
    [
      'an added token with two ids',
      added(token(40, '<x>'), token(41, '<x>')),
      invalid,
      /"<x>" is 40 in tokenizer.json and 41/,
    ],
    [
      'an added token of the vocabulary with another id',
      added(token(40, 'a')),
      invalid,
      /"a" is 2 in/,
    ],
    [
      'two files that disagree',
      (folder) => {
        writeJson(folder, 'tokenizer_config.json', {
          added_tokens_decoder: { 41: token(0, '<s>') },
        });
      },
      invalid,
      /"<s>" is 1 in tokenizer.json and 41 in tokenizer_config.json/,
    ],
    [
      'an id of blanks',
      (folder) => {
        writeJson(folder, 'tokenizer_config.json', {
          added_tokens_decoder: { ' ': token(0, '<x>') },
        });
      },
      invalid,
      /expected the id of "<x>" to be an integer, not " "/,
    ],
    [
      'added tokens that are no list',
      change({ added_tokens: {} }),
      invalid,
      /added_tokens is no list/,
    ],
    ['an added token of no text', added({ id: 1 }), invalid, /has no content/],
    ['an added token outside', added(token(1e300, '<x>')), invalid, /"<x>" \(1e\+300\)/],
    [
      'a BOS that is missing',
      change({
        post_processor: {
          type: 'TemplateProcessing',
          single: [{ SpecialToken: { id: '<x>' } }, { Sequence: {} }],
        },
      }),
      invalid,
      /"<x>" stands in front of every text but has no id/,
    ],
    [
      'a BOS of no text',
      change({
        post_processor: {
          type: 'TemplateProcessing',
          single: [{ SpecialToken: { id: { toString: 1 } } }, { Sequence: {} }],
        },
      }),
      invalid,
      /stands in front of every text/,
    ],
    [
      'an unknown normalizer',
      normalizer({ type: 'Precompiled' }),
      unsupported,
      /the normalizer "Precompiled"/,
    ],
    [
      'a normalizer of no text',
      normalizer({ type: { toString: 1 } }),
      unsupported,
      /the normalizer \{"toString":1\}/,
    ],
    [
      'normalizers that are no list',
      change({ normalizer: { type: 'Sequence', normalizers: {} } }),
      invalid,
      /Expected "normalizers" of a "Sequence"/,
    ],
    [
      'normalizers 100,000 deep',
      file(
        JSON.stringify(tokenizer()).replace(
          '"normalizer":null',
          `"normalizer":${opened.repeat(50_000)}${']}'.repeat(50_000)}`,
        ),
      ),
      invalid,
      /nests deeper/,
    ],
    [
      'normalizers 40 deep',
      change({
        normalizer: { type: 'Sequence', normalizers: [sequence(40), { type: 'BertNormalizer' }] },
      }),
      unsupported,
      /the normalizer "BertNormalizer"/,
    ],
    [
      'a replacement of nothing',
      normalizer(replace({ String: '' }, 'x'.repeat(40))),
      unsupported,
      /may make a text 81 times as long/,
    ],
    [
      'replacements that multiply',
      normalizer(...Array(20).fill(replace({ String: 'a' }, 'aaaaaaaaaa'))),
      unsupported,
      /may make a text 100000000000000000000 times as long/,
    ],
    [
      'a long replacement',
      normalizer(replace({ Regex: '(?=.)' }, 'x'.repeat(100))),
      unsupported,
      /times as long/,
    ],
    [
      'a replacement of no text',
      normalizer(replace({ String: 'a' }, 7)),
      invalid,
      /Expected "content" of a "Replace"/,
    ],
    [
      'a replacement without a pattern',
      normalizer(replace(undefined, 'a')),
      invalid,
      /Expected "pattern" of a "Replace"/,
    ],
    [
      'a pattern that is none',
      normalizer(replace({ Regex: '(' }, 'a')),
      unsupported,
      /Invalid regular expression/,
    ],
    [
      'a split of no pattern',
      change({ pre_tokenizer: { type: 'Split', behavior: 'Isolated' } }),
      invalid,
      /Expected "pattern" of a "Split"/,
    ],
    [
      'a split of no behavior',
      change({ pre_tokenizer: { type: 'Split', behavior: null, pattern: { String: 'a' } } }),
      invalid,
      /Expected "behavior" of a "Split"/,
    ],
    [
      'no decoder',
      change({ decoder: null, pre_tokenizer: null }),
      unsupported,
      /decoder \(none\) is neither/,
    ],
    [
      'hundreds of megabytes',
      (folder) => writeSparse(join(folder, 'tokenizer.json'), 300 * mega),
      invalid,
      /tokenizer.json has 314572800 bytes, more than the 67108864/,
    ],
    [
      'millions of values',
      file(`{"a":[${'{},'.repeat(5e6)}{}]}`),
      invalid,
      /tokenizer.json holds 10000004 values, more than the 4194304/,
    ],
    ['100,000 levels', file(`{"a":${'['.repeat(1e5)}${']'.repeat(1e5)}}`), invalid, /nests deeper/],
    [
      'a vocabulary of 200,000',
      file(
        JSON.stringify(tokenizer()).replace(
          '"vocab":{',
          `"vocab":{${many(2e5, (i) => `"x${i}":${i}`)},`,
        ),
      ),
      invalid,
      /outside the model's vocabulary|gives id/,
    ],
    [
      'bad UTF-8',
      (folder) =>
        writeFileSync(join(folder, 'tokenizer.json'), Buffer.from('7b2261223a22ff227d', 'hex')),
      invalid,
      /tokenizer.json is not UTF-8/,
    ],
    ['a list', file([]), invalid, /holds no JSON object/],
  ];
  await folders.check(cases);
});

test('weights that are no numbers load, and generate', async () => {
  const poisoned = (value: number, name: string) => {
    const folder = folders.make();
    const { header, data } = readWeights(folder);
    const [begin] = offsetsOf(folder, name);
    const bytes = Buffer.from(data);
    for (let i = 0; i < 8; ++i) bytes.writeFloatLE(value, begin + 4 * i);
    writeWeights(folder, header, bytes);
    return folder;
  };
  const names = ['model.norm.weight', 'lm_head.weight', 'model.layers.0.self_attn.k_proj.weight'];
  const all = names.flatMap((name) =>
    [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].map((x) => poisoned(x, name)),
  );
  for (const { message, logits } of await folders.load(all)) {
    expect(message).toBeUndefined();
    expect(logits).toHaveLength(64);
    expect(logits?.some((logit) => !Number.isFinite(Number(logit)))).toBe(true);
  }
});

test('the largest sizes that a config may name load', async () => {
  const folder = folders.make();
  config({ max_position_embeddings: 2 ** 28, rope_theta: 9e37, rms_norm_eps: 1e-300 })(folder);
  const [outcome] = await folders.load([folder]);
  expect([outcome?.message, outcome?.logits?.length]).toEqual([undefined, 64]);
});
