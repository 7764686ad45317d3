// config.json in two spellings, and what is wrong with it in one sentence.
import { describe, expect, test } from '@jest/globals';
import { type ModelConfig, parseConfig } from '../../lib/config.js';
import type { Json } from '../../lib/files.js';
import { readGeneration } from '../../lib/generation.js';
import type { TensorEntry } from '../../lib/safetensors.js';
import { matchTensors } from '../../lib/tensors.js';

const v4: Json = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: 32,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  hidden_act: 'silu',
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 20000,
  rope_scaling: { type: 'linear', factor: 2 },
  torch_dtype: 'bfloat16',
  bos_token_id: 1,
  eos_token_id: [2, 3],
};

const { rope_theta: _, rope_scaling: __, torch_dtype: ___, ...common } = v4;
const v5: Json = {
  ...common,
  dtype: 'bfloat16',
  rope_parameters: { rope_type: 'linear', rope_theta: 20000, factor: 2 },
};

function error(code: string, text: string) {
  const message = expect.stringContaining(text);
  return expect.objectContaining({ name: 'AnchorError', code, message });
}

describe('config.json', () => {
  test('says the same in both spellings', () => {
    const config = parseConfig(v4);
    expect(parseConfig(v5)).toEqual(config);
    expect(config).toMatchObject({
      ...{ architecture: 'LlamaForCausalLM', layers: 2, hiddenSize: 16, intermediateSize: 24 },
      ...{ heads: 4, kvHeads: 2, headDim: 4, vocabSize: 32, contextLength: 64 },
      ...{ attentionBias: false, mlpBias: false, tieWordEmbeddings: false, normEpsilon: 1e-5 },
      ...{ bosTokenId: 1, eosTokenIds: [2, 3] },
      ropes: [{ theta: 20000, dims: 4, scaling: { type: 'linear', factor: 2 } }],
    });
  });

  test('may leave out what follows from the rest', () => {
    const minimal = { ...v4, model_type: 'llama', head_dim: null, eos_token_id: 2 };
    for (const key of ['architectures', 'num_key_value_heads', 'rope_scaling', 'rope_theta']) {
      delete (minimal as Json)[key];
    }
    expect(parseConfig(minimal)).toMatchObject({
      ...{ kvHeads: 4, headDim: 4, eosTokenIds: [2] },
      ropes: [{ theta: 10000, scaling: { type: 'default' } }],
    });
    expect(
      parseConfig({ ...v4, head_dim: 10, num_attention_heads: 3, num_key_value_heads: 1 }),
    ).toMatchObject({ headDim: 10 });
  });

  test.each<[Json, string]>([
    [{ architectures: ['GPTBigCodeForCausalLM'] }, 'class GPTBigCodeForCausalLM; supported: Llama'],
    [{ architectures: ['LlamaModel'] }, 'the model class LlamaModel'],
    [{ architectures: undefined, model_type: 'mamba' }, 'the model class mamba'],
    [{ architectures: [] }, 'no class at all'],
    [{ architectures: 7 }, 'no class at all'],
    [{ hidden_act: 'gelu' }, '"hidden_act" = "gelu"; supported: silu'],
    [{ quantization_config: { bits: 4 } }, 'quantised weights are not supported'],
    [{ rope_scaling: { rope_type: 'dynamic', factor: 2 } }, 'of the type "dynamic"; supported: '],
    [{ rope_scaling: { type: 'longrope' } }, '"longrope"'],
    [{ partial_rotary_factor: 0.5 }, 'partial_rotary_factor'],
  ])('%j is not supported', (change, text) => {
    const parse = () => parseConfig({ ...v4, ...change });
    expect(parse).toThrow(error('ERR_MODEL_UNSUPPORTED', text));
  });

  test.each<[Json, string]>([
    [
      { hidden_size: 0 },
      'Expected "hidden_size" in config.json to be an integer from 1 to 1048576',
    ],
    [{ hidden_size: -16 }, 'but received -16 (number)'],
    [{ hidden_size: 15.5 }, '15.5 (number)'],
    [{ hidden_size: '16' }, '"16" (string)'],
    [{ hidden_size: undefined }, 'but received undefined'],
    [{ hidden_size: 2 ** 40 }, '"hidden_size"'],
    [{ hidden_size: 18 }, '"num_attention_heads" in config.json to be a divisor of "hidden_size"'],
    [{ num_attention_heads: 0 }, '"num_attention_heads"'],
    [{ num_key_value_heads: 3 }, '"num_key_value_heads" in config.json to be a divisor of "num_a'],
    [{ num_key_value_heads: 0 }, '"num_key_value_heads"'],
    [{ num_hidden_layers: 1e9 }, '"num_hidden_layers" in config.json to be an integer from 1 to'],
    [{ num_hidden_layers: 0 }, '"num_hidden_layers"'],
    [{ intermediate_size: null }, '"intermediate_size"'],
    [{ vocab_size: -1 }, '"vocab_size"'],
    [{ max_position_embeddings: 0 }, '"max_position_embeddings"'],
    [{ head_dim: 5 }, 'a head size of 5; rotary positions need an even one'],
    [{ head_dim: 0 }, '"head_dim"'],
    [{ rms_norm_eps: 0 }, '"rms_norm_eps" in config.json to be a number above 0'],
    [{ rms_norm_eps: '1e-5' }, '"rms_norm_eps"'],
    [{ attention_bias: 'yes' }, '"attention_bias" in config.json to be a boolean'],
    [{ tie_word_embeddings: 1 }, '"tie_word_embeddings"'],
    [{ rope_theta: -1 }, '"rope_theta" in config.json to be a number above 0'],
    [{ rope_scaling: 'linear' }, '"rope_scaling" in config.json to be an object'],
    [{ rope_scaling: { type: 'linear' } }, '"rope_scaling.factor" in config.json'],
    [{ rope_scaling: { type: 'linear', factor: 0 } }, '"rope_scaling.factor"'],
    [{ rope_scaling: { rope_type: 7 } }, '"rope_scaling.rope_type" in config.json to be a string'],
    [{ rope_scaling: { rope_type: 'llama3', factor: 8 } }, '"rope_scaling.low_freq_factor"'],
    [{ eos_token_id: 32 }, '"eos_token_id" in config.json to be a token id below 32'],
    [{ eos_token_id: [1, -1] }, '"eos_token_id"'],
    [{ bos_token_id: 'a' }, '"bos_token_id"'],
  ])('%j contradicts itself', (change, text) => {
    const parse = () => parseConfig({ ...v4, ...change });
    expect(parse).toThrow(error('ERR_MODEL_INVALID', text));
  });
});

