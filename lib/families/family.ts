/** What a model class adds to the common config: its facts, and names and shapes of its tensors. */
import type { ModelConfig, ModelFeatures, ModelSizes } from '../config.js';
import type { Fields } from '../fields.js';
import type { Json } from '../files.js';

/** A tensor that must be in the weight files. */
export interface ExpectedTensor {
  /** The canonical one, see `types/native.ts`. */
  name: string;
  /** (out, in) of a matrix, (size) of a vector. */
  shape: readonly number[];
  /** Where the file has it under another name or among other rows. */
  source?: TensorSource;
}

/** A tensor of the weight files, and the rows of it that are meant. */
export interface TensorSource {
  name: string;
  /** As in the file; the expected tensor's shape where left out. */
  shape?: readonly number[];
  /** First row and count of rows, in order, all dimensions but the last counted as rows. */
  rows?: readonly (readonly [first: number, count: number])[];
}

/** Facts of one model class. */
export interface Family {
  /** As in `architectures` of config.json. */
  readonly architecture: string;
  /** As in `model_type`, for configs without `architectures`. */
  readonly modelType: string;
  /** The name that config.json gives the activation; others are refused unless they mean it too. */
  readonly activation: string;
  /** Object of config.json that holds the sizes: multimodal wrappers nest them. */
  readonly section?: string;
  /** How config.json spells a common key. */
  readonly names?: Readonly<Record<string, string>>;
  /** What transformers takes for keys that are missing (not null), by their names in the file. */
  readonly defaults?: Json;
  /** Width of the MLP for configs that leave it open. */
  intermediateSize?(hiddenSize: number): number;
  /** What is not as in the Llama class. */
  features?(fields: Fields, sizes: ModelSizes): Partial<ModelFeatures>;
  /** `has` tells whether the weight files hold a tensor, for classes with several spellings. */
  tensors(config: ModelConfig, has: (name: string) => boolean): ExpectedTensor[];
  /** Whether a tensor that is in a file, but not expected, means nothing. */
  ignores(name: string, config: ModelConfig): boolean;
}
