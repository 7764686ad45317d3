// Where greedy tokens part from the twin's: from the same ids, the index of the first other one.
import { greedy } from './writing.mjs';

const promptIds = 512;
const maxTokens = 500;
const sinks = 4;

/** The others are compared with the twin; the window is as large as the anchored session. */
const cases = ['anchored', 'twin', 'twin-int8', 'twin-window'];

async function find(documents, { anchored }) {
  const items = [];
  const [, insertId] = await anchored.tokenize('\n', { addSpecial: false });
  for (const { t: text } of documents) {
    const ids = await anchored.tokenize(text);
    if (ids.length < promptIds) continue;
    // A newline's anchor is read with it, as it would be while generating.
    const end = promptIds + Number(ids[promptIds] === insertId);
    items.push({ ids: ids.slice(0, end), rows: 0 });
  }
  return items;
}

async function ask(models, name, item) {
  const model = name === 'anchored' ? models.anchored : models.twin;
  const session = model.createSession(settingsOf(name, item.rows, model.info.layers));
  await session.append(item.ids);
  const ids = [];
  const options = { maxTokens, stopTokens: [], ...greedy };
  for await (const { id } of session.generate(options)) ids.push(id);
  const { rows, mirrorRows } = session.stats();
  if (name === 'anchored') item.rows = rows + mirrorRows;
  session.dispose();
  return ids;
}

function settingsOf(name, rows, layers) {
  if (name === 'anchored') return {};
  if (name === 'twin') return { policy: { kind: 'full' } };
  if (name === 'twin-int8') return { policy: { kind: 'full' }, cacheType: 'int8' };
  return { policy: { kind: 'window', size: Math.round(rows / layers) - sinks, sinks } };
}

function tables(_, { twin, ...others }) {
  return Object.entries(others).map(([name, list]) => {
    const places = list.map((ids, i) => commonIds(ids, twin[i])).sort((a, b) => a - b);
    const sum = places.reduce((a, b) => a + b, 0);
    return {
      case: name,
      texts: places.length,
      'part at the first id': places.filter((at) => at === 0).length,
      'first quartile': quantile(places, 0.25),
      median: quantile(places, 0.5),
      'third quartile': quantile(places, 0.75),
      mean: Math.round((10 * sum) / places.length) / 10,
      'do not part': places.filter((at) => at === maxTokens).length,
    };
  });
}

function commonIds(ids, others) {
  const at = ids.findIndex((id, i) => id !== others[i]);
  return at < 0 ? ids.length : at;
}

function quantile(sorted, share) {
  return sorted[Math.round(share * (sorted.length - 1))];
}

export const parting = { cases, find, ask, tables };
