// Texts to measure on, as ids, with what is asked of each target: its bytes, and what it copies.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A name is at its line's end where no more ids than these stand between it and the newline. */
const mostBehind = 2;
/** A word of any language measured here, or what stands between quotes on one line. */
const copied = /([A-Za-z_$][\w$]{2,})|(["'`])([^"'`\n]{3,})\2/g;

/** Documents (`l` language, `t` text) of a file of JSON lines, packed by xz or not. */
export function readDocuments(file, count) {
  const most = 2 ** 28;
  const lines = file.endsWith('.xz')
    ? execFileSync('xz', ['-dc', file], { encoding: 'utf8', maxBuffer: most })
    : readFileSync(file, 'utf8');
  return lines
    .split('\n')
    .filter((line) => line !== '')
    .slice(0, count)
    .map((line) => JSON.parse(line));
}

/**
 * (vocabulary) bytes of every id as a string of one character a byte; none for control tokens. Of
 * tokenizers with a byte-level vocabulary.
 */
export function readPieces(folder) {
  const { model, added_tokens } = JSON.parse(readFileSync(join(folder, 'tokenizer.json'), 'utf8'));
  const bytes = byteCharacters();
  const pieces = [];
  for (const { id, special, content } of added_tokens) {
    pieces[id] = special ? '' : Buffer.from(content).toString('latin1');
  }
  for (const [text, id] of Object.entries(model.vocab)) {
    pieces[id] ??= [...text].map((character) => byteOf(bytes, character)).join('');
  }
  return pieces;
}

function byteOf(bytes, character) {
  const byte = bytes.get(character);
  if (byte === undefined) throw new Error(`Expected a byte-level vocabulary, but: ${character}`);
  return byte;
}

// Byte-level vocabularies write printable bytes as themselves and the others from U+0100 on.
function byteCharacters() {
  const printable = (byte) =>
    (byte > 32 && byte < 127) || (byte > 160 && byte < 256 && byte !== 173);
  const characters = new Map();
  let next = 256;
  for (let byte = 0; byte < 256; ++byte) {
    const code = printable(byte) ? byte : next++;
    characters.set(String.fromCodePoint(code), String.fromCharCode(byte));
  }
  return characters;
}

/** The first ids of a document as a text to measure on. */
export async function prepare(model, { l: language, t: text }, pieces, length = 2048) {
  const all = await model.tokenize(text);
  return textOf(all.subarray(0, length + 1), language, pieces, length);
}

/** A text of at most `length` ids and one: `input` is read, every id behind the first a target. */
export function textOf(ids, language, pieces, length) {
  const bytes = Uint8Array.from(ids, (id) => pieces[id].length);
  const isControl = (at) => bytes[at] === 0;
  const isNewline = (at) => pieces[ids[at]].includes('\n');
  const input = ids.slice(0, length);
  return { language, length, ids, input, bytes, isControl, isNewline };
}

/** (ids) how far back the same three ids were last followed by the same id; 0: they were not. */
export function continuations(ids) {
  const last = new Map();
  const distances = new Uint32Array(ids.length);
  for (let at = 3; at < ids.length; ++at) {
    const key = `${ids[at - 3]},${ids[at - 2]},${ids[at - 1]}`;
    const before = last.get(key);
    if (before !== undefined && ids[before] === ids[at]) distances[at] = at - before;
    last.set(key, at);
  }
  return distances;
}

/**
 * Names and quoted literals that stand further up already: kind, ids from `first` to before `end`,
 * distance in ids to the last time. `endedLine`: it stood at its line's end then, with two ids
 * before the newline at most; `beginsLine`: only blanks stand before it in its line now. Those
 * whose last id goes on behind them are left out.
 */
export function copies(ids, pieces) {
  const owners = [];
  let text = '';
  ids.forEach((id, at) => {
    for (let i = 0; i < pieces[id].length; ++i) owners.push(at);
    text += pieces[id];
  });
  const seen = new Map();
  const found = [];
  for (const match of text.matchAll(copied)) {
    const [, name, , literal] = match;
    const kind = name === undefined ? 'literal' : 'name';
    const content = name ?? literal;
    const from = match.index + (name === undefined ? 1 : 0);
    const to = from + content.length;
    const [first, last] = [owners[from], owners[to - 1]];
    const before = seen.get(content);
    const endsLine = owners[text.indexOf('\n', to)] - last <= mostBehind + 1;
    seen.set(content, { first, endsLine, count: (before?.count ?? 0) + 1 });
    const endsHere = to === text.length || owners[to] !== last;
    if (before === undefined || !endsHere || first === before.first) continue;
    const beginsLine = text.slice(text.lastIndexOf('\n', from) + 1, from).trim() === '';
    const distance = first - before.first;
    const span = { first, end: last + 1, distance, endedLine: before.endsLine, beginsLine };
    found.push({ kind, ...span });
    if (kind === 'name' && before.count === 1) found.push({ kind: 'rare name', ...span });
  }
  return found;
}
