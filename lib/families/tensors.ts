/** Tensors of the Llama layout, from which the other classes are made. */
import type { ModelConfig } from '../config.js';
import type { ExpectedTensor } from './family.js';

export function vector(name: string, size: number): ExpectedTensor {
  return { name, shape: [size] };
}

/** A projection, `name` without `.weight`. */
export function linear(name: string, out: number, inputs: number, bias = false): ExpectedTensor[] {
  const weight = { name: `${name}.weight`, shape: [out, inputs] };
  return bias ? [weight, vector(`${name}.bias`, out)] : [weight];
}

/** A norm of the class's kind, `name` without `.weight`. */
export function norm(config: ModelConfig, name: string, size: number): ExpectedTensor[] {
  const weight = vector(`${name}.weight`, size);
  return config.norm === 'layer' ? [weight, vector(`${name}.bias`, size)] : [weight];
}

interface AttentionShape {
  /** Biases of q, k and v. */
  bias?: boolean;
  outputBias?: boolean;
  /** Norms of each head's query and key. */
  headNorms?: boolean;
}

export function attention(
  config: ModelConfig,
  layer: string,
  { bias = false, outputBias = false, headNorms = false }: AttentionShape = {},
): ExpectedTensor[] {
  const { hiddenSize, headDim } = config;
  const [queries, keys] = [config.heads * headDim, config.kvHeads * headDim];
  const prefix = `${layer}.self_attn`;
  const tensors = [
    ...linear(`${prefix}.q_proj`, queries, hiddenSize, bias),
    ...linear(`${prefix}.k_proj`, keys, hiddenSize, bias),
    ...linear(`${prefix}.v_proj`, keys, hiddenSize, bias),
    ...linear(`${prefix}.o_proj`, hiddenSize, queries, outputBias),
  ];
  if (!headNorms) return tensors;
  const norms = ['q_norm', 'k_norm'].map((name) => vector(`${prefix}.${name}.weight`, headDim));
  return [...tensors, ...norms];
}

/** `prefix` without `.gate_proj` and so on. */
export function gatedMlp(
  config: ModelConfig,
  prefix: string,
  { size = config.intermediateSize, bias = false } = {},
): ExpectedTensor[] {
  const { hiddenSize } = config;
  return [
    ...linear(`${prefix}.gate_proj`, size, hiddenSize, bias),
    ...linear(`${prefix}.up_proj`, size, hiddenSize, bias),
    ...linear(`${prefix}.down_proj`, hiddenSize, size, bias),
  ];
}

export function plainMlp(config: ModelConfig, prefix: string, bias: boolean): ExpectedTensor[] {
  const { hiddenSize, intermediateSize } = config;
  return [
    ...linear(`${prefix}.up_proj`, intermediateSize, hiddenSize, bias),
    ...linear(`${prefix}.down_proj`, hiddenSize, intermediateSize, bias),
  ];
}

/** The two norms that most classes have, around `inner` of the layer. */
export function block(
  config: ModelConfig,
  layer: string,
  attention: ExpectedTensor[],
  mlp: ExpectedTensor[],
): ExpectedTensor[] {
  return [
    ...norm(config, `${layer}.input_layernorm`, config.hiddenSize),
    ...attention,
    ...norm(config, `${layer}.post_attention_layernorm`, config.hiddenSize),
    ...mlp,
  ];
}

/** Embedding, layers, last norm and, where it is not the embedding, the output matrix. */
export function decoder(
  config: ModelConfig,
  layerTensors: (layer: string, index: number) => ExpectedTensor[],
): ExpectedTensor[] {
  const { vocabSize, hiddenSize } = config;
  const tensors = linear('model.embed_tokens', vocabSize, hiddenSize);
  for (let index = 0; index < config.layers; ++index) {
    tensors.push(...layerTensors(`model.layers.${index}`, index));
  }
  tensors.push(...norm(config, 'model.norm', hiddenSize));
  if (!config.tieWordEmbeddings) tensors.push(...linear('lm_head', vocabSize, hiddenSize));
  return tensors;
}

/** The same tensors, by other names in the file. */
export function renamed(
  tensors: readonly ExpectedTensor[],
  fileName: (name: string) => string,
): ExpectedTensor[] {
  return tensors.map((tensor) => {
    const source = tensor.source ?? { name: tensor.name };
    return { ...tensor, source: { ...source, name: fileName(source.name) } };
  });
}

/** What any class may leave in its files: old rotary tables, and a tied embedding once more. */
export function isLeftover(name: string, config: ModelConfig): boolean {
  if (name.endsWith('.rotary_emb.inv_freq')) return true;
  return config.tieWordEmbeddings && name.endsWith('lm_head.weight');
}
