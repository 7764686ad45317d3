/** Values of others in our sentences: short, and without what a terminal would obey. */

/** A value and its type, short enough for a sentence. Never throws. */
export function show(value: unknown): string {
  switch (typeof value) {
    case 'undefined':
      return 'undefined';
    case 'string':
      return `${quote(value)} (string)`;
    case 'number':
    case 'boolean':
    case 'bigint':
      return `${value} (${typeof value})`;
    case 'symbol':
    case 'function':
      return `a ${typeof value}`;
    default:
      if (value === null) return 'null';
      return `${brief(json(value as object))} (${Array.isArray(value) ? 'array' : 'object'})`;
  }
}

function json(value: object): string {
  try {
    return JSON.stringify(value) ?? 'a value';
  } catch {
    return 'a value'; // cycles, bigints, toJSON methods that throw
  }
}

function shorten(text: string): string {
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** A text without quotes, short enough for a sentence. */
export function brief(text: string): string {
  return printable(shorten(text));
}

/** A name of others: a text in quotes, and of anything else what it is. */
export function label(value: unknown): string {
  return typeof value === 'string' ? quote(value) : show(value);
}

/** A text in quotes, short enough for a sentence. */
export function quote(text: string): string {
  return printable(JSON.stringify(shorten(text)));
}

/** Control characters, line ends and changes of direction spelt out. */
export function printable(text: string): string {
  const hex = (letter: string) => letter.charCodeAt(0).toString(16).padStart(4, '0');
  return text.replace(/[\p{Cc}\u2028-\u202e\u2066-\u2069]/gu, (letter) => `\\u${hex(letter)}`);
}
