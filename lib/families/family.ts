/** What a model class adds to the common config: names and shapes of its tensors. */
import type { ModelConfig } from '../config.js';

/** A tensor that must be in the weight files, by its name there. */
export interface ExpectedTensor {
  name: string;
  /** (out, in) of a matrix, (size) of a vector. */
  shape: readonly number[];
}

/** Facts of one model class. */
export interface Family {
  /** As in `architectures` of config.json. */
  readonly architecture: string;
  /** As in `model_type`, for configs without `architectures`. */
  readonly modelType: string;
  /** The `hidden_act` that the engine computes for this class. */
  readonly activation: string;
  tensors(config: ModelConfig): ExpectedTensor[];
  /** Whether a tensor that is in a file, but not expected, means nothing. */
  ignores(name: string, config: ModelConfig): boolean;
}
