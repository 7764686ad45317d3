// The command `compare` as people run it: a process of its own, with the built files.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from '@jest/globals';
import { DOMParser } from '@xmldom/xmldom';

const root = fileURLToPath(new URL('../..', import.meta.url));
const text = readFileSync(join(root, 'examples', 'inventory.py'), 'utf8').slice(0, 600);
const folder = mkdtempSync(join(tmpdir(), 'anchorcoder-compare-'));
const file = join(folder, 'text.py');
writeFileSync(file, text);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Result {
  stdout: string;
  stderr: string;
  code: number | null;
}

function run(args: readonly string[], input = '', interruptAfter?: number): Promise<Result> {
  const child = spawn(process.execPath, [join(root, 'dist/lib/cli.js'), 'compare', ...args]);
  const out = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (piece: string) => {
    out.stdout += piece;
  });
  child.stderr.setEncoding('utf8').on('data', (piece: string) => {
    // The first note says that the model has been loaded.
    if (out.stderr === '' && interruptAfter !== undefined) {
      setTimeout(() => child.kill('SIGINT'), interruptAfter);
    }
    out.stderr += piece;
  });
  child.stdin.on('error', () => {}); // a command that fails at once reads nothing
  child.stdin.end(input);
  return new Promise((resolve, reject) => {
    child.on('error', reject).on('close', (code) => resolve({ ...out, code }));
  });
}

test('prints tables: the usual cases, with a window of about as many rows', async () => {
  const { stdout, stderr, code } = await run(['--file', file]);
  expect(code).toBe(0);
  expect(stderr).toContain('small demonstration model');
  expect(stdout).toMatch(/^reference +own attention, rows in bf16$/m);
  expect(stdout).toMatch(/^own attention +0 +0 +0 +0 +100\.0 % /m);
  expect(stdout).toMatch(/^full +[\d.]+ /m);
  expect(stdout).toMatch(/^own attention, int8 +[\d.e-]+ /m);
  expect(stdout).toMatch(/A: of a full cache of the same ids in bf16/);
  expect(stdout).toMatch(/B: of the text without inserted anchors/);
  const rowsOf = (name: string) => {
    const row = new RegExp(`^${name} +([\\d,]+) +[\\d.]+ % +[\\d.]+ % +[\\d.]+ [KM]iB`, 'm');
    return Number(row.exec(stdout)?.[1]?.replace(',', ''));
  };
  const [own, window] = [rowsOf('own attention'), rowsOf('window:\\d+,4 denseLayers=0,8')];
  expect(Math.abs(window / own - 1)).toBeLessThan(0.1);
});

test('--json: every policy with every type, from a file or stdin', async () => {
  const args = ['--policy', 'full', '--policy', 'window:16,2', '-q', '--json', '-'];
  const types = ['--cache-type', 'f16', '--cache-type', 'int8'];
  const [{ stdout, stderr, code }, stdin] = await Promise.all([
    run([...args, ...types, '--decode', '4', '--file', file]),
    run([...args, ...types, '--decode', '4'], text),
  ]);
  expect({ stderr, code }).toEqual({ stderr: '', code: 0 });
  const { cases, reference, targets, ids, ...rest } = JSON.parse(stdout);
  const names = cases.map(({ name }: { name: string }) => name);
  expect(names).toEqual(['full, f16', 'full, int8', 'window:16,2, f16', 'window:16,2, int8']);
  expect(rest).toMatchObject({
    version: expect.any(String),
    model: { layers: 16 },
    targetBytes: Buffer.byteLength(text),
  });
  expect(targets.length).toBe(ids.length - 1 - rest.insertedAnchors);
  for (const one of [reference, ...cases]) {
    for (const values of [one.tokenKl, one.tokenNats, one.tokenAgrees]) {
      expect(values).toHaveLength(targets.length);
      expect(values.every(Number.isFinite)).toBe(true);
    }
    const mean = one.tokenKl.reduce((a: number, b: number) => a + b, 0) / targets.length;
    expect(one.klDivergence.mean).toBeCloseTo(mean, 12);
    expect(one.decode.tokensPerSecond).toBeGreaterThan(0);
  }
  expect(JSON.parse(stdin.stdout).cases[2].tokenKl).toEqual(cases[2].tokenKl);
});

