/** Reads a folder's tokenizer files and merges what they say about the tokens beside the text. */
import { join } from 'node:path';
import { AnchorError } from '../errors.js';
import { readJsonSync } from '../files.js';
import { fimTokens } from '../fim-families.js';
import { isJson, type Json } from '../json.js';
import { label, quote, show } from '../show.js';

export type { Json } from '../json.js';

// The largest known (Gemma 3) has 33 MB and 2 million values: a quarter of a million tokens.
const tokenizerRules = { bytes: 64 << 20, marks: 1 << 22 };
// transformers used to list every added token there once more.
const otherRules = { bytes: 16 << 20 };

/** A token outside the ordinary vocabulary. */
export interface AddedToken {
  id: number;
  content: string;
  /** Control token: no part of the text. */
  special: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
}

export interface TokenizerFiles {
  /** tokenizer.json as it stands; `model` has been checked. */
  tokenizer: Json;
  model: BpeModel;
  added: AddedToken[];
  /** Ids that the tokenizer puts in front of a text. */
  first: number[];
  /** `chat_template` of tokenizer_config.json, whatever it is. */
  chatTemplate: unknown;
  /** Texts of special tokens by the name of their role, such as `bos_token`. */
  specials: Record<string, string>;
}

/** `model` of tokenizer.json. */
export interface BpeModel {
  vocabulary: Map<string, number>;
  merges: [string, string][];
  unknown: string | undefined;
  fuseUnknown: boolean;
  byteFallback: boolean;
  ignoreMerges: boolean;
}

const ANCHOR = '<ANCHOR>';

/** Files that hold a vocabulary in a form that this package does not read. */
export const OTHER_VOCABULARIES = [
  'tokenizer.model',
  'spiece.model',
  'tekken.json',
  'vocab.json',
  'vocab.txt',
  'merges.txt',
] as const;

/** Files that say what ids mean. */
export const tokenizerFiles = [
  'tokenizer.json',
  'tokenizer_config.json',
  'added_tokens.json',
  'special_tokens_map.json',
] as const;

export function invalid(message: string, cause?: unknown): AnchorError {
  return new AnchorError('ERR_MODEL_INVALID', message, { cause });
}

export function unsupported(message: string, cause?: unknown): AnchorError {
  return new AnchorError('ERR_MODEL_UNSUPPORTED', message, { cause });
}

/** Text of a token that is written as a string or as an object. */
function contentOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  return isJson(value) && typeof value.content === 'string' ? value.content : undefined;
}

/** Tokens that a configuration names by role, such as `bos_token`. */
function namedTokens(config: Json): string[] {
  const named: unknown[] = [];
  for (const [key, value] of Object.entries(config)) {
    if (/^(bos|eos|unk|sep|pad|cls|mask|prefix|middle|suffix|eot)_token$/.test(key)) {
      named.push(value);
    }
    // transformers 5 spells it extra_special_tokens, and lists may be objects by name.
    if (!/^(additional|extra)_special_tokens$/.test(key)) continue;
    if (Array.isArray(value)) named.push(...value);
    else if (isJson(value)) named.push(...Object.values(value));
  }
  return named.map(contentOf).filter((content) => content !== undefined);
}

function checkId(id: unknown, content: string, source: string): number {
  if (typeof id === 'number' && Number.isInteger(id) && id >= 0) return id;
  throw invalid(
    `${source}: expected the id of ${quote(content)} to be an integer, not ${show(id)}`,
  );
}

function readModel(tokenizer: Json, path: string): BpeModel {
  const { model } = tokenizer;
  if (!isJson(model)) throw invalid(`${path} has no model`);
  const type = model.type ?? (model.merges ? 'BPE' : undefined);
  if (type !== 'BPE') {
    throw unsupported(`${path}: a ${show(type)} model; only byte-pair encoding (BPE) is read`);
  }
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix']) {
    if (model[key]) throw unsupported(`${path}: ${key} ${show(model[key])} is not read`);
  }
  if (!isJson(model.vocab) || !Array.isArray(model.merges)) {
    throw invalid(`${path}: the model lacks its vocabulary or its merges`);
  }
  const vocabulary = new Map<string, number>();
  for (const [piece, id] of Object.entries(model.vocab)) {
    vocabulary.set(piece, checkId(id, piece, path));
  }
  const merges = model.merges.map((pair: unknown) => {
    const parts = typeof pair === 'string' ? pair.split(' ') : pair;
    if (Array.isArray(parts) && parts.length === 2) {
      const [left, right] = parts as unknown[];
      if (typeof left === 'string' && typeof right === 'string') {
        return [left, right] as [string, string];
      }
    }
    throw invalid(`${path}: ${show(pair)} is no pair to merge`);
  });
  return {
    vocabulary,
    merges,
    unknown: contentOf(model.unk_token),
    fuseUnknown: model.fuse_unk === true,
    byteFallback: model.byte_fallback === true,
    ignoreMerges: model.ignore_merges === true,
  };
}

