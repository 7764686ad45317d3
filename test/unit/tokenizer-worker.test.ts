// The worker thread: shared, silent at exit, replaced after a crash, one for each environment.
import { execFile } from 'node:child_process';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openTokenizer, type Tokenizer } from '../../dist/lib/tokenizer/tokenizer.js';
import type { Request } from '../../dist/lib/tokenizer/tokenizer-worker.js';
import { WorkerClient } from '../../dist/lib/worker-client.js';
import { tokenizer as smallTokenizer } from '../model/hostile.js';

type Client = WorkerClient<Request>;

const shipped = fileURLToPath(new URL('../../models/anchor-code-23m', import.meta.url));
const built = new URL('../../dist/lib/tokenizer/', import.meta.url);
const run = promisify(execFile);

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'tokenizer-worker-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function file(name: string, text: string): string {
  const path = join(scratch, name);
  writeFileSync(path, text);
  return path;
}

async function opened(client?: Client): Promise<Tokenizer> {
  const tokenizer = await openTokenizer(shipped, 8192, client);
  if (!tokenizer) throw new Error('no tokenizer');
  return tokenizer;
}

const header = `
  import { openTokenizer } from '${new URL('tokenizer.js', built).href}';
  const tokenizer = await openTokenizer(${JSON.stringify(shipped)}, 8192);
`;

describe('a process', () => {
  async function output(text: string, ...options: string[]): Promise<string> {
    const start = performance.now();
    const path = file('script.mjs', text);
    const { stdout, stderr } = await run(process.execPath, [...options, path], { timeout: 30_000 });
    expect(stderr).toBe('');
    expect(performance.now() - start).toBeLessThan(20_000);
    return stdout.trim();
  }

  test('ends by itself with an open tokenizer', async () => {
    const text = `${header} console.log([...(await tokenizer.encode('a\\n'))].join());`;
    expect(await output(text)).toBe('0,68,202');
  });

  test('stays until an answer that is due', async () => {
    const text = `${header} tokenizer.encode('a'.repeat(200000)).then((x) => console.log(x.length));`;
    expect(Number(await output(text))).toBeGreaterThan(1000);
  });

  test('ends after disposing, and disposing twice is fine', async () => {
    const text = `${header}
      const answer = tokenizer.encode('a\\n');
      tokenizer.dispose();
      tokenizer.dispose();
      console.log([...(await answer)].join());
      await tokenizer.encode('a').catch((error) => console.log(error.code));
      const again = await openTokenizer(${JSON.stringify(shipped)}, 8192);
      console.log((await again.encode('a')).length);
    `;
    expect(await output(text)).toBe('0,68,202\nERR_DISPOSED\n2');
  });

  test('may have options of its own', async () => {
    const hook = file('hook.mjs', 'globalThis.hooked = true;');
    const text = `${header} console.log((await tokenizer.encode('a')).length);`;
    expect(await output(text, '--import', pathToFileURL(hook).href)).toBe('2');
  });

  test('has idle ticks while a long text is encoded', async () => {
    const text = `${header}
      let ticks = 0;
      const timer = setInterval(() => ticks++, 1);
      const { length } = await tokenizer.encode('x = 1\\n'.repeat(100000));
      clearInterval(timer);
      console.log(length > 100000 && ticks > 20);
    `;
    expect(await output(text)).toBe('true');
  });
});

test('every environment has a worker of its own', async () => {
  const path = file(
    'user.mjs',
    `import { parentPort } from 'node:worker_threads'; ${header}
     parentPort.postMessage([...(await tokenizer.encode('a\\n'))].join());`,
  );
  const workers = [1, 2, 3].map(() => new Worker(path));
  const answers = workers.map((worker) => {
    return new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject));
  });
  const exits = workers.map((worker) => new Promise((resolve) => worker.on('exit', resolve)));
  expect(await Promise.all(answers)).toEqual(['0,68,202', '0,68,202', '0,68,202']);
  expect(await Promise.all(exits)).toEqual([0, 0, 0]);
});

test('many requests at once are answered each by itself', async () => {
  const tokenizers = await Promise.all([opened(), opened()]);
  const texts = Array.from({ length: 200 }, (_, i) => `line ${i}\n`.repeat(1 + (i % 7)));
  const answers = await Promise.all(texts.map((text, i) => tokenizers[i % 2]?.encode(text)));
  answers.forEach((ids, i) => {
    expect(tokenizers[0]?.decode(ids ?? [])).toBe(texts[i]);
  });
  for (const tokenizer of tokenizers) tokenizer.dispose();
});

