/** One text under several policies and types of the cache, against the model's own attention. */
import type {
  CompareOptions,
  Comparison,
  ComparisonCase,
  Model,
  ModelInfo,
} from '../../types/api.js';
import { AnchorError, throwIfAborted } from '../errors.js';
import { ModelHandle } from '../model.js';
import { checkIds, type Parsed, parseCases, parseOptions } from '../options.js';
import { ComparedText, ComparisonRun, type NamedCase } from './compare-run.js';

const referenceName = 'own attention';

/**
 * Reads one text or list of ids under every case and compares with the reference, the model's own
 * attention: for a model trained for anchors its anchor policy, for any other the full cache. All
 * sessions read the same ids, chunk by chunk in turns, so memory grows with the text only by the
 * caches and about 20 bytes a token and case. When the promise settles all sessions are disposed.
 * @throws `ERR_INVALID_ARGUMENT`, `ERR_NO_TOKENIZER`, `ERR_CONTEXT_LENGTH`, `ERR_OUT_OF_MEMORY`,
 * `ERR_DISPOSED`, the signal's reason; `ERR_MODEL_INVALID` where logits are not finite numbers
 */
export async function compare(
  model: Model,
  prompt: string | ArrayLike<number>,
  cases: readonly ComparisonCase[],
  options?: CompareOptions,
): Promise<Comparison> {
  const { insertId, codec } = ModelHandle.partsOf(model);
  const named = nameAll(parseCases(cases));
  const settings = parseOptions.compare(options);
  throwIfAborted(settings.signal);
  const ids = await readIds(model, prompt, settings);
  throwIfAborted(settings.signal);
  const text = new ComparedText(ids, insertId, codec);
  using run = new ComparisonRun(model, text, [{ name: referenceName }, ...named], settings);
  return await run.finish();
}

function nameAll(cases: readonly ComparisonCase[]): NamedCase[] {
  const named = cases.map((one) => ({ ...one, name: one.name ?? nameOf(one) }));
  const names = named.map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) < i);
  if (twice === undefined) return named;
  const message = `Expected the names of the cases to differ, but two are ${JSON.stringify(twice)}`;
  throw new AnchorError('ERR_INVALID_ARGUMENT', message);
}

/** `window:512,4, int8`, `anchor window=64`: what a case says, in the order in which it says it. */
export function nameOf({ policy, cacheType }: ComparisonCase): string {
  return [policy ? policyName(policy) : referenceName, ...(cacheType ? [cacheType] : [])].join(
    ', ',
  );
}

function policyName(policy: NonNullable<ComparisonCase['policy']>): string {
  const { kind, ...words } = policy;
  const given = Object.entries(words).filter(([, value]) => value !== undefined);
  const spelt = given.map(([word, value]) => ` ${word}=${value}`);
  if (policy.kind !== 'window') return [kind, ...spelt].join('');
  const { size, sinks, denseLayers } = policy;
  const dense = denseLayers?.length ? ` denseLayers=${denseLayers}` : '';
  return `window:${[size, ...(sinks === undefined ? [] : [sinks])]}${dense}`;
}

async function readIds(
  model: Model,
  prompt: string | ArrayLike<number>,
  { parseSpecial = false, decodeTokens = 0, signal }: Parsed<'compare'>,
): Promise<Uint32Array> {
  const admit = (count: number) => admitTokens(count, decodeTokens, model.info);
  if (typeof prompt !== 'string') {
    return checkIds(prompt, model.info.vocabSize, 'prompt', admit);
  }
  const ids = await model.tokenize(prompt, { parseSpecial, signal });
  admit(ids.length);
  return ids;
}

/** @throws `ERR_CONTEXT_LENGTH` */
export function admitTokens(count: number, decodeTokens: number, { contextLength }: ModelInfo) {
  if (count + decodeTokens <= contextLength) return;
  const more = decodeTokens > 0 ? ` and ${decodeTokens} more are to be generated` : '';
  const held = `the model's context is ${contextLength}`;
  throw new AnchorError('ERR_CONTEXT_LENGTH', `The text has ${count} tokens${more}, but ${held}`);
}
