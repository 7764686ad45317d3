/**
 * Keeps what users write from becoming control tokens. Before a template runs, a mark is put inside
 * every text of a token that a message holds: a character that occurs nowhere else. The template
 * goes on trimming, splitting and comparing as ever; what it writes itself bears no marks. When
 * the result is encoded, what is marked is no token, and the mark is left out.
 */
import { isOneLetter, letterEnd, TokenTexts } from '../tokenizer/token-texts.js';

/** Tokens beside the vocabulary, by their text. */
export interface ChatTokens {
  control: readonly string[];
  /** Those that are text, such as `</think>`: templates split answers at them. */
  words: readonly string[];
}

/** What a template is given besides the names of special tokens. */
export interface ChatInput {
  messages: readonly unknown[];
  tools: unknown;
  variables: Readonly<Record<string, unknown>>;
}

/** A message that cannot be rendered. */
export class ChatInputError extends Error {}

const deepest = 100;
const firstMark = 0xe000;
const lastMark = 0xf8ff;

/** How JSON with `ensure_ascii` writes a mark. */
export function escapeOf(mark: string): string {
  return `\\u${mark.charCodeAt(0).toString(16)}`;
}

/** The rendered text without what marks have become. */
export function withoutMarks(text: string, mark: string): string {
  return text.replaceAll(escapeOf(mark), '').replaceAll(mark, '');
}

/** A private-use character that no text holds, in itself or escaped. @throws ChatInputError */
export function chooseMark(texts: readonly string[]): string {
  const taken = new Set<number>();
  for (const text of texts) {
    for (const [found] of text.matchAll(/[\ue000-\uf8ff]/g)) taken.add(found.charCodeAt(0));
    for (const [, hex = ''] of text.matchAll(/\\u([ef][0-9a-f]{3})/gi)) {
      taken.add(Number.parseInt(hex, 16));
    }
  }
  for (let code = firstMark; code <= lastMark; ++code) {
    if (!taken.has(code)) return String.fromCharCode(code);
  }
  throw new ChatInputError('the messages use every private-use character, and one is needed');
}

/** Every string in a value, keys too. @throws ChatInputError for what JSON cannot hold */
export function stringsOf(value: unknown, name: string): string[] {
  const found: string[] = [];
  walk(value, name, (text) => {
    found.push(text);
    return text;
  });
  return found;
}

/** Copies values with marks in their strings. */
export class Marker {
  private readonly control: TokenTexts;
  private readonly all: TokenTexts;
  /** Proper beginnings and ends of control tokens. */
  private readonly beginnings = new Set<string>();
  private readonly ends = new Set<string>();
  private longest = 0;

  constructor(
    private readonly mark: string,
    { control, words }: ChatTokens,
  ) {
    // A blank word in two would not be trimmed any more.
    const torn = words.filter((word) => [...word].length > 1 && word.trim() !== '');
    // Without regard to case, since a template may change it.
    this.control = new TokenTexts(control, true);
    this.all = new TokenTexts([...control, ...torn], true);
    for (const token of control) {
      this.longest = Math.max(this.longest, token.length);
      for (let i = 1; i < token.length; ++i) {
        this.beginnings.add(token.slice(0, i).toLowerCase());
        this.ends.add(token.slice(i).toLowerCase());
      }
    }
  }

  input({ messages, tools, variables }: ChatInput): ChatInput {
    const value = (input: unknown, name: string, texts = this.all) =>
      walk(input, name, (text, key) => this.text(text, texts, key));
    return {
      messages: messages.map((message, i) => {
        const { role } = message as { role?: unknown };
        const texts = role === 'assistant' ? this.control : this.all;
        return value(message, `messages[${i}]`, texts);
      }),
      tools: value(tools, 'tools'),
      variables: value(variables, 'variables') as ChatInput['variables'],
    };
  }

  private text(text: string, tokens: TokenTexts, key: Key): string {
    let out = '';
    let done = 0;
    for (let at = 0; at < text.length; ++at) {
      const length = tokens.lengthAt(text, at);
      if (length === 0) continue;
      // Tokens of one letter have no inside: encoding looks for the mark before them.
      const place = isOneLetter(text, at, length) ? at : letterEnd(text, at);
      out += text.slice(done, place) + this.mark;
      done = place;
    }
    out += text.slice(done);
    // Names that templates know stay as they are.
    return key === 'name' ? out : this.closed(out);
  }

  // Two texts in a row, or a text and the template's own, must not make a token together.
  private closed(text: string): string {
    const { mark, longest, beginnings, ends } = this;
    const inner = text.trim();
    if (inner === '') return text;
    const folded = inner.toLowerCase();
    const start = text.indexOf(inner);
    let [before, after] = ['', ''];
    for (let length = 1; length < longest && length <= folded.length; ++length) {
      if (ends.has(folded.slice(0, length))) before = mark;
      if (beginnings.has(folded.slice(-length))) after = mark;
    }
    const end = start + inner.length;
    return text.slice(0, start) + before + inner + after + text.slice(end);
  }
}

/** Whether a string is a name that templates compare (a key, a role) or a text. */
type Key = 'name' | 'text';

function walk(
  value: unknown,
  name: string,
  change: (text: string, key: Key) => string,
  key: Key = 'text',
  depth = 0,
): unknown {
  if (depth > deepest) throw new ChatInputError(`a value is nested more than ${deepest} deep`);
  switch (typeof value) {
    case 'string':
      return change(value, key);
    case 'number':
    case 'boolean':
    case 'undefined':
      return value;
    case 'object':
      if (value === null) return value;
      if (Array.isArray(value)) {
        return value.map((each, i) => walk(each, `${name}[${i}]`, change, 'text', depth + 1));
      }
      if (Object.getPrototypeOf(value) === Object.prototype) {
        const entries = Object.entries(value).map(([own, each]) => {
          const kind = own === 'role' || own === 'type' ? 'name' : 'text';
          const inside = walk(each, `${name}.${own}`, change, kind, depth + 1);
          return [change(own, 'name'), inside];
        });
        return Object.fromEntries(entries);
      }
  }
  throw new ChatInputError(`${name} is neither a text, a number, a list nor a plain object`);
}
