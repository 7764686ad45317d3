// Requests to a worker thread: one at a time, those that nobody waits for any more are not sent,
// and they keep neither the worker nor the process.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { WorkerClient } from '../../lib/worker-client.js';

/** `slow` is answered after a while, `never` not at all; the answer counts the requests so far. */
const source = `
  import { parentPort } from 'node:worker_threads';
  let count = 0;
  parentPort.on('message', ({ number, kind }) => {
    const reply = { number, value: ++count };
    if (kind === 'slow') setTimeout(() => parentPort.postMessage(reply), 200);
    else if (kind !== 'never') parentPort.postMessage(reply);
  });`;

interface Request {
  kind: 'slow' | 'quick' | 'never';
  extra?: unknown;
}

const reason = new Error('enough');
let folder: string;
let worker: URL;
let client: WorkerClient<Request>;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'worker-client-'));
  worker = pathToFileURL(join(folder, 'worker.mjs'));
  writeFileSync(worker, source);
  client = new WorkerClient(worker, 'counter');
  client.retain();
});
afterAll(() => {
  client.release();
  rmSync(folder, { recursive: true, force: true });
});

const ask = (kind: Request['kind'], signal?: AbortSignal) =>
  client.ask<number>({ kind }, { signal });

test('what is aborted before its turn is never sent, what is at work is let go', async () => {
  const [working, waiting] = [new AbortController(), new AbortController()];
  const dropped = [ask('slow', working.signal), ask('quick', waiting.signal)];
  const kept = ask('quick');
  working.abort(reason);
  waiting.abort(reason);
  const outcomes = await Promise.allSettled(dropped);
  expect(outcomes).toEqual(outcomes.map(() => ({ status: 'rejected', reason })));
  // The slow one and this one.
  expect(await kept).toBe(2);
  await expect(ask('quick', AbortSignal.abort(reason))).rejects.toBe(reason);
  expect(await ask('quick')).toBe(3);
});

test('what cannot be copied rejects, and the next one is answered', async () => {
  const bad = client.ask({ kind: 'quick', extra: () => 0 });
  const good = ask('quick');
  await expect(bad).rejects.toMatchObject({ name: 'DataCloneError' });
  expect(await good).toBe(4);
});

test('the time of a request begins with its turn, and ends the worker', async () => {
  const patience = { milliseconds: 100, sentence: 'it took too long' };
  const before = client.generation;
  const stuck = client.ask({ kind: 'never' }, { patience });
  const behind = ask('quick');
  await expect(stuck).rejects.toMatchObject({ message: patience.sentence });
  await expect(behind).rejects.toMatchObject({ name: 'AnchorError', code: 'ERR_ADDON' });
  expect(await ask('quick')).toBe(1);
  expect(client.generation).toBe(before + 1);
});

test('a process does not stay for an answer that nobody waits for', async () => {
  const built = new URL('../../dist/lib/worker-client.js', import.meta.url).href;
  const script = join(folder, 'user.mjs');
  writeFileSync(
    script,
    `import { WorkerClient } from '${built}';
     const client = new WorkerClient(new URL('${worker.href}'), 'counter');
     client.retain();
     const controller = new AbortController();
     const never = client.ask({ kind: 'never' }, { signal: controller.signal });
     setTimeout(() => controller.abort('enough'), 50);
     console.log(await never.catch((reason) => reason));
     if (process.argv[2] === 'release') client.release();`,
  );
  for (const what of ['release', 'keep']) {
    const run = promisify(execFile)(process.execPath, [script, what], { timeout: 20_000 });
    expect((await run).stdout).toBe('enough\n');
  }
});
