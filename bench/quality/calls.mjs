// Calls on one line: the name and the arguments, and the arguments where the name is given.
import { countRows, judgeCases } from './counts.mjs';
import { findCalls } from './held-out.mjs';
import { write } from './writing.mjs';

const longestText = 1900;
const maxTokens = 48;
const callsOfText = 3;
const nearLines = 10;

/** Calls of the beginning of each text, as much as the models can read. */
async function find(documents, { anchored }) {
  const items = [];
  for (const { t: text, l: language } of documents) {
    const ids = await anchored.tokenize(text);
    const fits = ids.length <= longestText;
    const read = fits ? text : wholeLines(anchored.detokenize(ids.subarray(0, longestText)));
    const found = findCalls(read, language, callsOfText);
    if (found.length > 0) items.push({ text: read, found });
  }
  return items;
}

// The last id may be in the middle of a character or a name.
function wholeLines(text) {
  return text.slice(0, text.lastIndexOf('\n') + 1);
}

/** What is written from before each call of a text on and from its name on; all is read once. */
async function ask(models, name, { text, found }) {
  const session = models[name].createSession();
  const options = { maxTokens, stop: '\n' };
  const outputs = [];
  let read = 0;
  for (const { at, blank, name: called } of found) {
    await session.append(text.slice(read, at));
    read = at;
    const [unnamed, named] = [session.fork(), session.fork()];
    await named.append(blank + called);
    const [call, rest] = await Promise.all([write(unnamed, options), write(named, options)]);
    outputs.push({ call: call.text, rest: rest.text });
    for (const fork of [unnamed, named]) fork.dispose();
  }
  session.dispose();
  return outputs;
}

function tables(items, outputs) {
  const all = items.flatMap(({ found }) => found);
  const verdicts = judgeCases(outputs, (list) => {
    const written = list.flat();
    return all.map((call, i) => judge(call, written[i]));
  });
  const groups = {
    all: () => true,
    'not there before': ({ ago }) => ago === undefined,
    [`last in the ${nearLines} lines before`]: ({ ago }) => ago <= nearLines,
    'last further up': ({ ago }) => ago > nearLines,
  };
  return countRows(all, verdicts, groups, 'name');
}

function judge({ blank, name, arguments: given }, { call, rest }) {
  const written = call.slice(blank.length);
  return {
    calls: 1,
    'name right': Number(/^\w+(?!\$)/.exec(written)?.[0] === name),
    'name and arguments right': Number(call.startsWith(blank + name + given)),
    'arguments right, name given': Number(rest.startsWith(given)),
  };
}

export const calls = { cases: ['anchored', 'twin'], find, ask, tables };
