/** The CodeGen class: attention and MLP side by side, fused projections, neighbours turning. */
import type { ModelConfig } from '../config.js';
import type { ExpectedTensor, Family } from './family.js';
import { attention, decoder, isLeftover, norm, plainMlp, renamed, vector } from './tensors.js';

/** The fused matrix was made on as many chips: each wrote its heads' q, v and k (in that order). */
const groups = 4;
const placeInGroup: Readonly<Record<string, number>> = { q_proj: 0, v_proj: 1, k_proj: 2 };

// Of each group a third, so a projection's rows lie in four places.
function ungrouped(tensor: ExpectedTensor, layer: string): ExpectedTensor {
  const word = tensor.name.split('.').at(-2) as string;
  const place = placeInGroup[word];
  if (place === undefined) return tensor;
  const [size, inputs] = tensor.shape as [number, number];
  const count = size / groups;
  const rows = Array.from(
    { length: groups },
    (_, group) => [(3 * group + place) * count, count] as const,
  );
  const name = `${layer}.self_attn.qkv_proj.weight`;
  return { ...tensor, source: { name, shape: [3 * size, inputs], rows } };
}

function layerTensors(config: ModelConfig, layer: string): ExpectedTensor[] {
  return [
    ...norm(config, `${layer}.input_layernorm`, config.hiddenSize),
    ...attention(config, layer).map((tensor) => ungrouped(tensor, layer)),
    ...plainMlp(config, `${layer}.mlp`, true),
  ];
}

const fileWords: readonly (readonly [RegExp, string])[] = [
  [/^model\.embed_tokens\./, 'transformer.wte.'],
  [/^model\.norm\./, 'transformer.ln_f.'],
  [/^model\.layers\./, 'transformer.h.'],
  [/\.input_layernorm\./, '.ln_1.'],
  [/\.self_attn\.o_proj\./, '.attn.out_proj.'],
  [/\.self_attn\./, '.attn.'],
  [/\.mlp\.up_proj\./, '.mlp.fc_in.'],
  [/\.mlp\.down_proj\./, '.mlp.fc_out.'],
];

export const codegen: Family = {
  architecture: 'CodeGenForCausalLM',
  modelType: 'codegen',
  activation: 'gelu_new',
  names: {
    hidden_size: 'n_embd',
    num_hidden_layers: 'n_layer',
    num_attention_heads: 'n_head',
    intermediate_size: 'n_inner',
    max_position_embeddings: 'n_positions',
    rms_norm_eps: 'layer_norm_epsilon',
    hidden_act: 'activation_function',
  },
  defaults: { layer_norm_epsilon: 1e-5 },
  intermediateSize: (hiddenSize) => 4 * hiddenSize,

  features(fields, { heads, headDim }) {
    if (heads % groups !== 0) {
      throw fields.fail('num_attention_heads', `a multiple of ${groups}, as weights are grouped`);
    }
    const dims = fields.integer('rotary_dim', 2, headDim, Math.min(64, headDim));
    if (dims % 2 !== 0) throw fields.fail('rotary_dim', 'even');
    return {
      norm: 'layer',
      parallelBlock: true,
      ropes: [{ theta: 10_000, dims, interleaved: true, scaling: { type: 'default' } }],
    };
  },

  tensors(config) {
    const tensors = [
      ...decoder(config, (layer) => layerTensors(config, layer)),
      vector('lm_head.bias', config.vocabSize),
    ];
    return renamed(tensors, (name) =>
      fileWords.reduce((text, [canonical, own]) => text.replace(canonical, own), name),
    );
  },

  ignores(name, config) {
    // Masks that old checkpoints carry.
    return /\.attn\.(causal_mask|bias|masked_bias)$/.test(name) || isLeftover(name, config);
  },
};
