// config.json of every family, in the spellings of transformers 4 and 5, into the contract.
import { describe, expect, test } from '@jest/globals';
import { type ModelConfig, parseConfig } from '../../lib/config.js';
import { nativeConfig } from '../../lib/engine.js';
import type { ExpectedTensor } from '../../lib/families/family.js';
import type { Json } from '../../lib/files.js';
import { computeRope } from '../../lib/rope.js';
import type { TensorEntry } from '../../lib/safetensors.js';
import { matchTensors } from '../../lib/tensors.js';

const sizes: Json = {
  vocab_size: 32,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 4096,
};
const parse = (name: string, change: Json = {}) =>
  parseConfig({ ...sizes, architectures: [`${name}ForCausalLM`], ...change });

const llama = parse('Llama');
const layer = 'model.layers.0';

function error(code: string, text: string) {
  const message = expect.stringContaining(text);
  return expect.objectContaining({ name: 'AnchorError', code, message });
}

function tensorsOf(config: ModelConfig, has: (name: string) => boolean = () => false) {
  const list = config.family.tensors(config, has);
  return new Map<string, ExpectedTensor>(list.map((tensor) => [tensor.name, tensor]));
}

/** Weight files with what the class expects, each tensor behind the other. */
function filesOf(config: ModelConfig, has: (name: string) => boolean = () => false) {
  const tensors = new Map<string, TensorEntry & { file: number }>();
  let offset = 100;
  for (const { name, shape, source } of config.family.tensors(config, has)) {
    const stored = source?.name ?? name;
    if (tensors.has(stored)) continue;
    const own = [...(source?.shape ?? shape)];
    const elements = own.reduce((product, size) => product * size, 1);
    const place = { file: 0, offset, length: 2 * elements };
    tensors.set(stored, { dtype: 'BF16', shape: own, elements, ...place });
    offset += 2 * elements;
  }
  return { files: [], warnings: [], tensors };
}

function placed(config: ModelConfig, has?: (name: string) => boolean) {
  const files = filesOf(config, has);
  const { tensors, parameters, weightBytes, warnings } = matchTensors(config, files);
  expect(warnings).toEqual([]);
  // Fused or not, every element is meant once.
  const total = [...files.tensors.values()].reduce((sum, { elements }) => sum + elements, 0);
  expect([parameters, weightBytes]).toEqual([total, 2 * total]);
  const start = (name: string) => files.tensors.get(name)?.offset ?? Number.NaN;
  return { start, at: new Map(tensors.map((tensor) => [tensor.name, tensor])) };
}

test('the Llama class is neutral', () => {
  expect(nativeConfig(llama, 'bf16')).toMatchObject({
    ...{ norm: 'rms', activation: 'silu', parallelBlock: false, embeddingScale: 1 },
    ...{ attentionScale: 0.5, attentionSoftcap: 0, logitSoftcap: 0, originalContext: 0 },
    ...{ windows: new Int32Array(4), layerRopes: new Uint8Array(4), experts: null },
  });
});

