/** Which rows a session's cache keeps, and in which type. */

/**
 * Type of the rows in a session's cache. `f16` holds magnitudes up to 65504, larger ones become
 * that; `int8` has one scale for each key and value of a head.
 */
export type CacheType = 'f32' | 'bf16' | 'f16' | 'int8';

/**
 * How a model was trained for anchors, or how to run it as if. Replaces what the folder's
 * `config.json` says, key by key. docs/anchors.md explains every word.
 */
export interface AnchorOptions {
  /** Anchor ids, or `'newline'`: every id whose bytes contain a newline, and the control tokens. */
  tokens?: readonly number[] | 'newline';
  /**
   * Id or text of the token to insert after every newline; `null`: nothing is inserted.
   * @default `<ANCHOR>` where the tokenizer has it and it is an anchor
   */
  insert?: number | string | null;
  /** Four blanks become a tab before encoding, undone in generated text. @default `'none'` */
  indent?: 'none' | 'tab4';
  /** Layers l with `l % per === 0` are dense; `'none'`: no layer is. */
  per?: number | 'none';
  /** Dense layers by number; instead of `per`. */
  denseLayers?: readonly number[];
  /** Layer whose rows the later ones also attend to (`anchor_layer`); `null`: none. */
  sourceLayer?: number | null;
  /** Consumers of the source layer are the layers above this one (`multilayer`). */
  consumersAbove?: number;
  /**
   * Spread an anchor's key positions over its line, head by head.
   * @default true for models trained for anchors, else false
   */
  multiHeadPositions?: boolean;
  /** Neighbours that anchored layers see beside the line, the token itself included. @default 0 */
  window?: number;
  /** First positions that are always kept. @default 1 */
  sinks?: number;
}

/** Which rows a session's cache keeps. */
export type CachePolicy =
  /** Every row in every layer. For a model trained for anchors this is the approximation. */
  | { kind: 'full' }
  /** The last `size` tokens and the first `sinks`, but in dense layers all (StreamingLLM). */
  | { kind: 'window'; size: number; sinks?: number; denseLayers?: readonly number[] }
  /** AnchorCoder: anchors and the open line in all layers but the dense ones. */
  | ({ kind: 'anchor'; line?: boolean } & Omit<AnchorOptions, 'insert' | 'indent'>)
  /** AnLLM's mask: as `anchor`, but an anchor sees its own line only, and no layer is dense. */
  | { kind: 'ansan'; tokens?: readonly number[] | 'newline' };
