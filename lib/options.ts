/** What each call accepts. Ranges that depend on a model are checked where the model is known. */
import { z } from 'zod';
import type {
  AnchorOptions,
  AppendOptions,
  CachePolicy,
  ChatMessage,
  ChatOptions,
  Chunk,
  CompareOptions,
  ComparisonCase,
  CompleteOptions,
  EstimateOptions,
  FillInTheMiddleOptions,
  FillInTheMiddleText,
  GenerateOptions,
  LoadOptions,
  Session,
  SessionOptions,
  SnapshotOptions,
  TokenizeOptions,
} from '../types/api.js';
import type { CheckWeightsOptions } from '../types/check.js';
import { AnchorError } from './errors.js';
import { PREFIX, SUFFIX } from './fim-families.js';
import { check, expected, integer, oneOf, optionScope, strict } from './validate.js';

const maxId = 2 ** 32 - 1;
const maxCount = 2 ** 31 - 1;

const boolean = z.boolean({ error: 'a boolean' });
const signal = z.custom<AbortSignal>(isSignal, { error: 'an AbortSignal' });

// By its shape: a test runner or an older polyfill has a class of its own.
function isSignal(value: unknown): boolean {
  if (!isObject(value)) return false;
  const { aborted, addEventListener, removeEventListener } = value as AbortSignal;
  const methods = [addEventListener, removeEventListener];
  return typeof aborted === 'boolean' && methods.every((each) => typeof each === 'function');
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null;
}

function callback<F>() {
  return z.custom<F>((value) => typeof value === 'function', { error: 'a function' });
}

function number(min: number, max = Number.POSITIVE_INFINITY) {
  const error = `a number from ${min} ${max === Number.POSITIVE_INFINITY ? 'and up' : `to ${max}`}`;
  return z.number({ error }).min(min, { error }).max(max, { error });
}

function positive(max = Number.POSITIVE_INFINITY) {
  const error = `a number above 0${max === Number.POSITIVE_INFINITY ? '' : ` and up to ${max}`}`;
  return z.number({ error }).positive({ error }).max(max, { error });
}

function id(error = `an integer from 0 to ${maxId}`) {
  return z.int({ error }).min(0, { error }).max(maxId, { error });
}

const ids = z.array(id(), { error: 'a list of token ids' });
const layers = z.array(integer(0), { error: 'a list of layer numbers' });
const tokens = z.union([z.literal('newline'), ids], {
  error: 'a list of token ids or "newline"',
});
const perOrNone = integer(1, Number.MAX_SAFE_INTEGER, ' or "none"');
const per = z.union([z.literal('none'), perOrNone], {
  error: 'an integer from 1 and up or "none"',
});

const nullable = z.union([z.null(), integer(0, Number.MAX_SAFE_INTEGER, ' or null')], {
  error: 'an integer from 0 and up or null',
});

/** The words of an anchor setting that a cache policy shares. */
const policyShape = {
  tokens: tokens.optional(),
  per: per.optional(),
  denseLayers: layers.optional(),
  sourceLayer: nullable.optional(),
  consumersAbove: integer(0).optional(),
  multiHeadPositions: boolean.optional(),
  window: integer(0, maxCount).optional(),
  sinks: integer(1, maxCount).optional(),
};

const insertError = 'a token id, the text of a token or null';

/** All words of {@link AnchorOptions}; config.json's block has the same in snake case. */
export const anchorShape = {
  ...policyShape,
  insert: z
    .union([z.null(), z.string().min(1, insertError), id(insertError)], { error: insertError })
    .optional(),
  indent: oneOf('none', 'tab4').optional(),
};

const anchorOptions = strict(anchorShape) satisfies z.ZodType<AnchorOptions>;

const kinds = 'one of "full", "window", "anchor", "ansan"';

export const policySchema = z.discriminatedUnion(
  'kind',
  [
    strict({ kind: z.literal('full') }),
    strict({
      kind: z.literal('window'),
      size: integer(1, maxCount),
      sinks: integer(0, maxCount).optional(),
      denseLayers: layers.optional(),
    }),
    strict({ kind: z.literal('anchor'), line: boolean.optional(), ...policyShape }),
    strict({ kind: z.literal('ansan'), tokens: tokens.optional() }),
  ],
  // Said of the object and of its `kind`: zod has one message for both.
  {
    error: (issue) =>
      issue.code === 'invalid_union' ? kinds : `an object whose "kind" is ${kinds}`,
  },
) satisfies z.ZodType<CachePolicy>;

export const cacheType = oneOf('f32', 'bf16', 'f16', 'int8');

const pathError = 'the path of a folder';
const path = z.string({ error: pathError }).min(1, pathError);

