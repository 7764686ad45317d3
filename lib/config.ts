/** Turns `config.json`, in the spelling of transformers 4 or 5, into what the engine needs. */
import { AnchorError } from './errors.js';
import type { Family } from './families/family.js';
import { llama } from './families/llama.js';
import { Fields } from './fields.js';
import type { Json } from './files.js';
import { type RopeParameters, readRope } from './rope.js';

/** The model classes that run. A new one is a file in families/ and a line here. */
const families: readonly Family[] = [llama];

/** Sizes and switches of a model. */
export interface ModelConfig {
  architecture: string;
  family: Family;
  layers: number;
  hiddenSize: number;
  intermediateSize: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  vocabSize: number;
  /** Tokens, from `max_position_embeddings`. */
  contextLength: number;
  normEpsilon: number;
  /** Biases on the q, k, v and o projections. */
  attentionBias: boolean;
  /** Biases on the gate, up and down projections. */
  mlpBias: boolean;
  /** The output matrix is the embedding. */
  tieWordEmbeddings: boolean;
  rope: RopeParameters;
  bosTokenId: number | undefined;
  /** May be empty; generation_config.json takes precedence. */
  eosTokenIds: number[];
}

/** @throws `ERR_MODEL_UNSUPPORTED` for another class or feature, `ERR_MODEL_INVALID` */
export function parseConfig(json: Json): ModelConfig {
  const fields = new Fields(json, 'config.json');
  const { architecture, family } = findFamily(fields);
  if (fields.has('quantization_config')) {
    const message = 'config.json has a "quantization_config": quantised weights are not supported';
    throw new AnchorError('ERR_MODEL_UNSUPPORTED', message);
  }
  const hiddenSize = fields.integer('hidden_size', 1, 1 << 20);
  const heads = fields.integer('num_attention_heads', 1, 4096);
  const kvHeads = fields.integer('num_key_value_heads', 1, 4096, heads);
  if (heads % kvHeads !== 0) {
    throw fields.fail('num_key_value_heads', `a divisor of "num_attention_heads" (${heads})`);
  }
  const vocabSize = fields.integer('vocab_size', 1, 1 << 24);
  const contextLength = fields.integer('max_position_embeddings', 1, 1 << 28);
  const headDim = readHeadDim(fields, hiddenSize, heads);
  return {
    architecture,
    family,
    layers: fields.integer('num_hidden_layers', 1, 1024),
    hiddenSize,
    intermediateSize: fields.integer('intermediate_size', 1, 1 << 22),
    heads,
    kvHeads,
    headDim,
    vocabSize,
    contextLength,
    normEpsilon: fields.positive('rms_norm_eps', 1e-6),
    attentionBias: fields.boolean('attention_bias', false),
    mlpBias: fields.boolean('mlp_bias', false),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    rope: readRope(fields, headDim, contextLength),
    bosTokenId: fields.ids('bos_token_id', vocabSize)[0],
    eosTokenIds: fields.ids('eos_token_id', vocabSize),
  };
}

function findFamily(fields: Fields): { architecture: string; family: Family } {
  const names: unknown = fields.json.architectures;
  const listed: unknown = Array.isArray(names) ? names[0] : undefined;
  const type: unknown = fields.json.model_type;
  const family = families.find((candidate) =>
    listed === undefined ? candidate.modelType === type : candidate.architecture === listed,
  );
  if (!family) {
    const known = families.map((candidate) => candidate.architecture).join(', ');
    const name = listed ?? type ?? 'no class at all';
    const message = `config.json names the model class ${name}; supported: ${known}`;
    throw new AnchorError('ERR_MODEL_UNSUPPORTED', message);
  }
  const activation = fields.text('hidden_act', family.activation);
  if (activation !== family.activation) {
    const message = `config.json has "hidden_act" = "${activation}"`;
    const cure = `supported: ${family.activation}`;
    throw new AnchorError('ERR_MODEL_UNSUPPORTED', `${message}; ${cure}`);
  }
  return { architecture: family.architecture, family };
}

function readHeadDim(fields: Fields, hiddenSize: number, heads: number): number {
  if (!fields.has('head_dim') && hiddenSize % heads !== 0) {
    const divisor = `a divisor of "hidden_size" (${hiddenSize}), since there is no "head_dim"`;
    throw fields.fail('num_attention_heads', divisor);
  }
  const headDim = fields.integer('head_dim', 1, 1024, hiddenSize / heads);
  if (headDim % 2 !== 0) {
    const message = `config.json has a head size of ${headDim}; rotary positions need an even one`;
    throw new AnchorError('ERR_MODEL_INVALID', message);
  }
  return headDim;
}
