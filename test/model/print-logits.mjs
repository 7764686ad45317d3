// Prints the logits of ids as JSON: a process of its own, because the instruction set is chosen
// once per process. The job is the first argument.
import { loadModel } from 'anchorcoder';

const { folder, ids, policy } = JSON.parse(process.argv[2]);
const model = await loadModel(folder, { compute: 'exact' });
const session = model.createSession({ policy, cacheType: 'f32' });
const half = Math.floor(ids.length / 2);
const parts = [];
for (const part of [ids.slice(0, half), ids.slice(half)]) {
  const logits = await session.append(part, { logits: 'all' });
  parts.push(Buffer.from(logits.buffer, logits.byteOffset, logits.byteLength));
}
const { instructionSet } = model.info;
process.stdout.write(
  JSON.stringify({ instructionSet, logits: Buffer.concat(parts).toString('base64') }),
);
session.dispose();
model.dispose();
