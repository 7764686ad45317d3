/** What the engine is told of a model, and which models it can run yet. */
import type { ComputeMode } from '../types/api.js';
import type { NativeModelSpec } from '../types/native.js';
import type { ModelConfig } from './config.js';
import { AnchorError } from './errors.js';
import { computeRope } from './rope.js';

/**
 * What the engine runs of the contract in `types/native.ts`. Folders of every class in families/
 * are understood; a class is run once it stands here, and its golden tests with it.
 */
export const runnable = {
  classes: new Set([
    'LlamaForCausalLM',
    'MistralForCausalLM',
    'Qwen2ForCausalLM',
    'Qwen3ForCausalLM',
    'Qwen3MoeForCausalLM',
    'Starcoder2ForCausalLM',
    'Phi3ForCausalLM',
    'Gemma2ForCausalLM',
    'Gemma3ForCausalLM',
    'Gemma3ForConditionalGeneration',
    'CodeGenForCausalLM',
  ]),
  /** Layers that see a window of the last tokens. */
  windows: true,
};

/** Why the engine cannot run a model yet; undefined where it can. */
export function whyNotRunnable({ architecture, windows }: ModelConfig): string | undefined {
  if (!runnable.classes.has(architecture)) {
    const known = [...runnable.classes].join(', ');
    return `Models of the class ${architecture} are not run yet; supported: ${known}`;
  }
  const window = windows.find((size) => size > 0);
  if (window === undefined || runnable.windows) return undefined;
  return `config.json has a "sliding_window" of ${window} tokens, which is not run yet`;
}

/** @throws `ERR_MODEL_UNSUPPORTED` where the engine cannot run the model */
export function nativeConfig(config: ModelConfig, compute: ComputeMode): NativeModelSpec['config'] {
  const reason = whyNotRunnable(config);
  if (reason !== undefined) throw new AnchorError('ERR_MODEL_UNSUPPORTED', reason);
  const { layers, hiddenSize, intermediateSize, heads, kvHeads, headDim } = config;
  const { vocabSize, contextLength, normEpsilon, norm, activation, parallelBlock } = config;
  const { attentionScale, attentionSoftcap, logitSoftcap, originalContext, experts } = config;
  return {
    ...{ layers, hiddenSize, intermediateSize, heads, kvHeads, headDim },
    ...{ vocabSize, contextLength, normEpsilon, norm, activation, parallelBlock },
    embeddingScale: roundScale(config.embeddingScale, compute),
    ...{ attentionScale, attentionSoftcap, logitSoftcap },
    windows: Int32Array.from(config.windows),
    ropes: config.ropes.map(computeRope),
    layerRopes: Uint8Array.from(config.layerRopes),
    ...{ originalContext, experts },
  };
}

// transformers rounds the factor to the type that it computes in: 55.4256 becomes 55.5 in bfloat16,
// which is what the models were trained with.
function roundScale(scale: number, compute: ComputeMode): number {
  const bits = new Uint32Array(Float32Array.of(scale).buffer);
  if (compute === 'bf16') {
    const value = bits[0] as number;
    bits[0] = (value + 0x7fff + ((value >>> 16) & 1)) & 0xffff0000;
  }
  return new Float32Array(bits.buffer)[0] as number;
}
