// Prints ids of texts by the engine's tokenizer, and those of a text with a hole, as JSON. The job
// is read from standard input: { folder, texts, options, hole }.
import { readFileSync } from 'node:fs';
import { loadModel } from 'anchorcoder';

const { folder, texts, options, hole } = JSON.parse(readFileSync(0, 'utf8'));
const model = await loadModel(folder, { threads: 1, ...options });
const printed = { texts: [], hole: [] };
for (const text of texts) printed.texts.push([...(await model.tokenize(text))]);
if (hole) {
  const [prefix, suffix] = hole;
  const prompt = await model.fillInTheMiddle({ prefix, suffix });
  printed.hole = [...prompt.ids];
}
process.stdout.write(JSON.stringify(printed));
model.dispose();
