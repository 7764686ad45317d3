// Environments that end: worker threads that are terminated in mid-generation, processes that leave
// sessions undisposed.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = `${root}models/anchor-code-23m`;
const library = new URL('../../dist/lib/index.js', import.meta.url).href;

/** A program that generates without end; `ready` is called after its first token. */
const program = (ready: string) => `
  import { loadModel } from ${JSON.stringify(library)};
  const model = await loadModel(${JSON.stringify(folder)});
  const session = model.createSession();
  await session.append('def add(a, b):\\n');
  for await (const _ of session.generate({ stopTokens: [], maxTokens: 1500 })) { ${ready} }
`;

function startWorker(source: string): Worker {
  const url = new URL(`data:text/javascript,${encodeURIComponent(source)}`);
  return new Worker(url);
}

/** Exit code and output of a child process; it is killed after half a minute. */
function run(source: string): Promise<{ code: number | null; output: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', source], { cwd: root });
    let output = '';
    child.stdout.on('data', (data) => {
      output += data;
    });
    child.stderr.on('data', (data) => {
      output += data;
    });
    const deadline = setTimeout(() => child.kill('SIGKILL'), 30_000);
    child.on('exit', (code) => {
      clearTimeout(deadline);
      resolve({ code, output });
    });
  });
}

test('a worker is terminated in mid-generation, again and again, and others go on', async () => {
  using model = await loadModel(folder);
  const answer = async () => (await model.complete('def add(a, b):\n', { maxTokens: 24 })).text;
  const expected = await answer();
  const ready = `(await import('node:worker_threads')).parentPort.postMessage('token');`;
  for (let round = 0; round < 4; ++round) {
    const worker = startWorker(program(ready));
    await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    const during = answer();
    expect(await worker.terminate()).toBe(1);
    expect(await during).toBe(expected);
  }
  expect(await answer()).toBe(expected);
}, 120_000);

// In a process of its own, which a fault ends.
test('workers are terminated at moments of all kinds, while they load too', async () => {
  const { code, output } = await run(`
    import { Worker } from 'node:worker_threads';
    import { setTimeout as sleep } from 'node:timers/promises';
    const url = new URL(${JSON.stringify(`data:text/javascript,${encodeURIComponent(program(''))}`)});
    for (let round = 0; round < 16; ++round) {
      const workers = [new Worker(url), new Worker(url)];
      await sleep(20 * round);
      await Promise.all(workers.map((worker) => worker.terminate()));
    }
    console.log('done');
  `);
  expect(output).toBe('done\n');
  expect(code).toBe(0);
}, 60_000);

test('a worker ends by itself with its model undisposed', async () => {
  const source = `
    import { loadModel } from ${JSON.stringify(library)};
    const model = await loadModel(${JSON.stringify(folder)});
    const { text } = await model.complete('x = ', { maxTokens: 8 });
    (await import('node:worker_threads')).parentPort.postMessage(text.length);
  `;
  const worker = startWorker(source);
  const code = await new Promise((resolve) => worker.once('exit', resolve));
  expect(code).toBe(0);
}, 60_000);

test('a process ends by itself once nothing is pending', async () => {
  const { code, output } = await run(`
    import { loadModel } from ${JSON.stringify(library)};
    const model = await loadModel(${JSON.stringify(folder)});
    const session = model.createSession();
    await session.append('x = 1\\n');
    console.log('waited for', session.position);
  `);
  expect(output).toMatch(/^waited for \d+\n$/);
  expect(code).toBe(0);
}, 60_000);

test('a process may exit in the middle of a pass', async () => {
  const { code, output } = await run(program('process.exit(7);'));
  expect(output).toBe('');
  expect(code).toBe(7);
}, 60_000);
