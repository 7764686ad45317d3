/** The Gemma 2 class: four norms a layer, soft caps, a window in every other layer. */
import type { ModelConfig } from '../config.js';
import { AnchorError } from '../errors.js';
import type { Fields } from '../fields.js';
import type { ExpectedTensor, Family } from './family.js';
import { attention, block, decoder, gatedMlp, isLeftover, norm, renamed } from './tensors.js';
import { byLayer, readWindow } from './windows.js';

/** What all Gemmas share. */
export function gemmaFeatures(fields: Fields, hiddenSize: number) {
  if (fields.boolean('use_bidirectional_attention', false)) {
    const message = 'config.json has "use_bidirectional_attention": no model that writes text';
    throw new AnchorError('ERR_MODEL_UNSUPPORTED', message);
  }
  return {
    norm: 'rmsOnePlus' as const,
    embeddingScale: Math.sqrt(hiddenSize),
    attentionScale: fields.positive('query_pre_attn_scalar') ** -0.5,
  };
}

/** 0 where it is null. */
export function readSoftcap(fields: Fields, key: string): number {
  return fields.has(key) ? fields.positive(key) : 0;
}

// Other classes call the norm before the MLP what Gemma calls the one after attention.
const fileNames: Readonly<Record<string, string>> = {
  attention_output_norm: 'post_attention_layernorm',
  post_attention_layernorm: 'pre_feedforward_layernorm',
  mlp_output_norm: 'post_feedforward_layernorm',
};

/** `headNorms`: norms of each head's query and key, as in Gemma 3. */
export function gemmaTensors(config: ModelConfig, headNorms: boolean): ExpectedTensor[] {
  const { hiddenSize, attentionBias: bias } = config;
  const tensors = decoder(config, (layer) => [
    ...block(
      config,
      layer,
      attention(config, layer, { bias, outputBias: bias, headNorms }),
      gatedMlp(config, `${layer}.mlp`),
    ),
    ...norm(config, `${layer}.attention_output_norm`, hiddenSize),
    ...norm(config, `${layer}.mlp_output_norm`, hiddenSize),
  ]);
  return renamed(tensors, (name) => {
    const word = /^model\.layers\.\d+\.(\w+)\.weight$/.exec(name)?.[1];
    const own = word && fileNames[word];
    return own ? name.replace(word, own) : name;
  });
}

export const gemma2: Family = {
  architecture: 'Gemma2ForCausalLM',
  modelType: 'gemma2',
  activation: 'gelu_pytorch_tanh',
  // Its configs have a "hidden_act" as well, which is not looked at.
  names: { hidden_act: 'hidden_activation' },
  defaults: {
    num_key_value_heads: 4,
    head_dim: 256,
    query_pre_attn_scalar: 256,
    sliding_window: 4096,
    attn_logit_softcapping: 50,
    final_logit_softcapping: 30,
    tie_word_embeddings: true,
  },

  features(fields, { layers, hiddenSize }) {
    return {
      ...gemmaFeatures(fields, hiddenSize),
      attentionSoftcap: readSoftcap(fields, 'attn_logit_softcapping'),
      logitSoftcap: readSoftcap(fields, 'final_logit_softcapping'),
      windows: byLayer(fields, layers, readWindow(fields), (layer) => layer % 2 === 0),
    };
  },

  tensors: (config) => gemmaTensors(config, false),
  ignores: isLeftover,
};
