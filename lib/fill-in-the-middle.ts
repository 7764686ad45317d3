/** Prompts for the text between a prefix and a suffix, in the model's own marks. */
import type { FillInTheMiddlePrompt, FillInTheMiddleText, FimOrder } from '../types/api.js';
import { anchorIds, type ModelAnchors } from './anchors.js';
import type { Codec } from './codec.js';
import { AnchorError } from './errors.js';
import {
  type FimFamily,
  type FimFormat,
  fimFamilies,
  marksOf,
  PREFIX,
  SUFFIX,
} from './fim-families.js';
import { invalid, type Parsed } from './options.js';
import type { Tokenizer } from './tokenizer/tokenizer.js';

/** What a model needs for it. */
export interface FimModel {
  readonly folder: string;
  readonly contextLength: number;
  readonly vocabSize: number;
  readonly eosTokenIds: readonly number[];
  readonly anchors: ModelAnchors;
}

type FimOptions = Parsed<'fillInTheMiddle'>;

/** A format whose marks are ids, and the ids that end the middle. */
interface Plan {
  parts: FimFormat;
  stops: readonly number[];
}

/** The order that a model is asked in by default; undefined where it has no marks for that. */
export function fimOrder(anchors: ModelAnchors): FimOrder | undefined {
  const family = anchors.tokenizer && familyOf(anchors.tokenizer);
  if (!family || problemOf(family, anchors) !== undefined) return undefined;
  return orderOf(family, anchors);
}

/**
 * @throws `ERR_MODEL_UNSUPPORTED` where there are no marks or none in that order,
 * `ERR_INVALID_ARGUMENT` for a format that is none, `ERR_CONTEXT_LENGTH`
 */
export async function fillInTheMiddle(
  { prefix, suffix }: FillInTheMiddleText,
  options: FimOptions,
  codec: Codec,
  model: FimModel,
): Promise<FillInTheMiddlePrompt> {
  const { signal } = options;
  const { parts, stops } = planOf(options, model);
  // Neither is parsed for control tokens. SentencePiece's blank goes before the prefix alone.
  const plain = { parseSpecial: false, addSpecial: false };
  const encode = (text: string, continued: boolean) =>
    codec.encode(text, { ...plain, insertAnchors: true, continued, signal });
  const [first, before, after] = await Promise.all([
    codec.encode('', {
      ...plain,
      addSpecial: true,
      insertAnchors: false,
      continued: false,
      signal,
    }),
    encode(prefix, false),
    encode(suffix, true),
  ]);
  const marks = marksOf(parts) as number[];
  const total = first.length + before.length + after.length + marks.length;
  if (total >= model.contextLength) {
    const message =
      `The prefix has ${before.length} tokens and the suffix ${after.length}, ${total} with the ` +
      `marks around them; the context of ${model.contextLength} has no room for the middle`;
    throw new AnchorError('ERR_CONTEXT_LENGTH', message);
  }
  const ids = new Uint32Array(total);
  ids.set(first);
  let at = first.length;
  for (const part of parts) {
    const own = part === PREFIX ? before : part === SUFFIX ? after : [part as number];
    ids.set(own, at);
    at += own.length;
  }
  const order = parts.indexOf(PREFIX) < parts.indexOf(SUFFIX) ? 'psm' : 'spm';
  return { ids, order, stopTokens: [...new Set([...model.eosTokenIds, ...stops, ...marks])] };
}

function planOf({ format, order }: FimOptions, model: FimModel): Plan {
  const { anchors, folder } = model;
  const tokenizer = anchors.tokenizer as Tokenizer;
  if (format) {
    if (order !== undefined) {
      throw invalid('option "order"', 'left out, since "format" has an order', order);
    }
    return { parts: format.map((part, i) => markId(part, i, model)), stops: [] };
  }
  const family = familyOf(tokenizer);
  const problem = family ? problemOf(family, anchors) : missingMarks();
  if (!family || problem !== undefined) {
    throw unsupported(`"${folder}" cannot fill in the middle: ${problem}`);
  }
  const wanted = order ?? orderOf(family, anchors);
  if (anchors.trained && wanted === 'psm') {
    throw unsupported('A model that was trained for anchors takes the suffix first: order "spm"');
  }
  const parts = family.formats[wanted];
  if (!parts)
    throw unsupported(`The marks of this model (${family.name}) have no order "${wanted}"`);
  const idOf = (part: string | number) =>
    part === PREFIX || part === SUFFIX ? part : (tokenizer.addedIdOf(String(part)) as number);
  const stops = family.stops.map((text) => tokenizer.addedIdOf(text));
  return { parts: parts.map(idOf), stops: stops.filter((id) => id !== undefined) };
}

function markId(part: string | number, i: number, { anchors, vocabSize }: FimModel) {
  if (part === PREFIX || part === SUFFIX) return part;
  const id = typeof part === 'number' ? part : anchors.tokenizer?.idOf(part);
  if (id !== undefined && id < vocabSize) return id;
  throw invalid(`option "format[${i}]"`, `a token of this model (ids 0 to ${vocabSize - 1})`, part);
}

/** The family whose marks are all there, those of its usual order. */
function familyOf(tokenizer: Tokenizer): FimFamily | undefined {
  return fimFamilies.find(({ order, formats }) =>
    marksOf(formats[order] as FimFormat).every(
      (mark) => tokenizer.addedIdOf(String(mark)) !== undefined,
    ),
  );
}

// The open line has to be the cursor's, which it only is where the prefix comes last.
function orderOf(family: FimFamily, { trained }: ModelAnchors): FimOrder {
  return trained && family.formats.spm ? 'spm' : family.order;
}

/** What keeps a model from using the marks that it has. */
function problemOf(family: FimFamily, anchors: ModelAnchors): string | undefined {
  const { trained, settings, tokenizer } = anchors;
  if (!trained) return undefined;
  if (!family.formats.spm) {
    return `it was trained for anchors, but its marks (${family.name}) have no suffix-first order`;
  }
  const known = anchorIds(settings.tokens, anchors);
  const stray = marksOf(family.formats.spm).filter(
    (mark) => !known.includes(tokenizer?.addedIdOf(String(mark)) as number),
  );
  if (stray.length === 0) return undefined;
  return `it was trained for anchors, and its marks are not among these: ${stray.join(', ')}`;
}

function missingMarks(): string {
  const marks = fimFamilies.map(({ order, formats }) =>
    marksOf(formats[order] as FimFormat).join(' '),
  );
  const looked = marks.join('; ');
  return `its tokenizer has none of these sets of marks: ${looked}. Option "format" names others`;
}

function unsupported(message: string): AnchorError {
  return new AnchorError('ERR_MODEL_UNSUPPORTED', message);
}
