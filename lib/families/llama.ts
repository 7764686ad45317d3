/** The Llama class: RMS norm, rotary positions, grouped queries, gated SiLU. */
import type { Family } from './family.js';
import { attention, block, decoder, gatedMlp, isLeftover } from './tensors.js';

export const llama: Family = {
  architecture: 'LlamaForCausalLM',
  modelType: 'llama',
  activation: 'silu',

  tensors(config) {
    const { attentionBias, mlpBias } = config;
    const biases = { bias: attentionBias, outputBias: attentionBias };
    return decoder(config, (layer) =>
      block(
        config,
        layer,
        attention(config, layer, biases),
        gatedMlp(config, `${layer}.mlp`, { bias: mlpBias }),
      ),
    );
  },

  ignores: isLeftover,
};
