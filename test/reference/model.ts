/**
 * The model in float64, whole sequence, without a cache: masks are explicit, and nothing is shared
 * with the engine. Written from the specification to be the truth that the engine is held against.
 */
import { causalMask, type Mask, policyMask } from './masks.js';
import { keyPositions } from './mhpe.js';
import { rotate } from './rope.js';
import { type CacheRounding, roundRows } from './rounding.js';
import type { Settings } from './settings.js';
import type { ReferenceModel } from './weights.js';

// Under a test runner a global such as Math is looked up anew, slowly, each time it is named.
const { exp, floor, sqrt } = Math;

export interface ForwardOptions {
  /** Rounds keys and values as a cache of that type stores them. @default no rounding */
  cache?: CacheRounding;
}

/** Keys and values of one layer, (tokens, kvHeads, headDim). */
export interface Rows {
  keys: Float64Array;
  values: Float64Array;
}

type Four = [number, number, number, number];

/** x (tokens, inputs) times a weight (outputs, inputs), plus its bias where there is one. */
function linear(model: ReferenceModel, name: string, x: Float64Array): Float64Array {
  const weight = model.tensors.get(`${name}.weight`);
  if (!weight) throw new Error(`no tensor ${name}.weight`);
  const [outputs, inputs] = weight.shape as [number, number];
  const w = weight.data;
  const bias = model.tensors.get(`${name}.bias`)?.data;
  const tokens = x.length / inputs;
  const y = new Float64Array(tokens * outputs);
  // Four tokens at a time, because one long sum would wait for each of its own additions. In the
  // last group some tokens are done more than once.
  for (let t = 0; t < tokens; t += 4) {
    const last = tokens - 1;
    const token = [t, Math.min(t + 1, last), Math.min(t + 2, last), Math.min(t + 3, last)] as Four;
    const [x0, x1, x2, x3] = token.map((index) => index * inputs) as Four;
    const [y0, y1, y2, y3] = token.map((index) => index * outputs) as Four;
    for (let o = 0; o < outputs; o++) {
      const row = o * inputs;
      let a = bias ? (bias[o] as number) : 0;
      let b = a;
      let c = a;
      let d = a;
      for (let i = 0; i < inputs; i++) {
        const factor = w[row + i] as number;
        a += factor * (x[x0 + i] as number);
        b += factor * (x[x1 + i] as number);
        c += factor * (x[x2 + i] as number);
        d += factor * (x[x3 + i] as number);
      }
      y[y0 + o] = a;
      y[y1 + o] = b;
      y[y2 + o] = c;
      y[y3 + o] = d;
    }
  }
  return y;
}

function norm(model: ReferenceModel, name: string, x: Float64Array): Float64Array {
  const weight = model.tensors.get(`${name}.weight`)?.data;
  if (!weight) throw new Error(`no tensor ${name}.weight`);
  const size = weight.length;
  const y = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += size) {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += (x[start + i] as number) ** 2;
    const factor = 1 / sqrt(sum / size + model.normEpsilon);
    for (let i = 0; i < size; i++) {
      y[start + i] = (x[start + i] as number) * factor * (weight[i] as number);
    }
  }
  return y;
}

function embed(model: ReferenceModel, ids: readonly number[]): Float64Array {
  const table = model.tensors.get('model.embed_tokens.weight')?.data;
  if (!table) throw new Error('no embedding');
  const x = new Float64Array(ids.length * model.hiddenSize);
  ids.forEach((id, t) => {
    const row = table.subarray(id * model.hiddenSize, (id + 1) * model.hiddenSize);
    x.set(row, t * model.hiddenSize);
  });
  return x;
}

/**
 * Attention of all tokens: token i reads `seen[i]` in its own layer, and the same rows of the
 * source layer in a consumer, under one softmax.
 */
