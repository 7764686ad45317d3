/** Models of the Llama class for the reference: from a folder, or made of random numbers. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Random } from './random.js';
import { makeRope, plainRope, type Rope, type RopeConfig } from './rope.js';
import { readFolder, type StoredType, type Tensor, writeFile } from './safetensors.js';

export interface Sizes {
  layers: number;
  hiddenSize: number;
  intermediateSize: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  vocabSize: number;
}

export interface ReferenceModel extends Sizes {
  normEpsilon: number;
  rope: Rope;
  tensors: Map<string, Tensor>;
}

type Json = Record<string, unknown>;

function numberOf(value: unknown, otherwise: number): number {
  return typeof value === 'number' ? value : otherwise;
}

function optionalNumber(value: unknown): number | undefined {
  return typeof value === 'number' ? value : undefined;
}

function ropeConfig(config: Json): RopeConfig {
  const newer = config.rope_parameters as Json | undefined;
  const older = config.rope_scaling as Json | null | undefined;
  const rope = newer ?? older ?? {};
  const theta = numberOf(newer?.rope_theta ?? config.rope_theta, 10000);
  const plain = plainRope(theta);
  return {
    type: String(rope.rope_type ?? rope.type ?? 'default'),
    theta,
    factor: numberOf(rope.factor, 1),
    lowFrequencyFactor: numberOf(rope.low_freq_factor, plain.lowFrequencyFactor),
    highFrequencyFactor: numberOf(rope.high_freq_factor, plain.highFrequencyFactor),
    originalPositions: numberOf(
      rope.original_max_position_embeddings,
      numberOf(config.max_position_embeddings, 2048),
    ),
    betaFast: numberOf(rope.beta_fast, plain.betaFast),
    betaSlow: numberOf(rope.beta_slow, plain.betaSlow),
    truncate: rope.truncate !== false,
    attentionFactor: optionalNumber(rope.attention_factor),
    mscale: optionalNumber(rope.mscale),
    mscaleAllDim: optionalNumber(rope.mscale_all_dim),
  };
}

export function loadReference(folder: string): ReferenceModel {
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Json;
  const hiddenSize = numberOf(config.hidden_size, 0);
  const heads = numberOf(config.num_attention_heads, 0);
  const headDim = numberOf(config.head_dim, hiddenSize / heads);
  return {
    layers: numberOf(config.num_hidden_layers, 0),
    hiddenSize,
    intermediateSize: numberOf(config.intermediate_size, 0),
    heads,
    kvHeads: numberOf(config.num_key_value_heads, heads),
    headDim,
    vocabSize: numberOf(config.vocab_size, 0),
    normEpsilon: numberOf(config.rms_norm_eps, 1e-6),
    rope: makeRope(ropeConfig(config), headDim),
    tensors: readFolder(folder),
  };
}

/**
 * Random weights under which an error anywhere shows in the logits: scores spread over several
 * units, so that attention picks keys, and no part of a layer is small beside the residual.
 */
export function randomModel(sizes: Sizes, seed: number): ReferenceModel {
  const { hiddenSize, intermediateSize, headDim, heads, kvHeads, vocabSize } = sizes;
  const random = new Random(seed);
  const tensors = new Map<string, Tensor>();
  const matrix = (name: string, rows: number, cols: number, gain: number) => {
    const spread = gain / Math.sqrt(cols);
    const data = Float32Array.from({ length: rows * cols }, () => spread * random.normal());
    tensors.set(name, { shape: [rows, cols], data });
  };
  const norm = (name: string) => {
    const data = Float32Array.from({ length: hiddenSize }, () => 1 + 0.2 * random.normal());
    tensors.set(name, { shape: [hiddenSize], data });
  };
  // A row of the embedding is a vector of its own: the spread does not shrink with its length.
  matrix('model.embed_tokens.weight', vocabSize, hiddenSize, Math.sqrt(hiddenSize));
  for (let l = 0; l < sizes.layers; l++) {
    const layer = `model.layers.${l}`;
    norm(`${layer}.input_layernorm.weight`);
    matrix(`${layer}.self_attn.q_proj.weight`, heads * headDim, hiddenSize, 1.5);
    matrix(`${layer}.self_attn.k_proj.weight`, kvHeads * headDim, hiddenSize, 1.5);
    matrix(`${layer}.self_attn.v_proj.weight`, kvHeads * headDim, hiddenSize, 1.5);
    matrix(`${layer}.self_attn.o_proj.weight`, hiddenSize, heads * headDim, 1);
    norm(`${layer}.post_attention_layernorm.weight`);
    matrix(`${layer}.mlp.gate_proj.weight`, intermediateSize, hiddenSize, 1);
    matrix(`${layer}.mlp.up_proj.weight`, intermediateSize, hiddenSize, 1);
    matrix(`${layer}.mlp.down_proj.weight`, hiddenSize, intermediateSize, 1);
  }
  norm('model.norm.weight');
  matrix('lm_head.weight', vocabSize, hiddenSize, 2);
  return { ...sizes, normEpsilon: 1e-5, rope: makeRope(plainRope(10000), headDim), tensors };
}

/** Writes a model of {@link randomModel} as a folder; `extra` joins its config. */
export function saveModel(
  model: ReferenceModel,
  folder: string,
  extra: Json = {},
  dtype: StoredType = 'F32',
): void {
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: model.vocabSize,
    hidden_size: model.hiddenSize,
    intermediate_size: model.intermediateSize,
    num_hidden_layers: model.layers,
    num_attention_heads: model.heads,
    num_key_value_heads: model.kvHeads,
    head_dim: model.headDim,
    hidden_act: 'silu',
    max_position_embeddings: 2048,
    rms_norm_eps: model.normEpsilon,
    rope_theta: 10000,
    tie_word_embeddings: false,
    torch_dtype: { F32: 'float32', BF16: 'bfloat16', F16: 'float16' }[dtype],
    ...extra,
  };
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config, null, 2));
  writeFile(join(folder, 'model.safetensors'), model.tensors, dtype);
}
