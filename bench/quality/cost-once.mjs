// One session in a process of its own, for cost.mjs: it reads a prompt and generates behind it.
import { readFileSync, writeFileSync } from 'node:fs';
import { loadModel } from 'anchorcoder';
import { timed } from '../common.mjs';

const warmUpIds = 64;

/** Bytes of resident memory: what there is now (`VmRSS`), or the most that there was (`VmHWM`). */
function resident(field) {
  const line = new RegExp(`^${field}:\\s*(\\d+) kB$`, 'm');
  return 1024 * Number(line.exec(readFileSync('/proc/self/status', 'utf8'))[1]);
}

async function generate(session, maxTokens) {
  let first = 0;
  let count = 0;
  for await (const _ of session.generate({ maxTokens, stopTokens: [] })) {
    if (count++ === 0) first = performance.now();
  }
  return (1000 * (count - 1)) / (performance.now() - first);
}

async function measure({ folder, load, ids, settings, tokens }) {
  const model = await loadModel(folder, load);
  // Brings the weights into memory.
  const warm = model.createSession(settings);
  await warm.append(ids.slice(0, warmUpIds));
  await generate(warm, 2);
  warm.dispose();
  global.gc();
  // From here on, VmHWM counts anew: loading may have taken more than reading will.
  writeFileSync('/proc/self/clear_refs', '5');
  const before = resident('VmRSS');
  const session = model.createSession(settings);
  const seconds = await timed(() => session.append(ids));
  const peak = resident('VmHWM') - before;
  const { rows, mirrorRows, bytes, rowBytes, full, anchors } = session.stats();
  const decode = await generate(session, tokens);
  const figures = {
    seconds,
    decode,
    anchorsGenerated: session.stats().anchors - anchors,
    rows: rows + mirrorRows,
    rowBytes,
    bytes,
    fullBytes: full.bytes,
    peak,
  };
  model.dispose();
  return figures;
}

process.once('message', async (job) => {
  process.send(await measure(job));
  process.disconnect();
});
