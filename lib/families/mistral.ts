/** The Mistral class: Llama's, with a window over all layers in the first models. */
import type { Family } from './family.js';
import { attention, block, decoder, gatedMlp, isLeftover } from './tensors.js';
import { everyLayer, readWindow } from './windows.js';

export const mistral: Family = {
  architecture: 'MistralForCausalLM',
  modelType: 'mistral',
  activation: 'silu',
  // A config that says nothing of a window has one; null is what switches it off.
  defaults: { num_key_value_heads: 8, sliding_window: 4096 },

  features(fields, { layers }) {
    return { windows: everyLayer(readWindow(fields), layers) };
  },

  tensors(config) {
    return decoder(config, (layer) =>
      block(config, layer, attention(config, layer), gatedMlp(config, `${layer}.mlp`)),
    );
  },

  ignores: isLeftover,
};
