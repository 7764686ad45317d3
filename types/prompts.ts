/** Prompts that a model's folder says how to write: texts with a hole. */

/** A text with a hole: what is before it and what is behind it. Either may be empty. */
export interface FillInTheMiddleText {
  prefix: string;
  suffix: string;
}

/** Order of a text with a hole: prefix, suffix, middle or suffix, prefix, middle. */
export type FimOrder = 'psm' | 'spm';

/** Options of {@link Model.fillInTheMiddle}. */
export interface FillInTheMiddleOptions {
  /** @default {@link ModelInfo.fillInTheMiddle} */
  order?: FimOrder;
  /**
   * Instead of the marks that the vocabulary tells: texts or ids of tokens in order, with
   * `'{prefix}'` and `'{suffix}'` once each. `['<PRE>', '{prefix}', '<SUF>', '{suffix}', '<MID>']`.
   */
  format?: readonly (string | number)[];
}

/** A text with a hole as the model reads it: generate, and what comes is the middle. */
export interface FillInTheMiddlePrompt {
  /** For `append` or `complete`; with the tokenizer's first ids (BOS). */
  ids: Uint32Array;
  /** For `generate`: the model's ends of text and the marks that end a middle. */
  stopTokens: readonly number[];
  order: FimOrder;
}
