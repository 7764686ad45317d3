/** The Qwen3-MoE class (Qwen3-Coder): Qwen3's, with experts in most layers. */
import type { NativeExperts } from '../../types/native.js';
import type { ModelConfig } from '../config.js';
import { AnchorError } from '../errors.js';
import type { Fields } from '../fields.js';
import type { ExpectedTensor, Family } from './family.js';
import { qwen3Attention } from './qwen3.js';
import { block, decoder, gatedMlp, isLeftover } from './tensors.js';
import { everyLayer, readWindow } from './windows.js';

function readExperts(fields: Fields): NativeExperts {
  // Newer configs count "local" experts, which are all of them.
  const key = fields.has('num_local_experts') ? 'num_local_experts' : 'num_experts';
  const count = fields.integer(key, 1, 4096, 128);
  return {
    count,
    perToken: fields.integer('num_experts_per_tok', 1, count, 8),
    normalize: fields.boolean('norm_topk_prob', false),
    intermediateSize: fields.integer('moe_intermediate_size', 1, 1 << 22, 768),
  };
}

/** The largest known have 12,000; each has three tensors to look for. */
const maxExperts = 65_536;

function readSparseLayers(fields: Fields, layers: number): boolean[] {
  const step = fields.integer('decoder_sparse_step', 1, 1 << 20, 1);
  const plain = new Set(fields.integers('mlp_only_layers', 0, layers - 1));
  return Array.from({ length: layers }, (_, i) => !plain.has(i) && (i + 1) % step === 0);
}

// Some tools keep transformers' own layout: all experts in one tensor, gate above up in each.
function fusedExperts(config: ModelConfig, prefix: string, count: number, size: number) {
  const { hiddenSize } = config;
  const both = { name: `${prefix}.gate_up_proj`, shape: [count, 2 * size, hiddenSize] };
  const down = { name: `${prefix}.down_proj`, shape: [count, hiddenSize, size] };
  const tensors: ExpectedTensor[] = [];
  for (let expert = 0; expert < count; ++expert) {
    const name = `${prefix}.${expert}`;
    const first = expert * 2 * size;
    const [inward, outward] = [
      [size, hiddenSize],
      [hiddenSize, size],
    ] as const;
    tensors.push(
      {
        name: `${name}.gate_proj.weight`,
        shape: inward,
        source: { ...both, rows: [[first, size]] },
      },
      {
        name: `${name}.up_proj.weight`,
        shape: inward,
        source: { ...both, rows: [[first + size, size]] },
      },
      {
        name: `${name}.down_proj.weight`,
        shape: outward,
        source: { ...down, rows: [[expert * hiddenSize, hiddenSize]] },
      },
    );
  }
  return tensors;
}

function sparseMlp(
  config: ModelConfig,
  prefix: string,
  has: (name: string) => boolean,
): ExpectedTensor[] {
  const { count = 0, intermediateSize: size = 0 } = config.experts ?? {};
  const router: ExpectedTensor = {
    name: `${prefix}.router.weight`,
    shape: [count, config.hiddenSize],
    source: { name: `${prefix}.gate.weight` },
  };
  const experts = `${prefix}.experts`;
  if (has(`${experts}.gate_up_proj`)) {
    return [router, ...fusedExperts(config, experts, count, size)];
  }
  const all = Array.from({ length: count }, (_, expert) =>
    gatedMlp(config, `${experts}.${expert}`, { size }),
  );
  return [router, ...all.flat()];
}

export const qwen3Moe: Family = {
  architecture: 'Qwen3MoeForCausalLM',
  modelType: 'qwen3_moe',
  activation: 'silu',
  defaults: { num_key_value_heads: 4, sliding_window: 4096 },

  features(fields, { layers }) {
    // Unlike in Qwen3, a window is over all layers.
    const window = fields.boolean('use_sliding_window', false) ? readWindow(fields) : 0;
    const experts = readExperts(fields);
    const sparseLayers = readSparseLayers(fields, layers);
    const total = experts.count * sparseLayers.filter(Boolean).length;
    if (total > maxExperts) {
      const message = `${fields.file} implies ${total} experts; ${maxExperts} are the most`;
      throw new AnchorError('ERR_MODEL_UNSUPPORTED', message);
    }
    return { windows: everyLayer(window, layers), experts, sparseLayers };
  },

  tensors(config, has) {
    return decoder(config, (layer, index) => {
      const prefix = `${layer}.mlp`;
      const mlp = config.sparseLayers[index]
        ? sparseMlp(config, prefix, has)
        : gatedMlp(config, prefix);
      return block(config, layer, qwen3Attention(config, layer), mlp);
    });
  },

  ignores: isLeftover,
};