/** The tokens of all sources by text, and who gave which id. */
class Merged {
  readonly tokens = new Map<string, AddedToken>();
  private readonly sources = new Map<string, string>();

  constructor(private readonly vocabulary: Map<string, number>) {}

  add(content: string, id: unknown, source: string, flags: Json): void {
    const number = checkId(id, content, source);
    const quoted = quote(content);
    if (content === '') throw invalid(`${source}: token ${number} is empty`);
    if (flags.single_word === true) {
      throw unsupported(`${source}: ${quoted} may only stand as a word of its own (single_word)`);
    }
    const known = this.tokens.get(content);
    const before = known?.id ?? this.vocabulary.get(content);
    if (before !== undefined && before !== number) {
      const where = this.sources.get(content) ?? 'the vocabulary of tokenizer.json';
      throw invalid(`${quoted} is ${before} in ${where} and ${number} in ${source}`);
    }
    if (known) {
      known.special ||= flags.special === true;
      return;
    }
    this.sources.set(content, source);
    const special = flags.special === true;
    this.tokens.set(content, {
      id: number,
      content,
      special,
      lstrip: flags.lstrip === true,
      rstrip: flags.rstrip === true,
      normalized: typeof flags.normalized === 'boolean' ? flags.normalized : !special,
    });
  }

  /** Marks a token that a file names without an id; one that has none anywhere does not exist. */
  markSpecial(content: string): void {
    const id = this.vocabulary.get(content);
    const token = this.tokens.get(content);
    if (token) token.special = true;
    else if (id !== undefined) this.add(content, id, 'the vocabulary', { special: true });
  }
}

function mergeAdded(folder: string, files: Record<string, Json | undefined>, model: BpeModel) {
  const merged = new Merged(model.vocabulary);
  const inside = (name: string) => join(folder, name);
  const listed = files['tokenizer.json']?.added_tokens ?? [];
  if (!Array.isArray(listed)) throw invalid(`${inside('tokenizer.json')}: added_tokens is no list`);
  for (const token of listed as unknown[]) {
    const content = contentOf(token);
    if (!isJson(token) || content === undefined) {
      throw invalid(`${inside('tokenizer.json')}: an added token has no content`);
    }
    merged.add(content, token.id, 'tokenizer.json', token);
  }
  const config = files['tokenizer_config.json'] ?? {};
  if (isJson(config.added_tokens_decoder)) {
    for (const [id, token] of Object.entries(config.added_tokens_decoder)) {
      const content = contentOf(token);
      if (content === undefined) {
        throw invalid(`${inside('tokenizer_config.json')}: token ${quote(id)} has no content`);
      }
      const number = /^\d+$/.test(id) ? Number(id) : id;
      merged.add(content, number, 'tokenizer_config.json', isJson(token) ? token : {});
    }
  }
  for (const [content, id] of Object.entries(files['added_tokens.json'] ?? {})) {
    merged.add(content, id, 'added_tokens.json', {});
  }
  for (const file of [config, files['special_tokens_map.json'] ?? {}]) {
    for (const content of namedTokens(file)) merged.markSpecial(content);
  }
  // Named nowhere but in added_tokens.json it would count as text, which an anchor never is.
  merged.markSpecial(ANCHOR);
  // Some tokenizers list the marks around a hole as text, and text is what they never are.
  for (const mark of fimTokens) if (merged.tokens.has(mark)) merged.markSpecial(mark);
  return [...merged.tokens.values()].sort((a, b) => a.id - b.id);
}

