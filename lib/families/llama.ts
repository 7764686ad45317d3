/** The Llama class: RMS norm, rotary positions, grouped queries, gated SiLU. */
import type { ModelConfig } from '../config.js';
import type { ExpectedTensor, Family } from './family.js';

function layerTensors(config: ModelConfig, layer: number): ExpectedTensor[] {
  const { hiddenSize, intermediateSize, attentionBias, mlpBias } = config;
  const queries = config.heads * config.headDim;
  const keys = config.kvHeads * config.headDim;
  const prefix = `model.layers.${layer}`;
  const linear = (name: string, out: number, inputs: number, bias: boolean) => {
    const weight = { name: `${prefix}.${name}.weight`, shape: [out, inputs] };
    return bias ? [weight, { name: `${prefix}.${name}.bias`, shape: [out] }] : [weight];
  };
  return [
    { name: `${prefix}.input_layernorm.weight`, shape: [hiddenSize] },
    ...linear('self_attn.q_proj', queries, hiddenSize, attentionBias),
    ...linear('self_attn.k_proj', keys, hiddenSize, attentionBias),
    ...linear('self_attn.v_proj', keys, hiddenSize, attentionBias),
    ...linear('self_attn.o_proj', hiddenSize, queries, attentionBias),
    { name: `${prefix}.post_attention_layernorm.weight`, shape: [hiddenSize] },
    ...linear('mlp.gate_proj', intermediateSize, hiddenSize, mlpBias),
    ...linear('mlp.up_proj', intermediateSize, hiddenSize, mlpBias),
    ...linear('mlp.down_proj', hiddenSize, intermediateSize, mlpBias),
  ];
}

export const llama: Family = {
  architecture: 'LlamaForCausalLM',
  modelType: 'llama',
  activation: 'silu',

  tensors(config) {
    const { vocabSize, hiddenSize } = config;
    const tensors: ExpectedTensor[] = [
      { name: 'model.embed_tokens.weight', shape: [vocabSize, hiddenSize] },
    ];
    for (let layer = 0; layer < config.layers; ++layer) {
      tensors.push(...layerTensors(config, layer));
    }
    tensors.push({ name: 'model.norm.weight', shape: [hiddenSize] });
    if (!config.tieWordEmbeddings) {
      tensors.push({ name: 'lm_head.weight', shape: [vocabSize, hiddenSize] });
    }
    return tensors;
  },

  ignores(name, config) {
    // Old checkpoints carry the rotary table, some tied ones the embedding a second time.
    if (name.endsWith('.rotary_emb.inv_freq')) return true;
    return config.tieWordEmbeddings && name === 'lm_head.weight';
  },
};
