/**
 * Reads `generation_config.json`: the ids that begin and end a text, and how its authors would have
 * tokens chosen. The ids must be right, as a text that never ends is a wrong result; a sampling
 * value that cannot be meant is left out, with a warning.
 */
import { z } from 'zod';
import type { GenerationDefaults } from '../types/api.js';
import type { ModelConfig } from './config.js';
import { Fields } from './fields.js';
import type { Json } from './files.js';
import { samplingShape } from './options.js';
import { expected } from './validate.js';

const file = 'generation_config.json';

/** What `generation_config.json` says. */
export interface GenerationSettings {
  bosTokenId: number | undefined;
  eosTokenIds: number[];
  generationDefaults: GenerationDefaults;
  generationWarnings: string[];
}

/** The file's words for options of `generate`; others, such as `max_length`, are not read. */
const words: readonly [word: string, option: keyof GenerationDefaults][] = [
  ['max_new_tokens', 'maxTokens'],
  ['temperature', 'temperature'],
  ['top_k', 'topK'],
  ['top_p', 'topP'],
  ['min_p', 'minP'],
  ['repetition_penalty', 'repetitionPenalty'],
];

/** `json` is undefined where there is no file. @throws `ERR_MODEL_INVALID` for wrong ids */
export function readGeneration(json: Json | undefined, config: ModelConfig): GenerationSettings {
  const fields = new Fields(json ?? {}, file);
  // As in transformers the file's ids replace those of config.json, they are not added to them.
  const eos = fields.ids('eos_token_id', config.vocabSize);
  const [bos = config.bosTokenId] = fields.ids('bos_token_id', config.vocabSize);
  const warnings: string[] = [];
  return {
    bosTokenId: bos,
    eosTokenIds: eos.length > 0 ? eos : config.eosTokenIds,
    generationDefaults: json ? readDefaults(json, warnings) : {},
    generationWarnings: warnings,
  };
}

function readDefaults(json: Json, warnings: string[]): GenerationDefaults {
  const read = <T>(word: string, schema: z.ZodType<T>): T | undefined => {
    const value = json[word] ?? undefined;
    if (value === undefined) return undefined;
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    const message = result.error.issues[0]?.message ?? 'something else';
    warnings.push(`${expected(`"${word}" in ${file}`, message, value)}; it is ignored`);
    return undefined;
  };
  const samples = read('do_sample', z.boolean({ error: 'a boolean' })) ?? false;
  const defaults: { -readonly [K in keyof GenerationDefaults]: number } = {};
  for (const [word, option] of words) {
    const value = read(word, samplingShape[option]);
    if (value !== undefined) defaults[option] = value;
  }
  // Without sampling transformers reads no temperature; with it, 1 where none is named.
  if (samples) defaults.temperature ??= 1;
  else delete defaults.temperature;
  return defaults;
}
