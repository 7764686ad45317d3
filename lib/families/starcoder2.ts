/** The StarCoder2 class: LayerNorm, a plain MLP, biases nearly everywhere, a window. */
import type { Family } from './family.js';
import { attention, block, decoder, isLeftover, plainMlp, renamed } from './tensors.js';
import { everyLayer, readWindow } from './windows.js';

export const starcoder2: Family = {
  architecture: 'Starcoder2ForCausalLM',
  modelType: 'starcoder2',
  activation: 'gelu_pytorch_tanh',
  // One key for all linears; LayerNorms have biases in any case, the output matrix has none.
  names: { rms_norm_eps: 'norm_epsilon', attention_bias: 'use_bias', mlp_bias: 'use_bias' },
  defaults: {
    num_key_value_heads: 2,
    norm_epsilon: 1e-5,
    use_bias: true,
    // Configs of transformers 4 leave out what is true.
    tie_word_embeddings: true,
  },

  features(fields, { layers }) {
    return { norm: 'layer', windows: everyLayer(readWindow(fields), layers) };
  },

  tensors(config) {
    const { attentionBias: bias, mlpBias } = config;
    const tensors = decoder(config, (layer) =>
      block(
        config,
        layer,
        attention(config, layer, { bias, outputBias: bias }),
        plainMlp(config, `${layer}.mlp`, mlpBias),
      ),
    );
    return renamed(tensors, (name) =>
      name.replace('.mlp.up_proj.', '.mlp.c_fc.').replace('.mlp.down_proj.', '.mlp.c_proj.'),
    );
  },

  ignores: isLeftover,
};