describe('a worker that dies', () => {
  // The real worker behind a door that words in the text can slam.
  function fragile(): Client {
    const door = file(
      'door.mjs',
      `import { parentPort } from 'node:worker_threads';
       parentPort.on('message', ({ text }) => {
         if (text === 'exit') process.exit(3);
         if (text === 'later') setTimeout(() => { throw new Error('on purpose'); }, 50);
         if (text !== 'memory') return;
         // An error here does not keep the real one from its answer.
         parentPort.postMessage = () => {};
         throw Object.assign(new Error('full'), { code: 'ERR_WORKER_OUT_OF_MEMORY' });
       });`,
    );
    // Imported first, so that it hears every message first.
    const path = file(
      'fragile.mjs',
      `import '${pathToFileURL(door).href}';
       import '${new URL('tokenizer-worker.js', built).href}';`,
    );
    return new WorkerClient(pathToFileURL(path), 'tokenizer');
  }

  test.each([
    ['exit', 'ERR_ADDON', 'exited with code 3'],
    ['memory', 'ERR_OUT_OF_MEMORY', 'full'],
  ])('by %s fails what waits, and is replaced', async (word, code, message) => {
    const client = fragile();
    const [tokenizer, other] = [await opened(client), await opened(client)];
    const error = { name: 'AnchorError', code, message: expect.stringContaining(message) };
    const waiting = [tokenizer.encode(word), other.encode(word)];
    for (const outcome of await Promise.allSettled(waiting)) {
      expect(outcome).toMatchObject({ status: 'rejected', reason: error });
    }
    const again = await Promise.all([other.encode('a\n'), tokenizer.encode('a\n')]);
    expect(again.map((ids) => Array.from(ids))).toEqual([
      [0, 68, 202],
      [0, 68, 202],
    ]);
    tokenizer.dispose();
    other.dispose();
  });

  test('while nothing waits is replaced as well', async () => {
    const client = fragile();
    const tokenizer = await opened(client);
    await tokenizer.encode('later');
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(client.generation).toBe(0);
    expect(Array.from(await tokenizer.encode('a\n'))).toEqual([0, 68, 202]);
    tokenizer.dispose();
  });

  test('and a tokenizer that cannot be opened again at once, is tried again', async () => {
    const client = fragile();
    const folder = mkdtempSync(join(scratch, 'again-'));
    const path = join(folder, 'tokenizer.json');
    writeFileSync(path, JSON.stringify(smallTokenizer({})));
    const tokenizer = (await openTokenizer(folder, 64, client)) as Tokenizer;
    const ids = await tokenizer.encode('ab');
    await expect(tokenizer.encode('exit')).rejects.toMatchObject({ code: 'ERR_ADDON' });
    renameSync(path, `${path}.away`);
    const gone = { name: 'AnchorError', code: 'ERR_MODEL_UNSUPPORTED' };
    for (const _ of [1, 2]) {
      const both = await Promise.allSettled([tokenizer.encode('ab'), tokenizer.encode('ab')]);
      for (const { reason } of both as PromiseRejectedResult[]) expect(reason).toMatchObject(gone);
    }
    renameSync(`${path}.away`, path);
    expect(await tokenizer.encode('ab')).toEqual(ids);
    tokenizer.dispose();
  });

  test('with its file missing says so', async () => {
    const client = new WorkerClient<Request>(pathToFileURL(join(scratch, 'none.mjs')), 'tokenizer');
    await expect(opened(client)).rejects.toMatchObject({ name: 'AnchorError', code: 'ERR_ADDON' });
  });
});

describe('a pattern that never ends', () => {
  const endless = { Regex: '(a+)+$|[^a]+' };
  const text = `${'a'.repeat(60)}b`;

  function hostile(change: Record<string, unknown>, patience: number): Promise<Tokenizer> {
    const folder = mkdtempSync(join(scratch, 'endless-'));
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(smallTokenizer(change)));
    return openTokenizer(folder, 64, undefined, patience) as Promise<Tokenizer>;
  }

  test('ends its own call, and neither those of others nor later ones', async () => {
    const split = { type: 'Split', behavior: 'Isolated', pattern: endless };
    const level = { type: 'ByteLevel', use_regex: false };
    const pre_tokenizer = { type: 'Sequence', pretokenizers: [split, level] };
    const other = await opened();
    const tokenizer = await hostile({ pre_tokenizer }, 0.1);
    const start = performance.now();
    const stuck = expect(tokenizer.encode(text)).rejects.toMatchObject({
      name: 'AnchorError',
      code: 'ERR_MODEL_INVALID',
      message: expect.stringMatching(/a text of 61 characters took .* more than 1.1 seconds/),
    });
    // Both wait behind it, and are asked again.
    const waiting = await Promise.all([other.encode('a\n'), tokenizer.encode('b')]);
    await stuck;
    expect(performance.now() - start).toBeLessThan(20_000);
    expect(waiting.map((ids) => Array.from(ids))).toEqual([[0, 68, 202], [3]]);
    expect(Array.from(await tokenizer.encode('ba'))).toEqual([3, 2]);
    tokenizer.dispose();
    other.dispose();
  });
});
