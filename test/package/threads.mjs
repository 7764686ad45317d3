// The package in worker threads alone, two at a time and two in turn. The addon's own threads go
// on after the last of them, so it must not be unloaded with it.
import { deepEqual } from 'node:assert/strict';
import { once } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';

async function run() {
  const worker = new Worker(new URL('esm.mjs', import.meta.url));
  const [code] = await once(worker, 'exit');
  deepEqual(code, 0);
}

await Promise.all([run(), run()]);
await setTimeout(100);
await run();
