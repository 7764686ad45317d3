/** Rotary positions: inverse frequencies in double precision, by the rules of transformers. */
import type { NativeRope } from '../types/native.js';
import { AnchorError } from './errors.js';
import type { Fields } from './fields.js';
import { quote } from './show.js';

/** Checked rotary settings of a config. */
export interface RopeParameters {
  theta: number;
  /** Dimensions of a head that turn, the first ones. */
  dims: number;
  interleaved: boolean;
  scaling:
    | { type: 'default' }
    | { type: 'linear'; factor: number }
    | ({ type: 'llama3'; low: number; high: number } & Extension)
    | ({ type: 'yarn'; betaFast: number; betaSlow: number; truncate: boolean } & Extension &
        Magnitude)
    // One of its two tables: a divisor of each frequency.
    | ({ type: 'longrope'; factors: number[] } & Magnitude);
}

/** By how much, and from which context, a scaling extends. */
interface Extension {
  factor: number;
  originalContext: number;
}

/** Factor on cosine and sine. */
interface Magnitude {
  magnitude: number;
}

const maxContext = 1 << 28;

// `rope_parameters` (transformers 5), or `rope_scaling` (4).
function ropeBlock(fields: Fields): Fields {
  return fields.child(fields.has('rope_parameters') ? 'rope_parameters' : 'rope_scaling');
}

function readTheta(fields: Fields, block: Fields, otherwise = 10_000): number {
  return block.positive('rope_theta', fields.positive('rope_theta', otherwise));
}

/**
 * Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (4, where the type
 * may also be called `type`). `given`: the block where the config has several, and the base of
 * classes that don't have the usual one.
 * @throws `ERR_MODEL_UNSUPPORTED` for another type, `ERR_MODEL_INVALID`
 */
export function readRope(
  fields: Fields,
  headDim: number,
  contextLength: number,
  given: { block?: Fields; theta?: number } = {},
): RopeParameters {
  const block = given.block ?? ropeBlock(fields);
  const theta = readTheta(fields, block, given.theta);
  if (readPart(fields, block) !== 1) {
    const message =
      'config.json turns a part of each head ("partial_rotary_factor"): not supported';
    throw new AnchorError('ERR_MODEL_UNSUPPORTED', message);
  }
  const scaling = readScaling(block, contextLength);
  return { theta, dims: headDim, interleaved: false, scaling };
}

function readPart(fields: Fields, block: Fields): number {
  return block.positive('partial_rotary_factor', fields.positive('partial_rotary_factor', 1));
}

/** What {@link readPhiRope} gives: one table, or two and the context that the first is for. */
export interface PhiRope {
  ropes: RopeParameters[];
  originalContext: number;
}

/**
 * Reads the settings of the Phi-3 class: a part of a head turns, and the only scaling is longrope
 * (in older configs `su`, or even `yarn`).
 * @throws `ERR_MODEL_UNSUPPORTED` for another type, `ERR_MODEL_INVALID`
 */
export function readPhiRope(fields: Fields, headDim: number, contextLength: number): PhiRope {
  const block = ropeBlock(fields);
  const part = readPart(fields, block);
  const dims = Math.floor(headDim * part);
  if (dims < 2 || dims % 2 !== 0 || dims > headDim) {
    const expectation = `a part of ${headDim} dimensions that is even, and not 0`;
    const holder = block.has('partial_rotary_factor') ? block : fields;
    throw holder.fail('partial_rotary_factor', expectation);
  }
  const common = { theta: readTheta(fields, block), dims, interleaved: false };
  const type = typeOf(block);
  if (type === 'default') {
    return { ropes: [{ ...common, scaling: { type } }], originalContext: 0 };
  }
  if (type !== 'longrope' && type !== 'su' && type !== 'yarn') {
    throw unsupported(type, 'default, longrope');
  }
  // The one outside the block counts, as in transformers.
  const key = 'original_max_position_embeddings';
  const originalContext = fields.integer(key, 2, maxContext);
  const factor = block.positive('factor', contextLength / originalContext);
  const growth = Math.sqrt(1 + Math.log(factor) / Math.log(originalContext));
  const magnitude = block.positive('attention_factor', factor <= 1 ? 1 : growth);
  const ropes = ['short_factor', 'long_factor'].map((name) => {
    const factors = block.positives(name, dims / 2);
    return { ...common, scaling: { type: 'longrope' as const, factors, magnitude } };
  });
  return { ropes, originalContext };
}

function typeOf(block: Fields): string {
  return block.text('rope_type', block.text('type', 'default'));
}

function unsupported(type: string, known: string): AnchorError {
  const message = `config.json has rotary positions of the type ${quote(type)}`;
  return new AnchorError('ERR_MODEL_UNSUPPORTED', `${message}; supported: ${known}`);
}