export function attend(
  model: Pick<ReferenceModel, 'heads' | 'kvHeads' | 'headDim'>,
  query: Float64Array,
  lists: readonly Rows[],
  seen: readonly (readonly number[])[],
): Float64Array {
  const { heads, kvHeads, headDim } = model;
  const output = new Float64Array(query.length);
  const scale = 1 / sqrt(headDim);
  // One softmax over all lists: list n has its weights from n * positions.length on.
  const weights = new Float64Array(lists.length * seen.length);
  seen.forEach((positions, i) => {
    for (let h = 0; h < heads; h++) {
      const kvHead = floor(h / (heads / kvHeads));
      const q = (i * heads + h) * headDim;
      let count = 0;
      let largest = Number.NEGATIVE_INFINITY;
      for (const { keys } of lists) {
        for (const j of positions) {
          const k = (j * kvHeads + kvHead) * headDim;
          let score = 0;
          for (let d = 0; d < headDim; d++) {
            score += (query[q + d] as number) * (keys[k + d] as number);
          }
          score *= scale;
          if (score > largest) largest = score;
          weights[count++] = score;
        }
      }
      let sum = 0;
      for (let n = 0; n < count; n++) {
        weights[n] = exp((weights[n] as number) - largest);
        sum += weights[n] as number;
      }
      count = 0;
      for (const { values } of lists) {
        for (const j of positions) {
          const weight = (weights[count++] as number) / sum;
          const v = (j * kvHeads + kvHead) * headDim;
          for (let d = 0; d < headDim; d++) {
            output[q + d] = (output[q + d] as number) + weight * (values[v + d] as number);
          }
        }
      }
    }
  });
  return output;
}

function add(x: Float64Array, y: Float64Array): void {
  for (let i = 0; i < x.length; i++) x[i] = (x[i] as number) + (y[i] as number);
}

function listOf(mask: Mask): number[][] {
  return mask.map((row) => [...row.keys()].filter((j) => row[j]));
}

/** Logits (tokens, vocabSize). */
export function forward(
  model: ReferenceModel,
  ids: readonly number[],
  settings: Settings,
  options: ForwardOptions = {},
): Float64Array {
  const { layers, heads, kvHeads, headDim } = model;
  const { sourceLayer, consumersAbove } = settings;
  if (settings.dense.length !== layers) throw new Error('settings of another model');
  if (sourceLayer !== null && consumersAbove < sourceLayer) {
    throw new Error('a consumer would come before its source');
  }
  const turned = settings.multiHeadPositions ? settings.anchorIds : [];
  const positions = keyPositions(ids, turned, kvHeads);
  const causal = listOf(causalMask(ids.length));
  const anchored = listOf(policyMask(ids, settings));
  const x = embed(model, ids);
  let source: Rows | undefined;
  for (let l = 0; l < layers; l++) {
    const layer = `model.layers.${l}`;
    const input = norm(model, `${layer}.input_layernorm`, x);
    const query = linear(model, `${layer}.self_attn.q_proj`, input);
    const keys = linear(model, `${layer}.self_attn.k_proj`, input);
    const values = linear(model, `${layer}.self_attn.v_proj`, input);
    positions.forEach((ofHead, t) => {
      for (let h = 0; h < heads; h++) rotate(query, (t * heads + h) * headDim, t, model.rope);
      ofHead.forEach((position, h) => {
        rotate(keys, (t * kvHeads + h) * headDim, position, model.rope);
      });
    });
    if (options.cache) {
      roundRows(keys, headDim, options.cache);
      roundRows(values, headDim, options.cache);
    }
    const own = { keys, values };
    if (l === sourceLayer) source = own;
    const lists = source && l > consumersAbove ? [own, source] : [own];
    const mixed = attend(model, query, lists, settings.dense[l] ? causal : anchored);
    add(x, linear(model, `${layer}.self_attn.o_proj`, mixed));
    const middle = norm(model, `${layer}.post_attention_layernorm`, x);
    const gate = linear(model, `${layer}.mlp.gate_proj`, middle);
    const up = linear(model, `${layer}.mlp.up_proj`, middle);
    const active = up.map((value, i) => {
      const g = gate[i] as number;
      return (g / (1 + exp(-g))) * value;
    });
    add(x, linear(model, `${layer}.mlp.down_proj`, active));
  }
  const tied = !model.tensors.has('lm_head.weight');
  const head = tied ? 'model.embed_tokens' : 'lm_head';
  return linear(model, head, norm(model, 'model.norm', x));
}
