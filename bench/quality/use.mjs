// Use: one line of each text is held out and filled in greedily, by a model that was trained for
// anchors and by its twin: the same line, the same first line, and whether the text parses with it.
//   node bench/quality/use.mjs --twin FOLDER --text FILE [--files 100] [--json FILE]
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { loadModel } from 'anchorcoder';
import ts from 'typescript';
import { readOptions, report } from '../common.mjs';
import { readDocuments } from './texts.mjs';

const linesBefore = 60;
const linesBehind = 20;
const fewestCharacters = 10;
const maxTokens = 48;

const options = readOptions({ twin: '', text: '', files: 100, threads: 1 });
const { threads } = options;

/** The twin with the other model's tokenizer beside it, which its own folder lacks. */
async function loadTwin() {
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

/** The first line from the middle of the text on that has something to say, with its indent. */
function holdOut({ t: text, l: language }) {
  const lines = text.split('\n');
  const middle = lines.length >> 1;
  const at = lines.findIndex((line, i) => i >= middle && line.trim().length >= fewestCharacters);
  if (at < 0) return undefined;
  const line = lines[at];
  const before = lines.slice(0, at).map((one) => `${one}\n`);
  const behind = lines.slice(at + 1).map((one) => `\n${one}`);
  return {
    language,
    line,
    prefix: before.slice(-linesBefore).join(''),
    suffix: behind.slice(0, linesBehind).join(''),
    whole: (filled) => before.join('') + filled + behind.join(''),
  };
}

/** (texts) whether each is Python. */
function parsePython(texts) {
  const program = `
import ast, json, sys
def parses(text):
    try:
        ast.parse(text)
        return True
    except (SyntaxError, ValueError):
        return False
print(json.dumps([parses(text) for text in json.load(sys.stdin)]))`;
  const input = JSON.stringify(texts);
  const command = ['-W', 'ignore', '-c', program];
  return JSON.parse(execFileSync('python3', command, { input, encoding: 'utf8' }));
}

function parsesAsScript(text, language) {
  const { diagnostics } = ts.transpileModule(text, {
    fileName: `text.${language}`,
    reportDiagnostics: true,
    compilerOptions: { allowJs: true, target: ts.ScriptTarget.ESNext },
  });
  return diagnostics.length === 0;
}

/** (items) whether each text parses; `fillings` are put where the lines were held out. */
function parseAll(items, fillings) {
  const texts = items.map((item, i) => item.whole(fillings[i]));
  const python = parsePython(texts.filter((_, i) => items[i].language === 'py'));
  return texts.map((text, i) => {
    const { language } = items[i];
    return language === 'py' ? python.shift() : parsesAsScript(text, language);
  });
}

async function fill(model, { prefix, suffix }) {
  const settings = { suffix, maxTokens, temperature: 0, repetitionPenalty: 1 };
  const { text, finish } = await model.complete(prefix, settings);
  return { text, ended: finish === 'stop' };
}

const models = { anchored: await loadModel(options.model, { threads }), twin: await loadTwin() };
const items = readDocuments(options.text, options.files)
  .map(holdOut)
  .filter((item) => item !== undefined);
const filled = { anchored: [], twin: [] };
for (const [i, item] of items.entries()) {
  for (const [name, model] of Object.entries(models)) filled[name].push(await fill(model, item));
  process.stderr.write(`\r${i + 1} of ${items.length} lines`);
}
process.stderr.write('\n');

const lines = items.map(({ line }) => line);
const parsed = parseAll(items, lines);
const firstLine = (text) => text.split('\n')[0].trimEnd();
const count = (list) => list.filter(Boolean).length;
const rows = Object.entries(filled).map(([name, outputs]) => {
  const texts = outputs.map(({ text }) => text);
  const parses = parseAll(items, texts.map(firstLine));
  return {
    model: name,
    lines: lines.length,
    exact: count(texts.map((text, i) => text === lines[i])),
    'first line': count(texts.map((text, i) => firstLine(text) === lines[i].trimEnd())),
    ended: count(outputs.map(({ ended }) => ended)),
    'parsed before': count(parsed),
    'and parse': count(parses.map((one, i) => one && parsed[i])),
  };
});
const same = count(filled.twin.map(({ text }, i) => text === filled.anchored[i].text));
console.log(`both models write the same for ${same} of ${lines.length} lines`);
report(options, models.anchored, rows, { same });
for (const model of Object.values(models)) model.dispose();