describe('generation_config.json', () => {
  const config = parseConfig(v4);

  const read = (json?: Record<string, unknown>) => readGeneration(json, config);

  test('its ids win over those of config.json, and may be missing', () => {
    expect(read({ eos_token_id: 5 })).toMatchObject({ bosTokenId: 1, eosTokenIds: [5] });
    const both = { eos_token_id: [5, 6], bos_token_id: 0 };
    expect(read(both)).toMatchObject({ bosTokenId: 0, eosTokenIds: [5, 6] });
    expect(read({})).toMatchObject({ bosTokenId: 1, eosTokenIds: [2, 3] });
    expect(read()).toEqual({
      ...{ bosTokenId: 1, eosTokenIds: [2, 3], generationDefaults: {}, generationWarnings: [] },
    });
  });

  test('its sampling values are defaults; without do_sample there is no temperature', () => {
    const values = { temperature: 0.6, top_k: 20, top_p: 0.95, min_p: 0.1, max_new_tokens: 99 };
    const others = { topK: 20, topP: 0.95, minP: 0.1, maxTokens: 99 };
    const defaults = (json: Record<string, unknown>) => read(json).generationDefaults;
    expect(defaults({ ...values, do_sample: true })).toEqual({ temperature: 0.6, ...others });
    expect(defaults(values)).toEqual(others);
    expect(defaults({ ...values, do_sample: false })).toEqual(others);
    expect(defaults({ do_sample: true, top_k: null })).toEqual({ temperature: 1 });
    expect(defaults({ repetition_penalty: 1.1, max_length: 20 })).toEqual({
      repetitionPenalty: 1.1,
    });
  });

  test.each<[string, unknown, string]>([
    ['do_sample', 'yes', 'a boolean, but received "yes" (string)'],
    ['temperature', -1, 'a number from 0 and up, but received -1 (number)'],
    ['top_k', -1, 'an integer from 0 to 2147483647, but received -1 (number)'],
    ['top_p', 0, 'a number above 0 and up to 1, but received 0 (number)'],
    ['min_p', [0.1], 'a number from 0 to 1, but received [0.1] (array)'],
    ['repetition_penalty', '1.1', 'a number above 0, but received "1.1" (string)'],
    ['max_new_tokens', 0, 'an integer from 1 to 2147483647, but received 0 (number)'],
  ])('a wrong %s is ignored, and a warning says so', (word, value, words) => {
    const { generationDefaults, generationWarnings } = read({ do_sample: true, [word]: value });
    expect(generationDefaults).toEqual(word === 'do_sample' ? {} : { temperature: 1 });
    const sentence = `Expected "${word}" in generation_config.json to be ${words}; it is ignored`;
    expect(generationWarnings).toEqual([sentence]);
  });

  test('names ids of the vocabulary', () => {
    expect(() => read({ eos_token_id: [99] })).toThrow(
      error('ERR_MODEL_INVALID', '"eos_token_id" in generation_config.json'),
    );
  });
});