describe('windows', () => {
  test.each<[string, Json, number[]]>([
    ['Mistral', {}, [0, 0, 0, 0]], // 4096, the default, is the whole context
    ['Mistral', { max_position_embeddings: 8192 }, [4096, 4096, 4096, 4096]],
    ['Mistral', { sliding_window: null, max_position_embeddings: 8192 }, [0, 0, 0, 0]],
    ['Mistral', { sliding_window: 9, layer_types: null }, [9, 9, 9, 9]],
    ['Qwen2', { sliding_window: 9, max_window_layers: 0 }, [0, 0, 0, 0]],
    ['Qwen2', { sliding_window: 9, use_sliding_window: true }, [0, 0, 0, 0]],
    ['Qwen2', { sliding_window: 9, use_sliding_window: true, max_window_layers: 3 }, [0, 0, 0, 9]],
    [
      'Qwen3',
      {
        sliding_window: 9,
        use_sliding_window: true,
        layer_types: ['full_attention', 'sliding_attention', 'full_attention', 'full_attention'],
      },
      [0, 9, 0, 0],
    ],
    ['Qwen3Moe', { sliding_window: 9, use_sliding_window: true }, [9, 9, 9, 9]],
    ['Qwen3Moe', { sliding_window: 9, use_sliding_window: false }, [0, 0, 0, 0]],
    ['Starcoder2', {}, [0, 0, 0, 0]],
    ['Starcoder2', { sliding_window: 4095 }, [4095, 4095, 4095, 4095]],
    ['Phi3', { sliding_window: 2047 }, [2047, 2047, 2047, 2047]],
    ['Phi3', { sliding_window: 262144 }, [0, 0, 0, 0]],
    ['Gemma2', { sliding_window: 8 }, [8, 0, 8, 0]],
    ['Gemma3', { sliding_window: 8, sliding_window_pattern: 2 }, [8, 0, 8, 0]],
    ['Gemma3', { sliding_window: 8 }, [8, 8, 8, 8]],
  ])('%s %j', (name, change, windows) => {
    expect(parse(name, change).windows).toEqual(windows);
  });

  test('that are on without a size, or layers of another type, are refused', () => {
    const layer_types = new Array<string>(4).fill('sliding_attention');
    expect(() => parse('Qwen2', { layer_types })).toThrow(
      error('ERR_MODEL_INVALID', '"sliding_window" in config.json to be an integer'),
    );
    expect(() => parse('Gemma2', { layer_types: layer_types.slice(1) })).toThrow(
      error('ERR_MODEL_INVALID', '"layer_types" in config.json to be a list of 4 strings'),
    );
    layer_types[3] = 'linear_attention';
    expect(() => parse('Gemma2', { layer_types })).toThrow(
      error('ERR_MODEL_UNSUPPORTED', '"linear_attention"; supported: full_attention'),
    );
  });
});

test('Qwen2 has biases on q, k and v', () => {
  const names = [...tensorsOf(parse('Qwen2')).keys()];
  const biases = names.filter((name) => name.startsWith(layer) && name.endsWith('.bias'));
  expect(biases).toEqual(['q', 'k', 'v'].map((word) => `${layer}.self_attn.${word}_proj.bias`));
});

test('Qwen3 has norms of heads, and a head size of its own', () => {
  const config = parse('Qwen3');
  expect(config.headDim).toBe(128);
  const tensors = tensorsOf(config);
  expect(tensors.get(`${layer}.self_attn.k_norm.weight`)?.shape).toEqual([128]);
  expect(tensors.get(`${layer}.self_attn.o_proj.weight`)?.shape).toEqual([16, 512]);
  expect(tensors.has(`${layer}.self_attn.q_proj.bias`)).toBe(false);
  const biased = tensorsOf(parse('Qwen3', { attention_bias: true }));
  expect(biased.has(`${layer}.self_attn.o_proj.bias`)).toBe(true);
});

