// Use: what a model that was trained for anchors and its twin write greedily where the texts are
// known: lines and blocks held out, functions from their first lines, calls, and how long both
// write the same.
//   node bench/quality/use.mjs --twin FOLDER --text FILE [--files 100] [--threads 1]
//     [--parts lines,blocks,units,calls,parting] [--sessions 8] [--json FILE] [--outputs FILE]
// `--outputs` keeps what was written, as JSON lines. SIGINT ends each part after the texts at hand,
// and what was measured is reported; tables.mjs prints the result file as Markdown.
import { existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { loadModel } from 'anchorcoder';
import { readOptions, report } from '../common.mjs';
import { calls } from './calls.mjs';
import { blocks, lines } from './filling.mjs';
import { parting } from './parting.mjs';
import { readDocuments } from './texts.mjs';
import { units } from './units.mjs';

const parts = { lines, blocks, units, calls, parting };
const options = readOptions({
  twin: '',
  text: '',
  files: 100,
  parts: Object.keys(parts).join(','),
  sessions: 8,
  outputs: '',
  threads: 1,
});
const { threads } = options;
const asked = options.parts.split(',');
const unknown = asked.find((name) => !Object.hasOwn(parts, name));
if (unknown !== undefined) throw new Error(`Expected parts of ${Object.keys(parts)}: ${unknown}`);

/** The twin, with the other model's tokenizer where its own folder lacks one. */
async function loadTwin() {
  if (existsSync(join(options.twin, 'tokenizer.json'))) return loadModel(options.twin, { threads });
  const folder = mkdtempSync(join(tmpdir(), 'twin-'));
  const link = (from, name) => symlinkSync(resolve(from, name), join(folder, name));
  try {
    for (const name of ['config.json', 'model.safetensors']) link(options.twin, name);
    for (const name of ['tokenizer.json', 'tokenizer_config.json']) link(options.model, name);
    return await loadModel(folder, { threads });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Asks every case about some items at once, one case after the other. */
async function run(name, { cases, ask }, items) {
  const outputs = Object.fromEntries(cases.map((one) => [one, []]));
  let done = 0;
  while (done < items.length && !stopped) {
    const some = items.slice(done, done + options.sessions);
    for (const one of cases) {
      outputs[one].push(...(await Promise.all(some.map((item) => ask(models, one, item)))));
    }
    done += some.length;
    process.stderr.write(`\r${name}: ${done} of ${items.length} texts`);
  }
  process.stderr.write('\n');
  return { items: items.slice(0, done), outputs };
}

let stopped = false;
process.once('SIGINT', () => {
  stopped = true;
});
const models = { anchored: await loadModel(options.model, { threads }), twin: await loadTwin() };
const documents = readDocuments(options.text, options.files);
const tables = {};
const figures = {};
const kept = [];
for (const name of asked) {
  const part = parts[name];
  const { items, outputs } = await run(name, part, await part.find(documents, models));
  if (items.length === 0) continue;
  tables[name] = part.tables(items, outputs);
  const texts = Object.values(outputs).map((list) => list.map((one) => JSON.stringify(one)));
  const same = texts[0].filter((text, i) => text === texts[1][i]).length;
  figures[name] = { texts: items.length, same };
  for (const [i, { held, found }] of items.entries()) {
    const written = Object.entries(outputs).map(([one, list]) => [one, list[i]]);
    kept.push({ part: name, held, found, ...Object.fromEntries(written) });
  }
}
if (options.outputs !== '') {
  writeFileSync(options.outputs, kept.map((one) => `${JSON.stringify(one)}\n`).join(''));
}
report(options, models.anchored, tables, figures);
for (const model of Object.values(models)) model.dispose();