describe('tensors', () => {
  const entriesOf = (config: ModelConfig) => {
    const entries = new Map<string, TensorEntry & { file: number }>();
    for (const { name, shape } of config.family.tensors(config, () => false)) {
      const elements = shape.reduce((product, size) => product * size, 1);
      const place = { file: 0, offset: 0, length: 2 * elements };
      entries.set(name, { dtype: 'BF16', shape: [...shape], elements, ...place });
    }
    return entries;
  };
  const config = parseConfig(v4);

  test('are those of the class', () => {
    const tensors = entriesOf(config);
    expect(tensors.size).toBe(3 + 2 * 9);
    const result = matchTensors(config, { files: [], warnings: [], tensors });
    expect(result).toMatchObject({ weightType: 'BF16', warnings: [] });
    expect(result.parameters * 2).toBe(result.weightBytes);
    const shapes = Object.fromEntries(result.tensors.map(({ name, shape }) => [name, shape]));
    expect(shapes['model.layers.1.self_attn.k_proj.weight']).toEqual([8, 16]);
    expect(shapes['model.layers.0.mlp.down_proj.weight']).toEqual([16, 24]);
  });

  test('follow biases and tying', () => {
    const biased = parseConfig({ ...v4, attention_bias: true, mlp_bias: true });
    expect(entriesOf(biased).size).toBe(3 + 2 * 16);
    const tied = parseConfig({ ...v4, tie_word_embeddings: true });
    expect(entriesOf(tied).has('lm_head.weight')).toBe(false);
    const both = matchTensors(tied, { files: [], warnings: [], tensors: entriesOf(config) });
    expect(both.warnings).toEqual([]);
    expect(both.tensors.length).toBe(2 + 2 * 9);
  });

  test('that are missing, misshapen or of another type are named', () => {
    const name = 'model.layers.1.mlp.up_proj.weight';
    const match = (change: Partial<TensorEntry> | undefined) => () => {
      const tensors = entriesOf(config);
      const entry = tensors.get(name) as TensorEntry & { file: number };
      if (change) tensors.set(name, { ...entry, ...change });
      else tensors.delete(name);
      return matchTensors(config, { files: [], warnings: [], tensors });
    };
    expect(match(undefined)).toThrow(error('ERR_MODEL_INVALID', `no tensor "${name}"`));
    expect(match({ shape: [16, 24] })).toThrow(
      error('ERR_MODEL_INVALID', 'to have the shape [24, 16] by config.json, but it has [16, 24]'),
    );
    expect(match({ shape: [24, 16, 1] })).toThrow(error('ERR_MODEL_INVALID', '[24, 16, 1]'));
    expect(match({ dtype: 'I8' })).toThrow(error('ERR_MODEL_UNSUPPORTED', 'is of the type I8'));
    expect(match({ dtype: 'F32' })().weightType).toBe('mixed');
  });

  test('that mean nothing are told, old tables are not', () => {
    const tensors = entriesOf(config);
    const entry = tensors.get('model.norm.weight') as TensorEntry & { file: number };
    tensors.set('model.layers.0.self_attn.rotary_emb.inv_freq', entry);
    expect(matchTensors(config, { files: [], warnings: [], tensors }).warnings).toEqual([]);
    tensors.set('model.layers.0.self_attn.q_proj.bias', entry);
    expect(matchTensors(config, { files: [], warnings: [], tensors }).warnings).toEqual([
      expect.stringContaining('1 tensor(s), the first is "model.layers.0.self_attn.q_proj.bias"'),
    ]);
  });
});