describe('Qwen3-MoE', () => {
  const experts = { num_experts: 3, num_experts_per_tok: 2, moe_intermediate_size: 5 };
  const prefix = `${layer}.mlp`;

  test('names experts in both spellings', () => {
    const config = parse('Qwen3Moe', { ...experts, norm_topk_prob: true });
    const expected = { count: 3, perToken: 2, normalize: true, intermediateSize: 5 };
    expect(nativeConfig(config, 'exact').experts).toEqual(expected);
    const { num_experts: num_local_experts, ...rest } = experts;
    expect(parse('Qwen3Moe', { ...rest, num_local_experts }).experts).toEqual({
      ...expected,
      normalize: false,
    });
    expect(() => parse('Qwen3Moe', { ...experts, num_experts_per_tok: 4 })).toThrow(
      error('ERR_MODEL_INVALID', '"num_experts_per_tok" in config.json to be an integer from 1 to'),
    );
  });

  test('has them in the layers that the config says', () => {
    const sparse = (change: Json) => parse('Qwen3Moe', { ...experts, ...change }).sparseLayers;
    expect(sparse({})).toEqual([true, true, true, true]);
    expect(sparse({ mlp_only_layers: [0, 2] })).toEqual([false, true, false, true]);
    expect(sparse({ decoder_sparse_step: 2 })).toEqual([false, true, false, true]);
    expect(() => sparse({ mlp_only_layers: [4] })).toThrow(
      error('ERR_MODEL_INVALID', '"mlp_only_layers" in config.json to be a list of integers'),
    );
    const tensors = tensorsOf(parse('Qwen3Moe', { ...experts, mlp_only_layers: [1] }));
    expect(tensors.get('model.layers.1.mlp.up_proj.weight')?.shape).toEqual([24, 16]);
    expect(tensors.get(`${prefix}.experts.2.up_proj.weight`)?.shape).toEqual([5, 16]);
    expect(tensors.get(`${prefix}.router.weight`)?.source?.name).toBe(`${prefix}.gate.weight`);
    expect(tensors.has(`${prefix}.up_proj.weight`)).toBe(false);
  });

  test('finds experts in one tensor', () => {
    const config = parse('Qwen3Moe', experts);
    const { at, start } = placed(config, (name) => name.endsWith('.experts.gate_up_proj'));
    const both = start(`${prefix}.experts.gate_up_proj`);
    expect(at.get(`${prefix}.experts.1.gate_proj.weight`)).toMatchObject({
      ...{ shape: [5, 16], offset: both + 2 * 16 * 10, length: 2 * 16 * 5 },
    });
    expect(at.get(`${prefix}.experts.1.up_proj.weight`)?.offset).toBe(both + 2 * 16 * 15);
    const down = start(`${prefix}.experts.down_proj`);
    expect(at.get(`${prefix}.experts.2.down_proj.weight`)).toMatchObject({
      ...{ shape: [16, 5], offset: down + 2 * 5 * 32, length: 2 * 5 * 16 },
    });
  });
});

test('StarCoder2 has LayerNorms, a plain MLP, biases and a tied head', () => {
  const config = parse('Starcoder2', { norm_epsilon: 3e-5 });
  expect(config).toMatchObject({ norm: 'layer', activation: 'geluTanh', normEpsilon: 3e-5 });
  const tensors = tensorsOf(config);
  expect(tensors.get(`${layer}.mlp.up_proj.bias`)?.source?.name).toBe(`${layer}.mlp.c_fc.bias`);
  expect(tensors.get(`${layer}.mlp.down_proj.weight`)?.source?.name).toBe(
    `${layer}.mlp.c_proj.weight`,
  );
  for (const name of [`${layer}.mlp.gate_proj.weight`, 'lm_head.weight', 'lm_head.bias']) {
    expect(tensors.has(name)).toBe(false);
  }
  expect(tensors.has(`${layer}.input_layernorm.bias`)).toBe(true);
  const plain = tensorsOf(parse('Starcoder2', { use_bias: false, tie_word_embeddings: false }));
  const biases = [...plain.keys()].filter((name) => name.endsWith('.bias'));
  expect(biases.length).toBe(4 * 2 + 1);
  expect(plain.has('lm_head.weight')).toBe(true);
});

