// Eight sessions at once against the same eight one after another.
//   node bench/sessions.mjs [--sessions 8] [--tokens 128] [--prompt 128] [--rounds 7] [--json FILE]
import { loadModel } from 'anchorcoder';
import { codeIds, readOptions, report, summarise, timed } from './common.mjs';

const options = readOptions({ sessions: 8, tokens: 128, prompt: 128, rounds: 7 });
const { sessions: count, tokens, prompt, rounds } = options;
const model = await loadModel(options.model);
const ids = await codeIds(model, count * prompt);
const prompts = Array.from({ length: count }, (_, i) => ids.slice(i * prompt, (i + 1) * prompt));
const settings = { maxTokens: tokens, stopTokens: [] };

async function generate(session) {
  for await (const _ of session.generate(settings));
}

/** Seconds to read all prompts, and to generate from all of them. */
async function measure(together) {
  const sessions = prompts.map(() => model.createSession());
  const each = async (call) => {
    if (together) await Promise.all(sessions.map(call));
    else for (const [i, session] of sessions.entries()) await call(session, i);
  };
  const read = await timed(() => each((session, i) => session.append(prompts[i])));
  const decode = await timed(() => each((session) => generate(session)));
  for (const session of sessions) session.dispose();
  return { read, decode };
}

const figures = [];
await measure(true);
for (let round = 0; round < rounds; ++round) {
  const turns = [];
  // Taking turns at being first.
  for (const together of round % 2 === 0 ? [false, true] : [true, false]) {
    turns[together ? 1 : 0] = await measure(together);
  }
  const [alone, all] = turns;
  const total = count * tokens;
  figures.push({
    generateAlone: total / alone.decode,
    generateTogether: total / all.decode,
    generateRatio: alone.decode / all.decode,
    readAlone: (count * prompt) / alone.read,
    readTogether: (count * prompt) / all.read,
    readRatio: alone.read / all.read,
    bothRatio: (alone.read + alone.decode) / (all.read + all.decode),
  });
}
const summary = summarise(figures);
const row = (what, name) => ({
  what,
  'one by one, tokens/s': summary[`${name}Alone`].median,
  'at once, tokens/s': summary[`${name}Together`].median,
  ratio: summary[`${name}Ratio`].median,
  'lowest ratio': summary[`${name}Ratio`].range[0],
});
report(options, model, [row('generate', 'generate'), row('read prompts', 'read')], summary);
model.dispose();