test('--svg and --json write files beside the tables', async () => {
  const [svg, json] = [join(folder, 'kl.svg'), join(folder, 'kl.json')];
  const { stdout, code } = await run(['--policy', 'full', '--svg', svg, '--json', json, text]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^reference +own/);
  const { targets } = JSON.parse(readFileSync(json, 'utf8'));
  const document = new DOMParser().parseFromString(readFileSync(svg, 'utf8'), 'image/svg+xml');
  const [line, ...more] = Array.from(document.getElementsByTagName('polyline'));
  expect(more).toEqual([]);
  const numbers = (line?.getAttribute('points') ?? '').split(/[ ,]/).map(Number);
  const span = Math.min(64, Math.ceil(targets.length / 8));
  expect(numbers).toHaveLength(2 * (targets.length - span + 1));
  expect(numbers.every(Number.isFinite)).toBe(true);
  const alone = await run(['-q', '--policy', 'full', '--svg', '-', text]);
  expect(alone.stdout).toBe(readFileSync(svg, 'utf8'));
});

test('Ctrl-C: one line, and exit code 130', async () => {
  const { stdout, stderr, code } = await run(['--decode', '1500', text], '', 1500);
  expect({ stdout, code }).toEqual({ stdout: '', code: 130 });
  expect(stderr).toMatch(/\nERR_ABORTED: [^\n]+\n$/);
});

describe('one sentence and an exit code', () => {
  test.each<[string, string[], number]>([
    ['an unknown policy', ['--policy', 'half', text], 2],
    ['a policy with an unknown word', ['--policy', '{"kind":"full","x":1}', text], 2],
    ['a policy of a layer that is not there', ['--policy', '{"kind":"anchor","per":0}', text], 2],
    ['an unknown type of rows', ['--cache-type', 'q4', text], 2],
    ['the same case twice', ['--policy', 'full', '--policy', 'full', text], 2],
    ['one token to decode', ['--decode', '1', text], 2],
    ['two outputs on stdout', ['--json', '-', '--svg', '-', text], 2],
    ['no text', [], 2],
    ['a text and tokens beyond the context', ['--decode', '2048', text], 1],
    ['a folder that is not there', ['--model', join(folder, 'none'), text], 1],
  ])('%s', async (_, args, expected) => {
    const { stdout, stderr, code } = await run(['-q', ...args]);
    expect(code).toBe(expected);
    expect(stdout).toBe('');
    expect(stderr).toMatch(/^ERR_[A-Z_]+: [^\n]+\n$/);
  });

  test('a text beyond the context: how long it is, and how long it may be', async () => {
    const { stderr } = await run(['-q', text.repeat(40)]);
    expect(stderr).toMatch(/^ERR_CONTEXT_LENGTH: The text has \d+ tokens, but .* is 2048\n$/);
  });

  test('a file that cannot be written, after the tables', async () => {
    const svg = join(folder, 'none', 'kl.svg');
    const { stdout, stderr, code } = await run(['-q', '--policy', 'full', '--svg', svg, text]);
    expect(code).toBe(2);
    expect(stdout).toMatch(/^reference +own/);
    expect(stderr).toMatch(/^ERR_INVALID_ARGUMENT: The file .* there is no such folder\n$/);
  });
});

test('a reader that has gone costs no file', async () => {
  const json = join(folder, 'gone.json');
  const cli = join(root, 'dist/lib/cli.js');
  const args = [cli, 'compare', '--file', file, '--policy', 'full', '--quiet', '--json', json];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  child.stdout.destroy();
  expect(await new Promise((resolve) => child.on('close', resolve))).toBe(0);
  expect(JSON.parse(readFileSync(json, 'utf8')).cases).toHaveLength(1);
});