function readScaling(block: Fields, contextLength: number): RopeParameters['scaling'] {
  const type = typeOf(block);
  const original = () =>
    block.integer('original_max_position_embeddings', 1, maxContext, contextLength);
  switch (type) {
    case 'default':
      return { type };
    case 'linear':
      return { type, factor: block.positive('factor') };
    case 'llama3': {
      const low = block.positive('low_freq_factor');
      const high = block.positive('high_freq_factor');
      if (high <= low) throw block.fail('high_freq_factor', `above "low_freq_factor" (${low})`);
      return { type, factor: block.positive('factor'), low, high, originalContext: original() };
    }
    case 'yarn':
      return readYarn(block, original(), contextLength);
    default:
      throw unsupported(type, 'default, linear, llama3, yarn');
  }
}

function readYarn(block: Fields, originalContext: number, contextLength: number) {
  const factor = block.positive('factor', contextLength / originalContext);
  // 0 counts as missing, as in Python.
  const has = (key: string) => block.has(key) && block.json[key] !== 0;
  const growth = (weight: number) => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1);
  let magnitude = growth(1);
  if (block.has('attention_factor')) magnitude = block.positive('attention_factor');
  else if (has('mscale') && has('mscale_all_dim')) {
    magnitude = growth(block.positive('mscale')) / growth(block.positive('mscale_all_dim'));
  }
  return {
    type: 'yarn' as const,
    factor,
    originalContext,
    magnitude,
    betaFast: has('beta_fast') ? block.positive('beta_fast') : 32,
    betaSlow: has('beta_slow') ? block.positive('beta_slow') : 1,
    truncate: block.boolean('truncate', true),
  };
}

/** @throws `ERR_MODEL_INVALID` if the settings make a frequency that is no positive number */
export function computeRope({ theta, dims, interleaved, scaling }: RopeParameters): NativeRope {
  const plain = Float64Array.from({ length: dims / 2 }, (_, i) => theta ** ((-2 * i) / dims));
  let inverseFrequencies: Float64Array = plain;
  let scale = 1;
  switch (scaling.type) {
    case 'default':
      break;
    case 'linear':
      inverseFrequencies = plain.map((frequency) => frequency / scaling.factor);
      break;
    case 'llama3':
      inverseFrequencies = plain.map((frequency) => scaleLlama3(frequency, scaling));
      break;
    case 'yarn':
      inverseFrequencies = scaleYarn(plain, theta, dims, scaling);
      scale = scaling.magnitude;
      break;
    case 'longrope':
      inverseFrequencies = plain.map((frequency, i) => frequency / (scaling.factors[i] as number));
      scale = scaling.magnitude;
      break;
  }
  if (!inverseFrequencies.every((value) => Number.isFinite(value) && value > 0)) {
    const message = `config.json: "rope_theta" = ${theta} and its scaling give no frequencies`;
    throw new AnchorError('ERR_MODEL_INVALID', message);
  }
  // The engine takes it in float32.
  if (!(scale > 0 && scale < 1e38)) {
    const message = `config.json: its rotary scaling multiplies by ${scale}`;
    throw new AnchorError('ERR_MODEL_INVALID', message);
  }
  return { rotaryDims: dims, interleaved, scale, inverseFrequencies };
}

type Scaling<T extends string> = Extract<RopeParameters['scaling'], { type: T }>;

// Slow turns are stretched, fast ones stay, and those between are mixed.
function scaleLlama3(frequency: number, scaling: Scaling<'llama3'>): number {
  const { factor, low, high, originalContext } = scaling;
  const turns = (originalContext * frequency) / (2 * Math.PI);
  if (turns > high) return frequency;
  if (turns < low) return frequency / factor;
  const smooth = (turns - low) / (high - low);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
}

function scaleYarn(
  plain: Float64Array,
  theta: number,
  dims: number,
  scaling: Scaling<'yarn'>,
): Float64Array {
  const { factor, originalContext, betaFast, betaSlow, truncate } = scaling;
  // Dimension whose frequency turns that often in the original context.
  const dimension = (turns: number) =>
    (dims * Math.log(originalContext / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const fast = dimension(betaFast);
  const slow = dimension(betaSlow);
  const low = Math.max(truncate ? Math.floor(fast) : fast, 0);
  let high = Math.min(truncate ? Math.ceil(slow) : slow, dims - 1);
  if (low === high) high += 0.001;
  return plain.map((frequency, i) => {
    const ramp = Math.min(Math.max((i - low) / (high - low), 0), 1);
    return (frequency / factor) * ramp + frequency * (1 - ramp);
  });
}