const loadSchema = strict({
  device: oneOf('auto', 'cpu').optional(),
  threads: integer(1, 1024).optional(),
  compute: oneOf('exact', 'bf16').optional(),
  anchors: anchorOptions.optional(),
  adapter: path.optional(),
  generationConfig: oneOf('model', 'ignore').optional(),
  maxMemory: integer(1).optional(),
  prefixCache: strict({ bytes: integer(1) }).optional(),
  signal: signal.optional(),
}) satisfies z.ZodType<LoadOptions>;

const estimateSchema = strict({
  context: integer(1, maxCount).optional(),
  policy: policySchema.optional(),
  cacheType: cacheType.optional(),
  anchors: anchorOptions.optional(),
  anchorShare: number(0, 1).optional(),
}) satisfies z.ZodType<EstimateOptions>;

const checkWeightsSchema = strict({
  signal: signal.optional(),
}) satisfies z.ZodType<CheckWeightsOptions>;

const sessionShape = {
  contextLength: integer(1, maxCount).optional(),
  policy: policySchema.optional(),
  cacheType: cacheType.optional(),
  // What it is, and which model's, its class knows.
  from: z.custom<Session>(isObject, { error: 'a session' }).optional(),
  at: integer(0, maxCount).optional(),
  prefixCache: boolean.optional(),
};

const sessionSchema = strict(sessionShape) satisfies z.ZodType<SessionOptions>;

const tokenizeSchema = strict({
  parseSpecial: boolean.optional(),
  addSpecial: boolean.optional(),
  insertAnchors: boolean.optional(),
  signal: signal.optional(),
}) satisfies z.ZodType<TokenizeOptions>;

const snapshotSchema = strict({
  signal: signal.optional(),
}) satisfies z.ZodType<SnapshotOptions>;

const appendSchema = strict({
  logits: oneOf('none', 'last', 'all').optional(),
  parseSpecial: boolean.optional(),
  onProgress: callback<NonNullable<AppendOptions['onProgress']>>().optional(),
  signal: signal.optional(),
}) satisfies z.ZodType<AppendOptions>;

const seedError = 'an integer from 0 to 2^53 - 1, or a bigint from 0n to 2^64 - 1';
const seed = z.union(
  [
    z.int({ error: seedError }).min(0, seedError),
    z
      .bigint()
      .min(0n, seedError)
      .max(2n ** 64n - 1n, seedError),
  ],
  { error: seedError },
);

const stopError = 'a text or a list of texts, none of them empty';
const elementError = 'a text that is not empty';
const element = z.string({ error: elementError }).min(1, elementError);
const stop = z.union([z.string().min(1, stopError), z.array(element)], { error: stopError });

const logprobsError = 'a boolean or an integer from 0 and up';
const logprobs = z.union([boolean, z.int({ error: logprobsError }).min(0, logprobsError)], {
  error: logprobsError,
});

/** How tokens are chosen; generation_config.json may say it too. */
export const samplingShape = {
  maxTokens: integer(1, maxCount),
  temperature: number(0),
  topK: integer(0, maxCount),
  topP: positive(1),
  minP: number(0, 1),
  repetitionPenalty: positive(),
};

const generateShape = {
  ...z.object(samplingShape).partial().shape,
  seed: seed.optional(),
  stop: stop.optional(),
  stopTokens: ids.optional(),
  logprobs: logprobs.optional(),
  anchors: oneOf('forced', 'sampled').optional(),
  signal: signal.optional(),
};

const generateSchema = strict(generateShape) satisfies z.ZodType<GenerateOptions>;

const completeSchema = strict({
  ...generateShape,
  ...sessionShape,
  suffix: z.string({ error: 'a string' }).optional(),
  onChunk: callback<(chunk: Chunk) => void>().optional(),
}) satisfies z.ZodType<CompleteOptions>;

const fimTextSchema = strict({
  prefix: z.string({ error: 'a string' }),
  suffix: z.string({ error: 'a string' }),
}) satisfies z.ZodType<FillInTheMiddleText>;

const formatError = 'token texts or ids with "{prefix}" and "{suffix}" once each';
const formatParts = z.array(z.union([z.string().min(1), id()]), { error: formatError });

const fimSchema = strict({
  order: oneOf('psm', 'spm').optional(),
  format: formatParts
    .refine(
      (parts) => [PREFIX, SUFFIX].every((text) => parts.filter((p) => p === text).length === 1),
      { error: formatError },
    )
    .optional(),
  signal: signal.optional(),
}) satisfies z.ZodType<FillInTheMiddleOptions>;

const messageError = 'a list of one message or more, each an object with a "role"';
const roleSchema = z.looseObject({ role: z.string({ error: 'a string' }) }, { error: 'an object' });
const chatSchema = strict({
  messages: z.array(roleSchema, { error: messageError }).min(1, messageError),
});

const reserved = ['messages', 'tools', 'add_generation_prompt'];
const variablesError = `an object by name, without ${reserved.join(', ')}`;

