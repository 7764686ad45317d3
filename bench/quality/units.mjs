// Writing a function or class from its first line: does it end, and does the text parse then?
import { countRows, judgeCases, languages } from './counts.mjs';
import { cutUnit, findUnits, isUnitOver, lastLines } from './held-out.mjs';
import { parseAll } from './parsers.mjs';
import { write } from './writing.mjs';

const context = { lines: 80, characters: 4000 };
const maxTokens = 192;
const mostTried = 8;
const unitsOfText = 2;

/** The first units of each text that end soon enough, and before which the text parses. */
async function find(documents, { anchored }) {
  const items = [];
  for (const { t: text, l: language } of documents) {
    const tried = findUnits(text, language).slice(0, mostTried);
    const parsed = parseAll(tried.map(({ start }) => ({ text: start, language })));
    const chosen = [];
    for (const unit of tried.filter((_, i) => parsed[i])) {
      if (chosen.length === unitsOfText) break;
      const prefix = lastLines(unit.before, context.lines, context.characters);
      const own = cutUnit(unit.held, language, true);
      const room = anchored.info.contextLength - 2 * maxTokens;
      if (!own.ends || (await count(anchored, own.text)) >= maxTokens) continue;
      if ((await count(anchored, prefix)) > room) continue;
      chosen.push({ ...unit, held: own.text, language, prefix });
    }
    items.push(...chosen);
  }
  return items;
}

const count = async (model, text) =>
  (await model.tokenize(text, { addSpecial: false, insertAnchors: false })).length;

async function ask(models, name, { prefix, language }) {
  const session = models[name].createSession();
  await session.append(prefix);
  const output = await write(session, { maxTokens }, (text) => isUnitOver(text, language));
  session.dispose();
  return output;
}

function tables(items, outputs) {
  const original = items.map(({ held }) => ({ text: held, stops: true }));
  const verdicts = judgeCases({ ...outputs, original }, (list) => judge(items, list));
  return countRows(items, verdicts, languages, 'language');
}

function judge(items, outputs) {
  const cuts = items.map(({ language }, i) => cutUnit(outputs[i].text, language, outputs[i].stops));
  const parsed = parseAll(
    items.map(({ before, language }, i) => ({ text: before + cuts[i].text, language })),
  );
  return cuts.map(({ ends }, i) => ({
    units: 1,
    'end and parse': Number(ends && parsed[i]),
    'end and do not parse': Number(ends && !parsed[i]),
    'do not end': Number(!ends),
    'of these parse as far as written': Number(!ends && parsed[i]),
  }));
}

export const units = { cases: ['anchored', 'twin'], find, ask, tables };