describe('Phi-3', () => {
  const factors = { short_factor: [1, 2], long_factor: [4, 8] };
  const long = { original_max_position_embeddings: 64, rope_theta: 100 };
  const wide = { hidden_size: 32 }; // heads of 8, of which 4 turn

  test('has row ranges of fused matrices', () => {
    const { at, start } = placed(parse('Phi3'));
    const qkv = start(`${layer}.self_attn.qkv_proj.weight`);
    const row = 2 * 16;
    expect(at.get(`${layer}.self_attn.q_proj.weight`)).toMatchObject({ offset: qkv });
    expect(at.get(`${layer}.self_attn.k_proj.weight`)).toMatchObject({
      ...{ shape: [8, 16], offset: qkv + 16 * row, length: 8 * row },
    });
    expect(at.get(`${layer}.self_attn.v_proj.weight`)?.offset).toBe(qkv + 24 * row);
    const both = start(`${layer}.mlp.gate_up_proj.weight`);
    expect(at.get(`${layer}.mlp.up_proj.weight`)?.offset).toBe(both + 24 * row);
    expect([...at.values()].some(({ parts }) => parts)).toBe(false);
  });

  test('gives both longrope tables, with one factor', () => {
    const scale = Math.sqrt(1 + Math.log(4096 / 64) / Math.log(64));
    const older = { ...wide, ...long, partial_rotary_factor: 0.5 };
    for (const type of ['longrope', 'su', 'yarn']) {
      const config = parse('Phi3', { ...older, rope_scaling: { type, ...factors } });
      expect(config.originalContext).toBe(64);
      const [short, extended] = config.ropes.map(computeRope);
      expect(short).toMatchObject({ rotaryDims: 4, interleaved: false });
      expect([short?.scale, extended?.scale]).toEqual([scale, scale]);
      expect([...(short?.inverseFrequencies ?? [])]).toEqual([1, 0.05]);
      expect([...(extended?.inverseFrequencies ?? [])]).toEqual([0.25, 0.0125]);
      const { rope_theta, partial_rotary_factor, ...outside } = older;
      const rope_parameters = { rope_theta, partial_rotary_factor, rope_type: type, ...factors };
      expect(parse('Phi3', { ...outside, rope_parameters })).toEqual(config);
    }
  });

  test('takes a given factor, and none where nothing is extended', () => {
    const scaleOf = (more: Json, change: Json = {}) => {
      const rope_scaling = { type: 'longrope', ...factors, ...more };
      return computeRope(parse('Phi3', { ...long, ...change, rope_scaling }).ropes[0] as never)
        .scale;
    };
    expect(scaleOf({ attention_factor: 1.5 })).toBe(1.5);
    expect(scaleOf({ factor: 64 })).toBe(Math.sqrt(2));
    expect(scaleOf({}, { max_position_embeddings: 64 })).toBe(1);
  });

  test.each<[Json, string, string]>([
    [{ rope_scaling: { type: 'linear', factor: 2 } }, 'ERR_MODEL_UNSUPPORTED', '"linear"'],
    [
      { rope_scaling: { type: 'longrope', ...factors, long_factor: [1] } },
      'ERR_MODEL_INVALID',
      '"rope_scaling.long_factor" in config.json to be a list of 2 numbers above 0',
    ],
    [{ partial_rotary_factor: 0.75 }, 'ERR_MODEL_INVALID', '"partial_rotary_factor"'],
    [
      { rope_parameters: { partial_rotary_factor: 2 } },
      'ERR_MODEL_INVALID',
      'rope_parameters.part',
    ],
  ])('refuses %j', (change, code, text) => {
    expect(() => parse('Phi3', { ...long, ...change })).toThrow(error(code, text));
  });
});

