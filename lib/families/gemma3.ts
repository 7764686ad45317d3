/** The Gemma 3 classes: local layers with a window and a base of their own, global ones without. */
import type { ModelSizes } from '../config.js';
import type { Fields } from '../fields.js';
import { type RopeParameters, readRope } from '../rope.js';
import type { Family } from './family.js';
import { gemmaFeatures, gemmaTensors, readSoftcap } from './gemma2.js';
import { isLeftover, renamed } from './tensors.js';
import { byLayer, readWindow, slidingLayers } from './windows.js';

// Global layers: base 1e6, and the scaling of long contexts, which local ones don't have.
function readRopes(fields: Fields, { headDim, contextLength }: ModelSizes): RopeParameters[] {
  const block = fields.child('rope_parameters');
  const local = fields.positive('rope_local_base_freq', 10_000);
  if (block.has('full_attention') || block.has('sliding_attention')) {
    return [
      readRope(fields, headDim, contextLength, {
        block: block.child('full_attention'),
        theta: 1_000_000,
      }),
      readRope(fields, headDim, contextLength, {
        block: block.child('sliding_attention'),
        theta: local,
      }),
    ];
  }
  return [
    readRope(fields, headDim, contextLength, { theta: 1_000_000 }),
    { theta: local, dims: headDim, interleaved: false, scaling: { type: 'default' } },
  ];
}

function features(fields: Fields, sizes: ModelSizes) {
  const { layers, hiddenSize } = sizes;
  const pattern = fields.integer('sliding_window_pattern', 1, 1 << 20, 6);
  const slides = (layer: number) => (layer + 1) % pattern !== 0;
  return {
    ...gemmaFeatures(fields, hiddenSize),
    windows: byLayer(fields, layers, readWindow(fields), slides),
    ropes: readRopes(fields, sizes),
    layerRopes: slidingLayers(fields, layers, slides).map(Number),
  };
}

export const gemma3: Family = {
  architecture: 'Gemma3ForCausalLM',
  modelType: 'gemma3_text',
  activation: 'gelu_pytorch_tanh',
  names: { hidden_act: 'hidden_activation' },
  // All of them: configs of the larger models name only what differs from these.
  defaults: {
    vocab_size: 262_208,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 26,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    head_dim: 256,
    max_position_embeddings: 131_072,
    rms_norm_eps: 1e-6,
    query_pre_attn_scalar: 256,
    sliding_window: 4096,
    tie_word_embeddings: true,
    bos_token_id: 2,
    eos_token_id: 1,
  },

  // "attn_logit_softcapping" stands in configs, but transformers doesn't compute it.
  features: (fields, sizes) => ({
    ...features(fields, sizes),
    logitSoftcap: readSoftcap(fields, 'final_logit_softcapping'),
  }),

  tensors: (config) => gemmaTensors(config, true),
  ignores: isLeftover,
};

/** The larger models, which read pictures too; only the part that reads text is run. */
export const gemma3Nested: Family = {
  ...gemma3,
  architecture: 'Gemma3ForConditionalGeneration',
  modelType: 'gemma3',
  section: 'text_config',
  features,

  tensors(config, has) {
    const tensors = gemmaTensors(config, true);
    const inModel = 'model.language_model.';
    if (has(`${inModel}embed_tokens.weight`)) {
      return renamed(tensors, (name) => name.replace(/^model\./, inModel));
    }
    return renamed(tensors, (name) => `language_model.${name}`);
  },

  ignores(name, config) {
    return (
      /^(model\.)?(vision_tower|multi_modal_projector)\./.test(name) || isLeftover(name, config)
    );
  },
};
