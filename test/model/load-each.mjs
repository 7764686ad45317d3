// Loads folders one after the other in a process of its own, where nothing else takes time or
// memory. Reads a JSON list of folders from stdin; prints what became of each and the peak memory.
import { text } from 'node:stream/consumers';
import { loadModel } from 'anchorcoder';

const [warmUp, ...folders] = JSON.parse(await text(process.stdin));
const peakBytes = () => process.resourceUsage().maxRSS * 1024;

async function load(folder) {
  try {
    const model = await loadModel(folder);
    const session = model.createSession();
    const logits = await session.append([1, 2, 3], { logits: 'last' });
    for await (const { id } of session.generate({ maxTokens: 3, stopTokens: [] })) void id;
    model.dispose();
    return { logits: [...logits].map(String), warnings: model.info.warnings };
  } catch ({ name, code, message }) {
    return { name, code, message };
  }
}

// Everything that loads once: the addon, the worker.
await load(warmUp);
const before = peakBytes();
const results = [];
for (const folder of folders) {
  const start = performance.now();
  const used = process.cpuUsage();
  const result = await load(folder);
  const { user, system } = process.cpuUsage(used);
  const milliseconds = performance.now() - start;
  results.push({ ...result, milliseconds, cpuMilliseconds: (user + system) / 1000 });
}
process.stdout.write(JSON.stringify({ results, grownBytes: peakBytes() - before }));
