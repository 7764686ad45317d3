/** The Qwen2 class (Qwen2.5-Coder): Llama's, with biases on q, k and v. */
import type { Fields } from '../fields.js';
import type { Family } from './family.js';
import { attention, block, decoder, gatedMlp, isLeftover } from './tensors.js';
import { byLayer, readWindow } from './windows.js';

/**
 * Windows of Qwen: `sliding_window` is mostly set and mostly off; where it is on, the *upper*
 * layers slide, from `max_window_layers` on.
 */
export function qwenWindows(fields: Fields, layers: number): number[] {
  const window = fields.boolean('use_sliding_window', false) ? readWindow(fields) : 0;
  const first = fields.integer('max_window_layers', 0, 1 << 20, 28);
  return byLayer(fields, layers, window, (layer) => window > 0 && layer >= first);
}

export const qwen2: Family = {
  architecture: 'Qwen2ForCausalLM',
  modelType: 'qwen2',
  activation: 'silu',
  defaults: { num_key_value_heads: 32, sliding_window: 4096 },

  features(fields, { layers }) {
    return { windows: qwenWindows(fields, layers) };
  },

  tensors(config) {
    return decoder(config, (layer) =>
      block(
        config,
        layer,
        attention(config, layer, { bias: true }),
        gatedMlp(config, `${layer}.mlp`),
      ),
    );
  },

  ignores: isLeftover,
};