function checkIds(folder: string, model: BpeModel, added: AddedToken[], vocabSize: number): void {
  const owners = new Map<number, string>();
  const all: Iterable<[string, number]>[] = [
    model.vocabulary,
    added.map((token) => [token.content, token.id]),
  ];
  const outside: string[] = [];
  for (const [content, id] of all.flatMap((entries) => [...entries])) {
    const owner = owners.get(id);
    if (owner !== undefined && owner !== content) {
      const both = `${quote(owner)} and ${quote(content)}`;
      throw invalid(`The tokenizer in ${folder} gives id ${id} to ${both}`);
    }
    owners.set(id, content);
    if (id >= vocabSize) outside.push(`${quote(content)} (${id})`);
  }
  if (outside.length === 0) return;
  const shown = [...new Set(outside)];
  const rest = shown.length > 5 ? ` and ${shown.length - 5} more` : '';
  throw invalid(
    `The tokenizer in ${folder} has ids outside the model's vocabulary of ${vocabSize}: ` +
      `${shown.slice(0, 5).join(', ')}${rest}`,
  );
}

/** Ids that a post-processor of tokenizer.json puts in front of a text. */
function processorFirst(processor: unknown, idOf: (content: unknown) => number): number[] {
  if (!isJson(processor)) return [];
  switch (processor.type) {
    case 'Sequence': {
      const parts = Array.isArray(processor.processors) ? processor.processors : [];
      return parts.flatMap((part) => processorFirst(part, idOf));
    }
    case 'TemplateProcessing': {
      const items = Array.isArray(processor.single) ? (processor.single as unknown[]) : [];
      const end = items.findIndex((item) => isJson(item) && 'Sequence' in item);
      return items.slice(0, Math.max(end, 0)).map((item) => {
        const token = isJson(item) ? item.SpecialToken : undefined;
        return idOf(isJson(token) ? token.id : token);
      });
    }
    case 'BertProcessing':
    case 'RobertaProcessing':
      return Array.isArray(processor.cls) ? [idOf(processor.cls[0])] : [];
    default:
      return [];
  }
}

function nameOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function firstIds(files: Record<string, Json | undefined>, ids: Map<string, number>): number[] {
  const idOf = (content: unknown) => {
    const id = typeof content === 'string' ? ids.get(content) : undefined;
    if (id !== undefined) return id;
    throw invalid(`${label(content)} stands in front of every text but has no id`);
  };
  const first = processorFirst(files['tokenizer.json']?.post_processor, idOf);
  if (first.length > 0) return first;
  const config = files['tokenizer_config.json'] ?? {};
  const bos = contentOf(config.bos_token ?? files['special_tokens_map.json']?.bos_token);
  const llama = /^(Code)?Llama ?Tokenizer(Fast)?$/.test(nameOf(config.tokenizer_class));
  const adds = config.add_bos_token ?? llama;
  return adds === true && bos !== undefined ? [idOf(bos)] : [];
}

/**
 * Reads `tokenizer.json` and the files beside it. Blocks: for the worker only.
 * @throws `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED`
 */
export function readTokenizerFiles(folder: string, vocabSize: number): TokenizerFiles {
  const files: Record<string, Json | undefined> = {};
  for (const name of tokenizerFiles) {
    const rules = name === 'tokenizer.json' ? tokenizerRules : otherRules;
    files[name] = readJsonSync(folder, name, rules);
  }
  const tokenizer = files['tokenizer.json'];
  if (!tokenizer) throw unsupported(`${folder} has no tokenizer.json`);
  const model = readModel(tokenizer, join(folder, 'tokenizer.json'));
  const added = mergeAdded(folder, files, model);
  checkIds(folder, model, added, vocabSize);
  const ids = new Map([
    ...model.vocabulary,
    ...added.map(({ content, id }) => [content, id] as const),
  ]);
  const config = files['tokenizer_config.json'] ?? {};
  return {
    ...{ tokenizer, model, added, first: firstIds(files, ids) },
    chatTemplate: config.chat_template,
    specials: specialTokens(files['special_tokens_map.json'] ?? {}, config),
  };
}

/** What chat templates know special tokens by; later files win. */
function specialTokens(...files: Json[]): Record<string, string> {
  const extra = files.map((file) => file.extra_special_tokens).filter(isJson);
  const all = [...files, ...extra].flatMap((file) => Object.entries(file));
  const named = all.map(([name, value]) => [name, contentOf(value)] as const);
  return Object.fromEntries(
    named.filter((entry): entry is [string, string] => {
      const [name, content] = entry;
      return /^\w+_token$/.test(name) && content !== undefined;
    }),
  );
}
