/** The Phi-3 class (Phi-3, Phi-4-mini): fused projections, partial rotation, longrope. */
import type { ModelConfig } from '../config.js';
import { readPhiRope } from '../rope.js';
import type { ExpectedTensor, Family } from './family.js';
import { attention, block, decoder, gatedMlp, isLeftover } from './tensors.js';
import { everyLayer, readWindow } from './windows.js';

/** Weights that the file holds as one matrix, one behind the other. */
function fused(tensors: readonly ExpectedTensor[], name: string): ExpectedTensor[] {
  const sizes = tensors.map(({ shape }) => shape[0] as number);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  let first = 0;
  return tensors.map((tensor, i) => {
    const count = sizes[i] as number;
    const rows = [[first, count]] as const;
    first += count;
    return { ...tensor, source: { name, shape: [total, ...tensor.shape.slice(1)], rows } };
  });
}

function fusedLayer(config: ModelConfig, layer: string): ExpectedTensor[] {
  const [q, k, v, o] = attention(config, layer) as [
    ExpectedTensor,
    ExpectedTensor,
    ExpectedTensor,
    ExpectedTensor,
  ];
  const [gate, up, down] = gatedMlp(config, `${layer}.mlp`) as [
    ExpectedTensor,
    ExpectedTensor,
    ExpectedTensor,
  ];
  return block(
    config,
    layer,
    [...fused([q, k, v], `${layer}.self_attn.qkv_proj.weight`), o],
    [...fused([gate, up], `${layer}.mlp.gate_up_proj.weight`), down],
  );
}

export const phi3: Family = {
  architecture: 'Phi3ForCausalLM',
  modelType: 'phi3',
  activation: 'silu',
  defaults: { rms_norm_eps: 1e-5, original_max_position_embeddings: 4096 },

  features(fields, { layers, headDim, contextLength }) {
    const windows = everyLayer(readWindow(fields), layers);
    return { windows, ...readPhiRope(fields, headDim, contextLength) };
  },

  tensors(config) {
    return decoder(config, (layer) => fusedLayer(config, layer));
  },

  ignores: isLeftover,
};
