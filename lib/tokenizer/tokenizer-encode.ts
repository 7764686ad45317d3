/** Text to ids. Runs inside the tokenizer worker: everything here may take its time. */
import * as library from '@huggingface/tokenizers';
import { withoutMarks } from '../chat/chat-marks.js';
import { isJson, type Json } from '../json.js';
import { label, quote, show } from '../show.js';
import { type MergeRuleError, Merger } from './tokenizer-bpe.js';
import {
  BLANK_MARK,
  type ByteTable,
  byteTable,
  type NewlineIds,
  newlineIds,
  parts,
  soleNewline,
} from './tokenizer-bytes.js';
import { invalid, type TokenizerFiles, unsupported } from './tokenizer-files.js';
import { ControlSplitter } from './tokenizer-split.js';

export interface EncodeSettings {
  /** Text such as `<|endoftext|>` becomes the control token. */
  parseSpecial: boolean;
  /** The tokenizer's own first ids in front. */
  addSpecial: boolean;
  /** The text goes on from earlier text: no blank is put in front of it. */
  continued: boolean;
}

export interface AnchorSettings extends EncodeSettings {
  anchorId: number;
  indent: 'none' | 'tab4';
}

export interface ChatSettings {
  /** Stands inside what looks like a token and is none; left out of the text. */
  mark: string;
  /** Inserted after every newline; undefined: none is. */
  anchorId: number | undefined;
  indent: 'none' | 'tab4';
}

// What we use of the library, whose own types need another module resolution.
interface PieceModel {
  (words: string[]): string[];
  tokens_to_ids: ReadonlyMap<string, number>;
}

interface Instance {
  model: PieceModel;
  encode(text: string): { ids: (number | undefined)[] };
}

const Instance = library.Tokenizer as unknown as new (tokenizer: Json, config: Json) => Instance;

// GPT-2's split, which the library has too, but with JavaScript's idea of what is blank.
const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

const cut = (Regex: string): Json => ({
  type: 'Split',
  pattern: { Regex },
  behavior: 'Isolated',
  invert: false,
});

const sequence = (pretokenizers: unknown[]): Json => ({ type: 'Sequence', pretokenizers });

/** How many times as long normalizers may make a text: more would be a way to fill the memory. */
const MOST_GROWTH = 64;

function wrong(component: Json, key: string, expectation: string) {
  const name = `"${key}" of a ${label(component.type)} in tokenizer.json`;
  return invalid(`Expected ${name} to be ${expectation}, but it is ${show(component[key])}`);
}

function listIn(component: Json, key: string): unknown[] {
  const list = component[key] ?? [];
  if (Array.isArray(list)) return list as unknown[];
  throw wrong(component, key, 'a list');
}

function textIn(component: Json, key: string): string {
  const text = component[key];
  if (typeof text === 'string') return text;
  throw wrong(component, key, 'a text');
}

function checkPattern(component: Json): void {
  const { pattern } = component;
  const texts = isJson(pattern) ? [pattern.String, pattern.Regex] : [];
  if (texts.some((text) => typeof text === 'string')) return;
  throw wrong(component, 'pattern', 'an object with a text "String" or "Regex"');
}

/** Units that a normalizer makes of one, at most. */
function growthOf(component: unknown): number {
  if (!isJson(component)) return 1;
  if (component.type === 'Sequence') {
    const inside = listIn(component, 'normalizers').map(growthOf);
    return inside.reduce((product, growth) => product * growth, 1);
  }
  if (component.type !== 'Replace') return 1;
  const { length } = textIn(component, 'content');
  const { pattern } = component;
  const matched = isJson(pattern) && typeof pattern.String === 'string' ? pattern.String.length : 1;
  // Without a letter to match, the content comes between all letters.
  return matched === 0 ? 2 * length + 1 : Math.max(1, length / matched);
}

/** A normalizer that the library runs as Rust's does, without the blank in front if `continued`. */
function normalizerFor(component: unknown, continued: boolean): Json | null {
  if (!isJson(component)) return null;
  switch (component.type) {
    case 'Sequence': {
      const inside = listIn(component, 'normalizers');
      const normalizers = inside.map((part) => normalizerFor(part, continued));
      return { type: 'Sequence', normalizers: normalizers.filter((part) => part !== null) };
    }
    case 'Prepend':
      textIn(component, 'prepend');
      return continued ? null : component;
    case 'Replace': {
      checkPattern(component);
      // In JavaScript a dollar has a meaning there.
      return { ...component, content: textIn(component, 'content').replaceAll('$', '$$$$') };
    }
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD':
    case 'Lowercase':
      return component;
    default:
      throw unsupported(`tokenizer.json: the normalizer ${label(component.type)} is not supported`);
  }
}

