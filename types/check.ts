/** The public interface of `checkWeights`. */

/** Options of `checkWeights`. */
export interface CheckWeightsOptions {
  signal?: AbortSignal;
}

/** What `checkWeights` found. */
export interface WeightCheck {
  /** Tensors and numbers that were read. */
  tensors: number;
  elements: number;
  /** Tensors that hold what is no finite number, and how many of each kind. */
  nonFinite: { name: string; nan: number; infinite: number }[];
}
