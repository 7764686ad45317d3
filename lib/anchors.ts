/**
 * How a model was trained for anchors: from `config.json`, with the caller's options on top.
 *
 * Two spellings are read. AnchorCoder's own keys stand beside the sizes:
 *
 * - `per`: layers whose number it divides are dense; `"none"`: no layer is
 * - `anchor_layer`, `multilayer`: the source layer, and the layer above which its consumers are
 * - `anchor_token_ids`: ids that are anchors; without it `<ANCHOR>` and the BOS id are
 *
 * A block `"anchors": { ... }` has the words of {@link AnchorOptions} in snake case (`tokens`,
 * `insert`, `indent`, `per`, `dense_layers`, `source_layer`, `consumers_above`,
 * `multi_head_positions`, `window`, `sinks`) and wins, key by key. Either makes the model one that
 * was trained for anchors.
 */
import { z } from 'zod';
import type { AnchorOptions } from '../types/api.js';
import { AnchorError } from './errors.js';
import type { Json } from './files.js';
import { anchorShape } from './options.js';
import type { Tokenizer } from './tokenizer/tokenizer.js';
import { check, expected, type Scope, strict } from './validate.js';

const anchorText = '<ANCHOR>';

/** Number of layers and ids that settings have to fit. */
export interface Sizes {
  layers: number;
  vocabSize: number;
}

/** Anchor settings of a loaded model. */
export interface ModelAnchors extends Sizes {
  /** Whether the config has anchor settings. */
  trained: boolean;
  /** Whether the caller's options have anchor settings. */
  asked: boolean;
  /** Config and options, merged and checked; what neither names is missing. */
  settings: AnchorOptions;
  /** Id that is inserted after every newline, -1: none. */
  insertId: number;
  /** Four blanks become a tab. */
  indent: 'none' | 'tab4';
  bosTokenId: number | undefined;
  tokenizer: Tokenizer | undefined;
}

const configScope: Scope = {
  thing: 'config.json key',
  whole: 'config.json',
  code: 'ERR_MODEL_INVALID',
};

const snakeShape = Object.fromEntries(
  Object.entries(anchorShape).map(([key, schema]) => [snake(key), schema]),
);
const blockSchema = strict({ anchors: strict(snakeShape) });

const oneId = anchorShape.tokens.or(z.int().min(0));
const keysSchema = z.object({
  per: anchorShape.per,
  anchor_layer: anchorShape.sourceLayer,
  multilayer: anchorShape.consumersAbove,
  anchor_token_ids: oneId,
});

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function camel(name: string): string {
  return name.replace(/_[a-z]/g, (pair) => pair.slice(1).toUpperCase());
}

/** Anchor settings of `config.json`, undefined where there are none. @throws `ERR_MODEL_INVALID` */
export function readAnchorConfig(json: Json): AnchorOptions | undefined {
  const present = Object.entries(json).filter(([, value]) => value !== null);
  const known = Object.fromEntries(present.filter(([key]) => Object.hasOwn(keysSchema.shape, key)));
  const block = json.anchors ?? undefined;
  if (Object.keys(known).length === 0 && block === undefined) return undefined;

  const keys = check(keysSchema, known, configScope);
  const ids = keys.anchor_token_ids;
  const own: AnchorOptions = {
    per: keys.per,
    sourceLayer: keys.anchor_layer,
    consumersAbove: keys.multilayer,
    tokens: typeof ids === 'number' ? [ids] : ids,
  };
  if (block === undefined) return merge({}, own);
  const { anchors } = check(blockSchema, { anchors: block }, configScope);
  const words = Object.entries(anchors).map(([key, value]) => [camel(key), value]);
  return merge(merge({}, own), Object.fromEntries(words) as AnchorOptions);
}

/** `over` on `base`, key by key; the two ways to name dense layers replace each other. */
export function merge(base: AnchorOptions, over: AnchorOptions): AnchorOptions {
  const given = Object.entries(over).filter(([, value]) => value !== undefined);
  const result: AnchorOptions = { ...base };
  if (over.per !== undefined || over.denseLayers !== undefined) {
    delete result.per;
    delete result.denseLayers;
  }
  return Object.assign(result, Object.fromEntries(given));
}

