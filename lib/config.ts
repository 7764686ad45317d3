/** Turns `config.json`, in the spelling of transformers 4 or 5, into what the engine needs. */
import type { NativeActivation, NativeExperts, NativeNorm } from '../types/native.js';
import { AnchorError } from './errors.js';
import type { Family } from './families/family.js';
import { families } from './families/index.js';
import { Fields } from './fields.js';
import type { Json } from './files.js';
import { type RopeParameters, readRope } from './rope.js';
import { brief, quote, show } from './show.js';

/** What transformers calls an activation, and what is computed. */
const activations: Readonly<Record<string, NativeActivation>> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_new: 'geluTanh',
  gelu_pytorch_tanh: 'geluTanh',
};

/** Sizes of a model, which every class has. */
export interface ModelSizes {
  layers: number;
  hiddenSize: number;
  intermediateSize: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  vocabSize: number;
  /** Tokens, from `max_position_embeddings`. */
  contextLength: number;
}

/** What differs between the classes, each as `types/native.ts` says. */
export interface ModelFeatures {
  norm: NativeNorm;
  activation: NativeActivation;
  parallelBlock: boolean;
  /** Not rounded yet. */
  embeddingScale: number;
  attentionScale: number;
  attentionSoftcap: number;
  logitSoftcap: number;
  /** (layers) */
  windows: number[];
  ropes: RopeParameters[];
  /** (layers) */
  layerRopes: number[];
  originalContext: number;
  experts: NativeExperts | null;
  /** (layers) whether a layer has experts */
  sparseLayers: boolean[];
}

/** Sizes and switches of a model. */
export interface ModelConfig extends ModelSizes, ModelFeatures {
  architecture: string;
  family: Family;
  normEpsilon: number;
  /** Biases on the q, k, v and o projections, where the class leaves that open. */
  attentionBias: boolean;
  /** Biases on the gate, up and down projections, where the class leaves that open. */
  mlpBias: boolean;
  /** The output matrix is the embedding. */
  tieWordEmbeddings: boolean;
  bosTokenId: number | undefined;
  /** May be empty; generation_config.json takes precedence. */
  eosTokenIds: number[];
}

/** @throws `ERR_MODEL_UNSUPPORTED` for another class or feature, `ERR_MODEL_INVALID` */
export function parseConfig(json: Json): ModelConfig {
  const top = new Fields(json, 'config.json');
  const family = findFamily(top);
  if (top.has('quantization_config')) {
    const message = 'config.json has a "quantization_config": quantised weights are not supported';
    throw new AnchorError('ERR_MODEL_UNSUPPORTED', message);
  }
  const fields = fieldsOf(top, family);
  const sizes = readSizes(fields, family);
  const { layers, headDim, contextLength, vocabSize } = sizes;
  const own = family.features?.(fields, sizes) ?? {};
  const windows = own.windows ?? new Array<number>(layers).fill(0);
  // Wrappers say outside what their generation ends with.
  const ids = (key: string) => (top.has(key) ? top : fields).ids(key, vocabSize);
  return {
    architecture: family.architecture,
    family,
    ...sizes,
    normEpsilon: fields.positive('rms_norm_eps', 1e-6),
    attentionBias: fields.boolean('attention_bias', false),
    mlpBias: fields.boolean('mlp_bias', false),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    norm: 'rms',
    activation: readActivation(fields, family),
    parallelBlock: false,
    embeddingScale: 1,
    attentionScale: 1 / Math.sqrt(headDim),
    attentionSoftcap: 0,
    logitSoftcap: 0,
    layerRopes: new Array<number>(layers).fill(0),
    originalContext: 0,
    experts: null,
    sparseLayers: new Array<boolean>(layers).fill(false),
    ...own,
    ropes: own.ropes ?? [readRope(fields, headDim, contextLength)],
    // A window as long as the context hides nothing.
    windows: windows.map((window) => (window >= contextLength ? 0 : window)),
    bosTokenId: ids('bos_token_id')[0],
    eosTokenIds: ids('eos_token_id'),
  };
}

function findFamily(fields: Fields): Family {
  const names: unknown = fields.json.architectures;
  const listed: unknown = Array.isArray(names) ? names[0] : undefined;
  const type: unknown = fields.json.model_type;
  const family = families.find((candidate) =>
    listed === undefined ? candidate.modelType === type : candidate.architecture === listed,
  );
  if (family) return family;
  const known = families.map((candidate) => candidate.architecture).join(', ');
  const name = listed ?? type;
  const named = typeof name === 'string' ? brief(name) : show(name);
  const shown = name === undefined || name === null ? 'no class at all' : named;
  const message = `config.json names the model class ${shown}; supported: ${known}`;
  throw new AnchorError('ERR_MODEL_UNSUPPORTED', message);
}

// With the class's defaults below, and in the object that holds the sizes.
function fieldsOf(top: Fields, { section, names, defaults }: Family): Fields {
  const { json, prefix } = section ? top.child(section) : top;
  return new Fields({ ...defaults, ...json }, top.file, prefix, names);
}

function readSizes(fields: Fields, family: Family): ModelSizes {
  const hiddenSize = fields.integer('hidden_size', 1, 1 << 20);
  const heads = fields.integer('num_attention_heads', 1, 4096);
  const kvHeads = fields.integer('num_key_value_heads', 1, 4096, heads);
  if (heads % kvHeads !== 0) {
    const divisor = `a divisor of "${fields.nameOf('num_attention_heads')}" (${heads})`;
    throw fields.fail('num_key_value_heads', divisor);
  }
  const width = family.intermediateSize?.(hiddenSize);
  return {
    layers: fields.integer('num_hidden_layers', 1, 1024),
    hiddenSize,
    intermediateSize: fields.integer('intermediate_size', 1, 1 << 22, width),
    heads,
    kvHeads,
    headDim: readHeadDim(fields, hiddenSize, heads),
    vocabSize: fields.integer('vocab_size', 1, 1 << 24),
    contextLength: fields.integer('max_position_embeddings', 1, 1 << 28),
  };
}

function readActivation(fields: Fields, family: Family): NativeActivation {
  const name = fields.text('hidden_act', family.activation);
  const wanted = activations[family.activation] as NativeActivation;
  if (activations[name] === wanted) return wanted;
  const message = `config.json has "${fields.nameOf('hidden_act')}" = ${quote(name)}`;
  const cure = `supported: ${family.activation}`;
  throw new AnchorError('ERR_MODEL_UNSUPPORTED', `${message}; ${cure}`);
}

function readHeadDim(fields: Fields, hiddenSize: number, heads: number): number {
  if (!fields.has('head_dim') && hiddenSize % heads !== 0) {
    const size = `"${fields.nameOf('hidden_size')}" (${hiddenSize})`;
    const divisor = `a divisor of ${size}, since there is no "head_dim"`;
    throw fields.fail('num_attention_heads', divisor);
  }
  const headDim = fields.integer('head_dim', 1, 1024, hiddenSize / heads);
  if (headDim % 2 !== 0) {
    const message = `config.json has a head size of ${headDim}; rotary positions need an even one`;
    throw new AnchorError('ERR_MODEL_INVALID', message);
  }
  return headDim;
}
