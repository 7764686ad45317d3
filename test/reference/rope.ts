/** Rotary position encoding of the Llama class: half-split pairs, four ways to stretch it. */

// Under a test runner a global such as Math is looked up anew, slowly, each time it is named.
const { cos, sin } = Math;

/** `rope_parameters` of a config, or `rope_theta` and `rope_scaling` of an older one. */
export interface RopeConfig {
  type: string;
  theta: number;
  factor: number;
  /** llama3 */
  lowFrequencyFactor: number;
  highFrequencyFactor: number;
  /** llama3, yarn: positions that the model was first trained on. */
  originalPositions: number;
  /** yarn */
  betaFast: number;
  betaSlow: number;
  truncate: boolean;
  attentionFactor?: number;
  mscale?: number;
  mscaleAllDim?: number;
}

export interface Rope {
  /** (headDim / 2) radians per position. */
  frequencies: Float64Array;
  /** Factor on cosine and sine. */
  scale: number;
}

export function plainRope(theta: number): RopeConfig {
  return {
    type: 'default',
    theta,
    factor: 1,
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalPositions: 0,
    betaFast: 32,
    betaSlow: 1,
    truncate: true,
  };
}

/** One wave: short ones stay, long ones stretch by the factor, those between are blended. */
function llama3(frequency: number, config: RopeConfig): number {
  const turns = (config.originalPositions * frequency) / (2 * Math.PI);
  const { lowFrequencyFactor: low, highFrequencyFactor: high, factor } = config;
  if (turns > high) return frequency;
  if (turns < low) return frequency / factor;
  const share = (turns - low) / (high - low);
  return (1 - share) * (frequency / factor) + share * frequency;
}

/** The (fractional) pair that makes this many turns over the original positions. */
function pairOfTurns(turns: number, headDim: number, config: RopeConfig): number {
  const wave = config.originalPositions / (2 * Math.PI * turns);
  return (headDim * Math.log(wave)) / (2 * Math.log(config.theta));
}

function yarnScale(config: RopeConfig): number {
  const magnitude = (weight: number) =>
    config.factor <= 1 ? 1 : 0.1 * weight * Math.log(config.factor) + 1;
  if (config.attentionFactor !== undefined) return config.attentionFactor;
  if (config.mscale && config.mscaleAllDim) {
    return magnitude(config.mscale) / magnitude(config.mscaleAllDim);
  }
  return magnitude(1);
}

export function makeRope(config: RopeConfig, headDim: number): Rope {
  const pairs = headDim / 2;
  const plain = Float64Array.from({ length: pairs }, (_, j) => config.theta ** (-j / pairs));
  const { factor } = config;
  switch (config.type) {
    case 'default':
      return { frequencies: plain, scale: 1 };
    case 'linear':
      return { frequencies: plain.map((frequency) => frequency / factor), scale: 1 };
    case 'llama3':
      return { frequencies: plain.map((frequency) => llama3(frequency, config)), scale: 1 };
    case 'yarn': {
      let first = pairOfTurns(config.betaFast, headDim, config);
      let last = pairOfTurns(config.betaSlow, headDim, config);
      if (config.truncate) {
        first = Math.floor(first);
        last = Math.ceil(last);
      }
      first = Math.max(first, 0);
      last = Math.min(last, headDim - 1);
      if (first === last) last += 0.001;
      const frequencies = plain.map((frequency, j) => {
        const stretched = Math.min(1, Math.max(0, (j - first) / (last - first)));
        return stretched * (frequency / factor) + (1 - stretched) * frequency;
      });
      return { frequencies, scale: yarnScale(config) };
    }
    default:
      throw new Error(`rope of type ${config.type}`);
  }
}

/** Turns one head's vector at `offset` to a position, in place. */
export function rotate(x: Float64Array, offset: number, position: number, rope: Rope): void {
  const pairs = rope.frequencies.length;
  for (let j = 0; j < pairs; j++) {
    const angle = position * (rope.frequencies[j] as number);
    const cosine = cos(angle) * rope.scale;
    const sine = sin(angle) * rope.scale;
    const a = x[offset + j] as number;
    const b = x[offset + pairs + j] as number;
    x[offset + j] = a * cosine - b * sine;
    x[offset + pairs + j] = b * cosine + a * sine;
  }
}