/** Sentence that says what contradicts the model's sizes, undefined when nothing does. */
export function problemOf(settings: AnchorOptions, { layers, vocabSize }: Sizes) {
  const { per, denseLayers, sourceLayer, consumersAbove, tokens } = settings;
  if (per !== undefined && denseLayers !== undefined) {
    return 'Expected either "per" or "denseLayers", but received both';
  }
  const inRange = (layer: number) => layer < layers;
  if (denseLayers) {
    const fine = denseLayers.every(inRange) && new Set(denseLayers).size === denseLayers.length;
    if (!fine) {
      return expected('"denseLayers"', `different layers from 0 to ${layers - 1}`, denseLayers);
    }
  }
  if (typeof sourceLayer === 'number') {
    if (!inRange(sourceLayer)) {
      return expected('"sourceLayer"', `a layer from 0 to ${layers - 1}`, sourceLayer);
    }
    if (consumersAbove !== undefined && consumersAbove < sourceLayer) {
      const name = '"consumersAbove"';
      return expected(name, `the source layer (${sourceLayer}) or above`, consumersAbove);
    }
  }
  if (Array.isArray(tokens)) {
    const id = tokens.find((token: number) => token >= vocabSize);
    if (id !== undefined) return expected('"tokens"', `ids from 0 to ${vocabSize - 1}`, id);
  }
  return undefined;
}

/**
 * Merges and checks the settings of config and caller, and finds the token to insert.
 * @throws `ERR_MODEL_INVALID` for the config's settings, `ERR_INVALID_ARGUMENT` for the options'
 */
export function resolveAnchors(
  json: Json,
  options: AnchorOptions | undefined,
  sizes: Sizes,
  bosTokenId: number | undefined,
  tokenizer: Tokenizer | undefined,
): ModelAnchors {
  const config = readAnchorConfig(json);
  const inConfig = config && problemOf(config, sizes);
  if (inConfig) throw new AnchorError('ERR_MODEL_INVALID', `config.json: ${inConfig}`);
  // Of the options alone: merging would hide that both ways to name dense layers are there.
  const settings = merge(config ?? {}, options ?? {});
  const problem = (options && problemOf(options, sizes)) ?? problemOf(settings, sizes);
  if (problem) throw new AnchorError('ERR_INVALID_ARGUMENT', `${problem} (option "anchors")`);
  if (config && settings.per === undefined && settings.denseLayers === undefined) {
    const message = 'config.json has anchor settings, but neither "per" nor dense layers';
    throw new AnchorError('ERR_MODEL_INVALID', message);
  }
  const anchors: ModelAnchors = {
    ...{ layers: sizes.layers, vocabSize: sizes.vocabSize },
    trained: config !== undefined,
    asked: options !== undefined,
    settings,
    insertId: -1,
    indent: settings.indent ?? 'none',
    bosTokenId,
    tokenizer,
  };
  anchors.insertId = findInserted(anchors, options?.insert !== undefined);
  return anchors;
}

function findInserted(anchors: ModelAnchors, isOption: boolean): number {
  const { settings, tokenizer, vocabSize } = anchors;
  const { insert } = settings;
  if (insert === null) return -1;
  if (insert === undefined) {
    const id = tokenizer?.idOf(anchorText);
    // Not where the settings say that it is no anchor.
    return id !== undefined && anchorIds(settings.tokens, anchors).includes(id) ? id : -1;
  }
  const id = typeof insert === 'number' ? insert : tokenizer?.idOf(insert);
  if (id === undefined || id >= vocabSize) {
    const where = tokenizer ? `of this tokenizer (ids 0 to ${vocabSize - 1})` : 'of a tokenizer';
    const problem = expected('"insert"', `a token ${where}`, insert);
    if (isOption) throw new AnchorError('ERR_INVALID_ARGUMENT', problem);
    throw new AnchorError('ERR_MODEL_INVALID', `config.json: ${problem}`);
  }
  return id;
}

/**
 * The ids that `tokens` means, ascending. Undefined means `<ANCHOR>` and BOS, or every newline for
 * a model that has no `<ANCHOR>` and was not trained for anchors.
 * @throws `ERR_NO_TOKENIZER`, `ERR_MODEL_INVALID`
 */
export function anchorIds(tokens: AnchorOptions['tokens'], anchors: ModelAnchors): Uint32Array {
  const { tokenizer, trained, bosTokenId } = anchors;
  if (Array.isArray(tokens)) return sorted(tokens);
  if (tokens === undefined) {
    const id = tokenizer?.idOf(anchorText);
    if (id !== undefined) return sorted(bosTokenId === undefined ? [id] : [id, bosTokenId]);
    if (trained) {
      const message =
        'config.json has anchor settings without "anchor_token_ids", and there is no token ' +
        `${anchorText} in the tokenizer; name the ids in the option "anchors.tokens"`;
      throw new AnchorError('ERR_MODEL_INVALID', message);
    }
  }
  if (!tokenizer) {
    const message = 'Anchors at newlines need the tokenizer, which this model folder lacks';
    throw new AnchorError('ERR_NO_TOKENIZER', `${message}; name the ids instead`);
  }
  const control: number[] = [];
  for (let id = 0; id < anchors.vocabSize; ++id) if (tokenizer.isControl(id)) control.push(id);
  return sorted([...tokenizer.newlines().containing, ...control]);
}

function sorted(ids: readonly number[]): Uint32Array {
  return Uint32Array.from(new Set(ids)).sort();
}