describe('Gemma', () => {
  test('2 has soft caps, scales and four norms a layer', () => {
    const config = parse('Gemma2', { head_dim: 8, query_pre_attn_scalar: 144, hidden_act: 'gelu' });
    expect(config).toMatchObject({
      ...{ norm: 'rmsOnePlus', activation: 'geluTanh', attentionScale: 1 / 12 },
      ...{ attentionSoftcap: 50, logitSoftcap: 30, tieWordEmbeddings: true },
    });
    const off = { attn_logit_softcapping: null, final_logit_softcapping: null };
    expect(parse('Gemma2', off)).toMatchObject({ attentionSoftcap: 0, logitSoftcap: 0 });
    const tensors = tensorsOf(config);
    const fileName = (word: string) => tensors.get(`${layer}.${word}.weight`)?.source?.name;
    expect(fileName('input_layernorm')).toBe(`${layer}.input_layernorm.weight`);
    expect(fileName('attention_output_norm')).toBe(`${layer}.post_attention_layernorm.weight`);
    expect(fileName('post_attention_layernorm')).toBe(`${layer}.pre_feedforward_layernorm.weight`);
    expect(fileName('mlp_output_norm')).toBe(`${layer}.post_feedforward_layernorm.weight`);
    expect(fileName('self_attn.q_norm')).toBe(undefined);
    expect(() => parse('Gemma2', { use_bidirectional_attention: true })).toThrow(
      error('ERR_MODEL_UNSUPPORTED', 'use_bidirectional_attention'),
    );
  });

  test('scales embeddings by a factor of the type that is computed in', () => {
    const config = parse('Gemma2', { hidden_size: 3072 });
    expect(nativeConfig(config, 'exact').embeddingScale).toBe(Math.fround(Math.sqrt(3072)));
    expect(nativeConfig(config, 'bf16').embeddingScale).toBe(55.5);
  });

  test('3 has a base and a scaling for each kind of layer', () => {
    const older = {
      rope_theta: 500,
      rope_local_base_freq: 20,
      rope_scaling: { rope_type: 'linear', factor: 8 },
      sliding_window_pattern: 2,
      sliding_window: 8,
    };
    const config = parse('Gemma3', older);
    expect(config).toMatchObject({
      ropes: [
        { theta: 500, scaling: { type: 'linear', factor: 8 } },
        { theta: 20, scaling: { type: 'default' } },
      ],
      layerRopes: [1, 0, 1, 0],
      ...{ attentionSoftcap: 0, attentionScale: 1 / 16, headDim: 256 },
    });
    const newer = {
      layer_types: ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'],
      sliding_window: 8,
      rope_parameters: {
        full_attention: { rope_type: 'linear', rope_theta: 500, factor: 8 },
        sliding_attention: { rope_type: 'default', rope_theta: 20 },
      },
    };
    expect(parse('Gemma3', newer)).toEqual(config);
    const [far, near] = parse('Gemma3').ropes;
    expect([far?.theta, near?.theta]).toEqual([1_000_000, 10_000]);
    // Attention's cap is in configs, but not in the model; that of the logits is in both.
    const caps = { attn_logit_softcapping: 5, final_logit_softcapping: 7 };
    expect(parse('Gemma3', caps)).toMatchObject({ attentionSoftcap: 0, logitSoftcap: 7 });
    expect(tensorsOf(config).get(`${layer}.self_attn.q_norm.weight`)?.shape).toEqual([256]);
  });

  test('3 inside a wrapper may say little of itself', () => {
    const text_config = { hidden_size: 2560, num_hidden_layers: 34, sliding_window: 1024 };
    const wrapper = { architectures: ['Gemma3ForConditionalGeneration'], eos_token_id: [1, 106] };
    const config = parseConfig({ ...wrapper, text_config });
    expect(config).toMatchObject({
      ...{ layers: 34, hiddenSize: 2560, heads: 8, kvHeads: 4, headDim: 256, vocabSize: 262_208 },
      ...{ contextLength: 131_072, tieWordEmbeddings: true, bosTokenId: 2, eosTokenIds: [1, 106] },
    });
    expect(config.windows.slice(0, 7)).toEqual([1024, 1024, 1024, 1024, 1024, 0, 1024]);
    const name = 'model.embed_tokens.weight';
    const newer = 'model.language_model.embed_tokens.weight';
    expect(tensorsOf(config).get(name)?.source?.name).toBe(`language_model.${name}`);
    expect(tensorsOf(config, (other) => other === newer).get(name)?.source?.name).toBe(newer);
    for (const ignored of ['vision_tower.head.probe', 'model.multi_modal_projector.weight']) {
      expect(config.family.ignores(ignored, config)).toBe(true);
    }
    expect(config.family.ignores('language_model.model.other', config)).toBe(false);
    expect(() => parseConfig({ ...wrapper, text_config: { hidden_size: -1 } })).toThrow(
      error('ERR_MODEL_INVALID', '"text_config.hidden_size" in config.json'),
    );
  });
});

