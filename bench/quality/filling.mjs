// Filling in the middle: one line of each text, or the body of one block, is held out.
import { countRows, judgeCases, languages } from './counts.mjs';
import { cutBlock, findBlock, findLine, firstLines, lastLines } from './held-out.mjs';
import { parseAll } from './parsers.mjs';
import { greedy } from './writing.mjs';

const before = { lines: 60, characters: 4000 };
const behind = { lines: 20, characters: 1000 };

const firstLine = (text) => text.split('\n')[0];

// The models seldom stop by themselves, so what they write is cut as an editor would.
export const lines = filling(findLine, firstLine, 48);
export const blocks = filling(findBlock, cutBlock, 128);

function filling(findHole, cut, maxTokens) {
  async function find(documents, { anchored }) {
    const items = [];
    for (const { t: text, l: language } of documents) {
      const hole = findHole(text, language);
      if (hole === undefined) continue;
      const prefix = lastLines(hole.before, before.lines, before.characters);
      const suffix = firstLines(hole.behind, behind.lines, behind.characters);
      const ids = await anchored.tokenize(prefix + suffix);
      // Texts of very short ids, such as numbers, may not fit; the marks are ids, too.
      const fits = ids.length + 2 * maxTokens <= anchored.info.contextLength;
      if (fits) items.push({ ...hole, language, prefix, suffix });
    }
    return items;
  }

  async function ask(models, name, { prefix, suffix }) {
    const { text, finish } = await models[name].complete(prefix, { suffix, maxTokens, ...greedy });
    return { text, stops: finish === 'stop' };
  }

  return {
    cases: ['anchored', 'twin'],
    find,
    ask,
    tables: (items, outputs) => tables(items, outputs, cut),
  };
}

function tables(items, outputs, cut) {
  const parsed = parseFilled(
    items,
    items.map(({ held }) => held),
  );
  const verdicts = judgeCases(outputs, (list) => {
    const cuts = items.map(({ held }, i) => cut(list[i].text, held, list[i].stops));
    const parses = parseFilled(items, cuts);
    return items.map(({ held }, i) => ({
      ...compare(held, cuts[i], list[i]),
      'parsed before': Number(parsed[i]),
      'and parse': Number(parsed[i] && parses[i]),
    }));
  });
  return countRows(items, verdicts, { all: () => true, ...languages }, 'language');
}

function parseFilled(items, fillings) {
  const whole = ({ before, behind, language }, i) => ({
    text: before + fillings[i] + behind,
    language,
  });
  return parseAll(items.map(whole));
}

/** Blanks at the ends of lines do not count, but for `exact`. */
function compare(held, cut, { text, stops }) {
  const [wanted, written, own] = [held, text, cut].map(trimmedLines);
  const wrong = wanted.findIndex((line, i) => line !== written[i]);
  const right = wrong < 0 ? wanted.length : wrong;
  const ofBlocks = {
    'exact when cut': Number(own.join('\n') === wanted.join('\n')),
    'begins with it': Number(right === wanted.length),
    'lines right': right,
    'of lines': wanted.length,
  };
  return {
    texts: 1,
    exact: Number(text === held && stops),
    'first line': Number(right > 0),
    ...(wanted.length > 1 ? ofBlocks : {}),
    stops: Number(stops),
  };
}

const trimmedLines = (text) => text.split('\n').map((line) => line.trimEnd());
