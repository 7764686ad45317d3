// Lets the executor wait for readers: several generations, none of which is read for a while.
import { setTimeout } from 'node:timers/promises';
import { loadModel } from 'anchorcoder';

const { textModel, textIds } = JSON.parse(process.env.PACKAGE_CASE);
const model = await loadModel(textModel);

async function generate() {
  const session = model.createSession();
  await session.append(textIds);
  let count = 0;
  for await (const _ of session.generate({ maxTokens: 60, stopTokens: [] })) {
    // Longer than the tokens take that are made ahead.
    if (count++ === 0) await setTimeout(300);
  }
}

await Promise.all([generate(), generate(), generate()]);
model.dispose();