const chatOptionsSchema = strict({
  template: z.string({ error: 'a string' }).optional(),
  templateText: z.string({ error: 'a string' }).optional(),
  addGenerationPrompt: boolean.optional(),
  tools: z.array(z.looseObject({}, { error: 'an object' }), { error: 'a list' }).optional(),
  variables: z
    .record(z.string(), z.unknown(), { error: variablesError })
    .refine((names) => !reserved.some((name) => Object.hasOwn(names, name)), variablesError)
    .optional(),
  signal: signal.optional(),
}) satisfies z.ZodType<ChatOptions>;

const compareSchema = strict({
  parseSpecial: boolean.optional(),
  chunkTokens: integer(1, maxCount).optional(),
  decodeTokens: integer(2, maxCount).optional(),
  onProgress: callback<NonNullable<CompareOptions['onProgress']>>().optional(),
  signal: signal.optional(),
}) satisfies z.ZodType<CompareOptions>;

const caseSchema = strict({
  name: element.optional(),
  policy: policySchema.optional(),
  cacheType: cacheType.optional(),
}) satisfies z.ZodType<ComparisonCase>;

const casesError = 'a list of one case or more';
const argumentsSchema = strict({
  cases: z.array(caseSchema, { error: casesError }).min(1, casesError),
});
const argumentScope = {
  thing: 'argument',
  whole: 'arguments',
  code: 'ERR_INVALID_ARGUMENT',
} as const;

/** The cases of a comparison, checked one by one. @throws `ERR_INVALID_ARGUMENT` */
export function parseCases(cases: unknown): ComparisonCase[] {
  return check(argumentsSchema, { cases }, argumentScope).cases;
}

/** Options of every call, checked. @throws `ERR_INVALID_ARGUMENT` with a sentence per problem */
export const parseOptions = {
  load: (options: unknown = {}) => check(loadSchema, options),
  estimate: (options: unknown = {}) => check(estimateSchema, options),
  checkWeights: (options: unknown = {}) => check(checkWeightsSchema, options),
  session: (options: unknown = {}) => check(sessionSchema, options),
  tokenize: (options: unknown = {}) => check(tokenizeSchema, options),
  append: (options: unknown = {}) => check(appendSchema, options),
  snapshot: (options: unknown = {}) => check(snapshotSchema, options),
  generate: (options: unknown = {}) => check(generateSchema, options),
  complete: (options: unknown = {}) => check(completeSchema, options),
  compare: (options: unknown = {}) => check(compareSchema, options),
  fillInTheMiddle: (options: unknown = {}) => check(fimSchema, options),
  chat: (options: unknown = {}) => check(chatOptionsSchema, options),
};

/** Checked options of {@link parseOptions}. */
export type Parsed<K extends keyof typeof parseOptions> = ReturnType<(typeof parseOptions)[K]>;

/** Checks the messages of a chat. @throws `ERR_INVALID_ARGUMENT` */
export function checkMessages(messages: unknown): ChatMessage[] {
  return check(chatSchema, { messages }, argumentScope).messages;
}

/** Checks a text with a hole. @throws `ERR_INVALID_ARGUMENT` */
export function checkFimText(value: unknown): FillInTheMiddleText {
  return check(fimTextSchema, value, { ...optionScope, thing: 'text', whole: 'the texts' });
}

/** An `ERR_INVALID_ARGUMENT` of the usual form. */
export function invalid(name: string, expectation: string, received: unknown): AnchorError {
  return new AnchorError('ERR_INVALID_ARGUMENT', expected(name, expectation, received));
}

/** Checks a text argument. @throws `ERR_INVALID_ARGUMENT` */
export function checkText(value: unknown, name: string): string {
  if (typeof value === 'string') return value;
  throw invalid(name, 'a string', value);
}

/** Checks the folder argument. @throws `ERR_INVALID_ARGUMENT` */
export function checkFolder(value: unknown): string {
  if (typeof value === 'string' && value !== '' && !value.includes('\0')) return value;
  throw invalid('the folder', 'the path of a model folder', value);
}

/**
 * Copies ids and checks each. `name` is the end of "id 3 of"; `admit` may refuse their number.
 * @throws `ERR_INVALID_ARGUMENT` naming index and value
 */
export function checkIds(
  value: unknown,
  vocabSize: number,
  name: string,
  admit?: (count: number) => void,
): Uint32Array {
  const list = value as ArrayLike<number>;
  const count: unknown = typeof value === 'object' && value !== null ? list.length : undefined;
  if (typeof count !== 'number' || !Number.isInteger(count) || count < 0) {
    throw invalid(`the ${name}`, 'a list of token ids', value);
  }
  admit?.(count);
  // The length may be a lie: the first hole ends the loop before memory is taken for the rest.
  for (let i = 0; i < count; ++i) {
    const id: unknown = list[i];
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= vocabSize) {
      throw invalid(`id ${i} of the ${name}`, `an integer from 0 to ${vocabSize - 1}`, id);
    }
  }
  return Uint32Array.from(list);
}