describe('CodeGen', () => {
  const own: Json = {
    architectures: ['CodeGenForCausalLM'],
    vocab_size: 32,
    n_embd: 16,
    n_layer: 4,
    n_head: 4,
    n_positions: 64,
    n_inner: null,
    rotary_dim: 2,
    layer_norm_epsilon: 2e-5,
    activation_function: 'gelu_new',
  };
  const config = parseConfig(own);

  test('has names of its own', () => {
    expect(config).toMatchObject({
      ...{ layers: 4, hiddenSize: 16, intermediateSize: 64, heads: 4, kvHeads: 4, headDim: 4 },
      ...{ contextLength: 64, normEpsilon: 2e-5, norm: 'layer', activation: 'geluTanh' },
      ...{ parallelBlock: true, attentionScale: 0.5, tieWordEmbeddings: false },
      ropes: [{ theta: 10_000, dims: 2, interleaved: true, scaling: { type: 'default' } }],
    });
    expect(parseConfig({ ...own, n_inner: 40 }).intermediateSize).toBe(40);
  });

  test('has biases of the MLP and the head, not of attention', () => {
    const tensors = tensorsOf(config);
    const fileName = (name: string) => tensors.get(name)?.source?.name;
    expect(fileName(`${layer}.mlp.up_proj.bias`)).toBe('transformer.h.0.mlp.fc_in.bias');
    expect(fileName(`${layer}.mlp.down_proj.bias`)).toBe('transformer.h.0.mlp.fc_out.bias');
    expect(fileName(`${layer}.input_layernorm.bias`)).toBe('transformer.h.0.ln_1.bias');
    expect(fileName(`${layer}.self_attn.o_proj.weight`)).toBe(
      'transformer.h.0.attn.out_proj.weight',
    );
    expect(fileName('model.norm.bias')).toBe('transformer.ln_f.bias');
    expect(fileName('lm_head.bias')).toBe('lm_head.bias');
    expect(tensors.has(`${layer}.post_attention_layernorm.weight`)).toBe(false);
    expect(tensors.has(`${layer}.self_attn.o_proj.bias`)).toBe(false);
    const tied = tensorsOf(parseConfig({ ...own, tie_word_embeddings: true }));
    expect([tied.has('lm_head.weight'), tied.has('lm_head.bias')]).toEqual([false, true]);
  });

  test('gathers q, v and k of four groups', () => {
    const { at, start } = placed(config);
    const whole = start('transformer.h.0.attn.qkv_proj.weight');
    const row = 2 * 16;
    const starts = (word: string) => {
      const tensor = at.get(`${layer}.self_attn.${word}_proj.weight`);
      expect(tensor).toMatchObject({ shape: [16, 16], length: 16 * row });
      expect(tensor?.offset).toBe(tensor?.parts?.[0]?.offset);
      return tensor?.parts?.map(({ offset, length }) => [(offset - whole) / row, length / row]);
    };
    // A group has 12 rows: 4 of q, 4 of v, 4 of k.
    expect(starts('q')).toEqual([0, 12, 24, 36].map((first) => [first, 4]));
    expect(starts('v')).toEqual([4, 16, 28, 40].map((first) => [first, 4]));
    expect(starts('k')).toEqual([8, 20, 32, 44].map((first) => [first, 4]));
  });

  test.each<[Json, string, string]>([
    [{ n_head: 2 }, 'ERR_MODEL_INVALID', '"n_head" in config.json to be a multiple of 4'],
    [{ n_embd: undefined }, 'ERR_MODEL_INVALID', '"n_embd" in config.json to be an integer'],
    [{ rotary_dim: 3 }, 'ERR_MODEL_INVALID', '"rotary_dim" in config.json to be even'],
    [{ rotary_dim: 6 }, 'ERR_MODEL_INVALID', '"rotary_dim"'],
    [
      { activation_function: 'relu' },
      'ERR_MODEL_UNSUPPORTED',
      '"activation_function" = "relu"; supported: gelu_new',
    ],
  ])('refuses %j', (change, code, text) => {
    expect(() => parseConfig({ ...own, ...change })).toThrow(error(code, text));
  });
});
