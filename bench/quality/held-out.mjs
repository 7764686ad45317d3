// Places in a text where a model has to write what stands there: a line, the body of a block, what
// follows the first line of a function or class, calls. A hole is { before, held, behind }; the
// three make the whole text. `language` is py, ts or js.

const fewestCharacters = 10;
const blockLines = [3, 8];
const blockCharacters = 360;
const callCharacters = 60;

/** First lines of functions and classes at the top level that go on below. */
const pythonHeader = /^(async def|def|class) .*:$/;
const scriptHeader =
  /^(export )?(default |abstract |async )*(function.*\).*|(class|interface) .*|const .*=> )\{$/;
/** Lines that may name a call without being one: comments, and what stands in quotes. */
const prose = /^\s*(#|\/\/|\/?\*|["'`]|>>>|@)/;
const definition = /\b(def|class|function\*?) $/;
// Both ends are letters or digits: they are ends of ids, too, in vocabularies like GPT-2's.
const callStart = /(?<![\w$])([A-Za-z]\w+[A-Za-z\d])\(/g;
const keywords = new Set([
  ...['and', 'assert', 'async', 'await', 'catch', 'constructor', 'elif', 'except', 'for'],
  ...['function', 'import', 'not', 'return', 'switch', 'typeof', 'while', 'with', 'yield'],
]);

function holeAt(lines, first, end) {
  return {
    before: lines.slice(0, first).map(withNewline).join(''),
    held: lines.slice(first, end).join('\n'),
    behind: lines
      .slice(end)
      .map((line) => `\n${line}`)
      .join(''),
  };
}

const withNewline = (line) => `${line}\n`;
const indentOf = (line) => line.length - line.trimStart().length;
const isBlank = (line) => line.trim() === '';

/** The first line from the middle of the text on that has something to say, with its indent. */
export function findLine(text) {
  const lines = text.split('\n');
  const middle = lines.length >> 1;
  const at = lines.findIndex((line, i) => i >= middle && line.trim().length >= fewestCharacters);
  return at < 0 ? undefined : holeAt(lines, at, at + 1);
}

/** The first body from the middle of the text on that has 3 to 8 lines, all of them. */
export function findBlock(text, language) {
  const lines = text.split('\n');
  const opens = language === 'py' ? /:$/ : /\{$/;
  for (let at = lines.length >> 1; at + 1 < lines.length; ++at) {
    if (!opens.test(lines[at]) || prose.test(lines[at])) continue;
    const end = bodyEnd(lines, at);
    const count = end - at - 1;
    if (count < blockLines[0] || count > blockLines[1] || end === lines.length) continue;
    const hole = holeAt(lines, at + 1, end);
    // Not where a line of it is less far in than the first.
    const isOne = cutBlock(hole.held + hole.behind, hole.held, true) === hole.held.trimEnd();
    if (isOne && hole.held.length <= blockCharacters) return hole;
  }
  return undefined;
}

/** Where the lines end that are further in than the header, blank lines behind them left out. */
function bodyEnd(lines, header) {
  let end = header + 1;
  for (let at = end; at < lines.length; ++at) {
    if (isBlank(lines[at])) continue;
    if (indentOf(lines[at]) <= indentOf(lines[header])) break;
    end = at + 1;
  }
  return end;
}

/** What belongs to a block of the text: up to the first line that is less far in than `held`. */
export function cutBlock(text, held, isWhole) {
  const lines = text.split('\n');
  const end = lines.findIndex((line) => !isBlank(line) && indentOf(line) < indentOf(held));
  if (end >= 0) lines.length = end;
  // The last line may be unfinished.
  else if (!isWhole) lines.pop();
  return lines.join('\n').trimEnd();
}

/**
 * Functions and classes at the top level, those from the middle of the text on first; `start` is
 * the text before the header and its decorators, `before` has them, too, and nothing is behind.
 */
export function findUnits(text, language) {
  const lines = text.split('\n');
  const middle = lines.length >> 1;
  const header = language === 'py' ? pythonHeader : scriptHeader;
  const found = lines.flatMap((line, at) => (header.test(line) ? [at] : []));
  const ordered = [
    ...found.filter((at) => at >= middle),
    ...found.filter((at) => at < middle).reverse(),
  ];
  return ordered.map((at) => {
    const decorated = lines.slice(0, at).findLastIndex((line) => !line.startsWith('@')) + 1;
    const start = lines.slice(0, decorated).map(withNewline).join('');
    return { start, ...holeAt(lines, at + 1, lines.length) };
  });
}

/**
 * What belongs to a function or class of the text behind its header: in Python up to the next line
 * that is not indented, else up to a line that begins with `}`. Without such a line it `ends` where
 * a whole Python text does, and otherwise is cut behind its last line end.
 */
export function cutUnit(text, language, isWhole) {
  if (language === 'py') {
    const at = text.search(/^\S/m);
    if (at >= 0) return { text: text.slice(0, at), ends: true };
    if (isWhole) return { text, ends: true };
  } else {
    const close = /^\}.*$/m.exec(text);
    if (close) return { text: text.slice(0, close.index + close[0].length), ends: true };
  }
  return { text: text.slice(0, text.lastIndexOf('\n') + 1), ends: false };
}

/** Whether {@link cutUnit} will cut the text at the same place whatever follows. */
export function isUnitOver(text, language) {
  return (language === 'py' ? /^\S/m : /^\}.*\n/m).test(text);
}

/**
 * Calls in the second half of the text, the first of each line, at most `most`, spread evenly:
 * `at` (before the blank that belongs to the name's first id), `blank`, `name`, `arguments` with
 * their parentheses, and how many lines ago the name was last (undefined: never).
 */
export function findCalls(text, language, most) {
  const lines = text.split('\n');
  const starts = [];
  lines.reduce((at, line) => {
    starts.push(at);
    return at + line.length + 1;
  }, 0);
  const found = [];
  for (let row = lines.length >> 1; row < lines.length; ++row) {
    const call = callOf(lines[row], language);
    if (call) found.push({ ...call, row, at: starts[row] + call.at });
  }
  const count = Math.min(most, found.length);
  const chosen = Array.from(
    { length: count },
    (_, i) => found[Math.floor((i * found.length) / count)],
  );
  return chosen.map(({ row, ...call }) => {
    const word = new RegExp(`(?<![\\w$])${call.name}(?![\\w$])`);
    const last = [...lines.slice(0, row), lines[row].slice(0, call.at - starts[row])].findLastIndex(
      (line) => word.test(line),
    );
    return { ...call, ago: last < 0 ? undefined : row - last };
  });
}

function callOf(line, language) {
  if (prose.test(line)) return undefined;
  for (const { 1: name, index } of line.matchAll(callStart)) {
    const before = line.slice(0, index);
    if (keywords.has(name) || definition.test(before)) continue;
    const open = index + name.length;
    const end = closing(line, open);
    if (end < 0 || end - open > callCharacters || isBlank(line.slice(open + 1, end - 1))) continue;
    // The head of a method, or its signature.
    if (language !== 'py' && /^(:|\s*\{$)/.test(line.slice(end))) continue;
    const blank = /\s?$/.exec(before)[0];
    return { at: index - blank.length, blank, name, arguments: line.slice(open, end) };
  }
  return undefined;
}

/** Place behind the parenthesis that closes the one at `open`, -1 if the line has none. */
function closing(line, open) {
  let depth = 0;
  let quote = '';
  for (let at = open; at < line.length; ++at) {
    const character = line[at];
    if (quote !== '') {
      if (character === '\\') at += 1;
      else if (character === quote) quote = '';
    } else if (`"'\``.includes(character)) quote = character;
    else if (character === '(') depth += 1;
    else if (character === ')' && --depth === 0) return at + 1;
  }
  return -1;
}

/** The last lines of a text, so many and so many characters at most. */
export function lastLines(text, count, characters) {
  return take(text.split(/(?<=\n)/).reverse(), count, characters)
    .reverse()
    .join('');
}

/** The first lines of a text that begins with a newline. */
export function firstLines(text, count, characters) {
  return take(text.split(/(?=\n)/), count, characters).join('');
}

function take(pieces, count, characters) {
  let total = 0;
  const end = pieces.findIndex((piece, i) => {
    total += piece.length;
    return i >= count || total > characters;
  });
  return end < 0 ? pieces : pieces.slice(0, end);
}