/** The same for a pre-tokenizer. */
function preTokenizerFor(component: unknown, continued: boolean): Json | null {
  if (!isJson(component)) return null;
  switch (component.type) {
    case 'Sequence': {
      const inside = listIn(component, 'pretokenizers');
      return sequence(inside.map((part) => preTokenizerFor(part, continued)));
    }
    case 'ByteLevel': {
      // A blank in front of whatever does not begin with one.
      const whole = { Regex: ' ([\\s\\S]*)|([\\s\\S]+)' };
      const blank = { type: 'Replace', pattern: whole, content: ' $1$2' };
      return sequence([
        ...(component.add_prefix_space === true && !continued ? [blank] : []),
        ...(component.use_regex !== false ? [cut(GPT2)] : []),
        { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
      ]);
    }
    case 'Digits':
      return cut(component.individual_digits === true ? '\\p{N}' : '\\p{N}+');
    case 'Metaspace': {
      const old = component.add_prefix_space === false ? 'never' : 'always';
      const prepend_scheme = continued ? 'never' : (component.prepend_scheme ?? old);
      const marks = { ...component, str_rep: undefined, prepend_scheme };
      return component.split === false ? marks : sequence([marks, cut(`(?=${BLANK_MARK})`)]);
    }
    case 'Split': {
      checkPattern(component);
      const behavior = textIn(component, 'behavior').toLowerCase();
      if (behavior === 'isolated') return { ...component, invert: false };
      if (behavior === 'removed') return component;
      throw unsupported(`tokenizer.json: a Split that is ${quote(behavior)} is not supported`);
    }
    default:
      throw unsupported(
        `tokenizer.json: the pre-tokenizer ${label(component.type)} is not supported`,
      );
  }
}

export class Encoder {
  readonly table: ByteTable;
  readonly newlines: NewlineIds;
  private readonly soleNewline: number | undefined;
  private readonly model: PieceModel;
  private readonly splitter: ControlSplitter;
  /** SentencePiece's blank goes before the text alone, not before every piece of it. */
  private readonly blankOnce: boolean;
  private readonly instances = new Map<string, Instance>();

  /** @throws `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED` */
  constructor(
    private readonly files: TokenizerFiles,
    vocabSize: number,
  ) {
    const { model, added } = files;
    this.table = byteTable(files, vocabSize);
    this.newlines = newlineIds(this.table);
    this.soleNewline = soleNewline(this.table, this.newlines);
    const special = added.filter((token) => token.special);
    this.splitter = new ControlSplitter(special);
    this.blankOnce = parts(files.tokenizer.pre_tokenizer).some(
      ({ type, prepend_scheme }) => type === 'Metaspace' && prepend_scheme === 'first',
    );
    const banned = new Set(special.map(({ content }) => content));
    let merger: Merger;
    try {
      merger = new Merger({ ...model, banned });
    } catch (error) {
      throw invalid(`tokenizer.json: the merge ${(error as MergeRuleError).message}`, error);
    }
    this.model = Object.assign((words: string[]) => merger.encode(words), {
      tokens_to_ids: model.vocabulary,
    });
    const whole = this.instance(true, false);
    const torn = special.filter(({ content, id }) => {
      const { ids } = whole.encode(content);
      return ids.length !== 1 || ids[0] !== id;
    });
    if (torn.length > 0) {
      const names = torn.map(({ content, id }) => `${quote(content)} (${id})`);
      throw invalid(`These tokens do not encode to their one id: ${names.join(', ')}`);
    }
  }

  private instance(parseSpecial: boolean, continued: boolean): Instance {
    const key = `${parseSpecial} ${continued}`;
    const known = this.instances.get(key);
    if (known) return known;
    const { tokenizer, added } = this.files;
    const growth = growthOf(tokenizer.normalizer);
    if (growth > MOST_GROWTH) {
      const problem = `tokenizer.json's normalizers may make a text ${growth} times as long`;
      throw unsupported(`${problem}; supported: up to ${MOST_GROWTH} times`);
    }
    let made: Instance;
    const description = {
      added_tokens: added.filter((token) => parseSpecial || !token.special),
      normalizer: normalizerFor(tokenizer.normalizer, continued),
      pre_tokenizer: preTokenizerFor(tokenizer.pre_tokenizer, continued),
      // Ours takes its place below.
      model: { type: 'BPE', vocab: {}, merges: [] },
      post_processor: null,
      decoder: null,
    };
    try {
      made = new Instance(description, {});
    } catch (error) {
      const { message } = error as Error;
      throw unsupported(`tokenizer.json asks for what is not supported: ${message}`, error);
    }
    made.model = this.model;
    this.instances.set(key, made);
    return made;
  }

  private piece(text: string, parseSpecial: boolean, continued: boolean): number[] {
    const { ids } = this.instance(parseSpecial, continued).encode(text);
    if (!ids.includes(undefined)) return ids as number[];
    throw invalid('A piece of the text has no id in the vocabulary');
  }

  encode(text: string, settings: EncodeSettings): Uint32Array<ArrayBuffer> {
    const ids = this.piece(text, settings.parseSpecial, settings.continued);
    return this.finish(ids, settings);
  }

  encodeWithAnchors(text: string, settings: AnchorSettings): Uint32Array<ArrayBuffer> {
    const tabbed = settings.indent === 'tab4' ? text.replaceAll('    ', '\t') : text;
    const ids = this.insertIntoWhole(tabbed, settings) ?? this.insertByLine(tabbed, settings);
    return this.finish(ids, settings);
  }

  /** A rendered chat: control tokens in the text, unless they bear the mark. */
  encodeChat(text: string, settings: ChatSettings): Uint32Array<ArrayBuffer> {
    const { mark, anchorId, indent } = settings;
    const out: number[] = [];
    for (const { part, at } of this.splitter.split(text, mark)) {
      if (typeof part === 'number') {
        // The text may have brought the anchor itself.
        if (part !== anchorId || out.at(-1) !== anchorId) out.push(part);
        continue;
      }
      const plain = withoutMarks(part, mark);
      const continued = at > 0 && this.blankOnce;
      const own = { parseSpecial: false, addSpecial: false, continued };
      const ids =
        anchorId === undefined
          ? this.encode(indent === 'tab4' ? plain.replaceAll('    ', '\t') : plain, own)
          : this.encodeWithAnchors(plain, { ...own, anchorId, indent });
      for (const id of ids) out.push(id);
    }
    return Uint32Array.from(out);
  }

  /** For vocabularies in which a newline is always the same id. */
  private insertIntoWhole(text: string, settings: AnchorSettings): number[] | undefined {
    const { anchorId, parseSpecial, continued } = settings;
    if (this.soleNewline === undefined) return undefined;
    const out: number[] = [];
    let newlines = 0;
    let owed = false;
    for (const id of this.piece(text, parseSpecial, continued)) {
      // The text may have brought the anchor itself.
      if (owed && id !== anchorId) out.push(anchorId);
      out.push(id);
      owed = id === this.soleNewline;
      if (owed) newlines++;
    }
    if (owed) out.push(anchorId);
    // A normalizer may have taken or made newlines.
    return newlines === text.split('\n').length - 1 ? out : undefined;
  }

  private insertByLine(text: string, settings: AnchorSettings): number[] {
    const { anchorId, parseSpecial, continued } = settings;
    const out: number[] = [];
    let owed = false;
    for (let start = 0; start < text.length; ) {
      const newline = text.indexOf('\n', start);
      const end = newline < 0 ? text.length : newline + 1;
      const ids = this.piece(text.slice(start, end), parseSpecial, continued || start > 0);
      if (owed && ids[0] !== anchorId) out.push(anchorId);
      for (const id of ids) out.push(id);
      owed = newline >= 0;
      start = end;
    }
    if (owed) out.push(anchorId);
    return out;
  }

  private finish(ids: number[], { addSpecial }: EncodeSettings): Uint32Array<ArrayBuffer> {
    const first = addSpecial ? this.files.first : [];
    const out = new Uint32Array(first.length + ids.length);
    out.set(first);
    out.set(ids, first.length);
    return out;
  }
}
