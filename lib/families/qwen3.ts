/** The Qwen3 class: Qwen2's without biases, with norms of each head's query and key. */
import type { ModelConfig } from '../config.js';
import type { ExpectedTensor, Family } from './family.js';
import { qwenWindows } from './qwen2.js';
import { attention, block, decoder, gatedMlp, isLeftover } from './tensors.js';

export function qwen3Attention(config: ModelConfig, layer: string): ExpectedTensor[] {
  const { attentionBias } = config;
  const shape = { bias: attentionBias, outputBias: attentionBias, headNorms: true };
  return attention(config, layer, shape);
}

export const qwen3: Family = {
  architecture: 'Qwen3ForCausalLM',
  modelType: 'qwen3',
  activation: 'silu',
  // The head's size follows from no other size.
  defaults: { num_key_value_heads: 32, head_dim: 128, sliding_window: 4096 },

  features(fields, { layers }) {
    return { windows: qwenWindows(fields, layers) };
  },

  tensors(config) {
    return decoder(config, (layer) =>
      block(config, layer, qwen3Attention(config, layer), gatedMlp(config, `${layer}.mlp`)),
    );
  },

  ignores: isLeftover,
};
