// Time to the first token of a text whose beginning is known: read anew, from the prefix cache,
// from another session, from a snapshot in a file.
//   node bench/prefix.mjs [--prefixes 1000] [--question 32] [--rounds 7] [--json FILE]
// A model with a longer context: --model FOLDER --prefixes 1000,8000 --policy full
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadModel } from 'anchorcoder';
import { codeIds, readOptions, report, summarise, timed } from './common.mjs';

const options = readOptions({ prefixes: '1000', question: 32, rounds: 7, policy: 'own' });
const { question: length, rounds } = options;
const prefixes = options.prefixes.split(',').map(Number);
const model = await loadModel(options.model, { prefixCache: { bytes: 2 ** 30 } });
const ids = await codeIds(model, Math.max(...prefixes) + (rounds + 1) * length);
const policy = options.policy === 'own' ? model.info.defaultPolicy : { kind: options.policy };
const folder = mkdtempSync(join(tmpdir(), 'anchorcoder-bench-'));

/** Milliseconds until a session that `open` makes has read the rest and generated a token. */
async function firstToken(open, rest, reused) {
  let session;
  const seconds = await timed(async () => {
    session = await open();
    await session.append(rest);
    for await (const _ of session.generate({ maxTokens: 1, stopTokens: [] }));
  });
  const own = session.stats().reusedTokens;
  if (own < reused) throw new Error(`Expected ${reused} reused tokens, but there are ${own}`);
  session.dispose();
  return 1000 * seconds;
}

async function measure(prefix, round) {
  const beginning = ids.slice(0, prefix);
  // A question that no round had before, so that no cache knows it.
  const at = Math.max(...prefixes) + round * length;
  const question = ids.slice(at, at + length);
  const whole = Uint32Array.from([...beginning, ...question]);
  const from = model.createSession({ policy });
  await from.append(beginning);
  const file = join(folder, `${prefix}.snapshot`);
  const save = 1000 * (await timed(() => from.saveSnapshot(file)));
  const known = 0.9 * prefix; // back to the last line's end
  const result = {
    cold: await firstToken(() => model.createSession({ policy, prefixCache: false }), whole, 0),
    warm: await firstToken(() => model.createSession({ policy }), whole, known),
    forked: await firstToken(() => model.createSession({ from }), question, 0),
    restored: await firstToken(() => model.restore(file), question, 0),
    save,
    fileBytes: statSync(file).size,
  };
  from.dispose();
  return result;
}

const figures = {};
const rows = [];
for (const prefix of prefixes) {
  await measure(prefix, rounds);
  const all = [];
  for (let round = 0; round < rounds; ++round) all.push(await measure(prefix, round));
  const summary = summarise(all);
  figures[prefix] = summary;
  const value = (name) => summary[name].median;
  const row = (what, name) => ({
    prefix,
    'first token': what,
    ms: value(name),
    'of reading anew': value(name) / value('cold'),
  });
  rows.push(
    row('read anew', 'cold'),
    row('prefix cache', 'warm'),
    row('from a session', 'forked'),
    row('from a file', 'restored'),
  );
  const mebibytes = (value('fileBytes') / 2 ** 20).toFixed(1);
  console.log(`${prefix} tokens: saved in ${value('save').toFixed(1)} ms, ${mebibytes} MiB`);
}
report(options, model, rows, figures);
rmSync(folder, { recursive: true });
model.dispose();
