// Prints the logits of ids under each of several policies, as JSON of base64. The job is read
// from standard input: { folder, options, ids, policies }.
import { readFileSync } from 'node:fs';
import { loadModel } from 'anchorcoder';

const { folder, options, ids, policies } = JSON.parse(readFileSync(0, 'utf8'));
const model = await loadModel(folder, { compute: 'exact', threads: 1, ...options });
const printed = [];
for (const policy of policies) {
  const session = model.createSession({ policy, cacheType: 'f32' });
  const logits = await session.append(ids, { logits: 'all' });
  const bytes = Buffer.from(logits.buffer, logits.byteOffset, logits.byteLength);
  printed.push(bytes.toString('base64'));
  session.dispose();
}
process.stdout.write(JSON.stringify(printed));
model.dispose();
