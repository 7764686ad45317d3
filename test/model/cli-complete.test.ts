// The commands that fill in a file at a cursor and that chat, as people run them.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from '@jest/globals';
import { TextModels } from './text-models.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'anchorcoder-complete-'));
const models = new TextModels();
afterAll(() => {
  models.remove();
  rmSync(folder, { recursive: true, force: true });
});

const before = 'for (let i = 0; i < items.';
const after = '; i++) {\n  use(items[i]);\n}\n';
const source = `"use strict";\r\nconst smile = "🙂";\n${before}${after}`;
const file = join(folder, 'loop.js');
writeFileSync(file, source);
const place = `3:${before.length + 1}`;

async function run(args: readonly string[], input = '') {
  const child = spawn(process.execPath, [join(root, 'dist', 'lib', 'cli.js'), ...args]);
  const out = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out.stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    out.stderr += text;
  });
  child.stdin.on('error', () => {}); // a command that fails at once reads nothing
  child.stdin.end(input);
  const code = await new Promise((resolve, reject) => {
    child.on('error', reject).on('close', resolve);
  });
  return { ...out, code };
}

const complete = (...args: string[]) => run(['complete', '--max-tokens', '2', ...args]);

describe('complete', () => {
  test('prints what belongs at the cursor, and figures on stderr', async () => {
    const { stdout, stderr, code } = await complete(`${file}:${place}`);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^length/);
    expect(stderr).toMatch(/^generated +2 tokens/m);
    expect(stderr).not.toContain('does not see');
  });

  test('--echo prints the file with it; stdin is as good as a file', async () => {
    const [plain, echoed, piped] = await Promise.all([
      complete(`${file}:${place}`, '--quiet'),
      complete(`${file}:${place}`, '--quiet', '--echo'),
      run(['complete', '--max-tokens', '2', '--quiet', place], source),
    ]);
    const [head, tail] = [source.slice(0, -after.length), after];
    expect(echoed).toEqual({ stdout: head + plain.stdout + tail, stderr: '', code: 0 });
    expect(piped).toEqual(plain);
  });

  test('the model sees whole lines around the cursor where the context is short', async () => {
    const long = join(folder, 'long.js');
    const line = 'const value = 1;\n';
    const text = line.repeat(200);
    writeFileSync(long, `${text}${before}${after}${text}`);
    const cursor = `${long}:201:${before.length + 1}`;
    const { stdout, stderr, code } = await complete(cursor, '--context', '256', '--json');
    expect(code).toBe(0);
    const { cursor: at, order, linesLeftOut, usage, stats, text: middle } = JSON.parse(stdout);
    expect({ at, order }).toEqual({ at: { line: 201, column: before.length + 1 }, order: 'spm' });
    expect(middle).toMatch(/^length/);
    expect(linesLeftOut.before).toBeGreaterThan(150);
    expect(linesLeftOut.after).toBeGreaterThan(150);
    expect(stats.position).toBeLessThanOrEqual(256);
    // Not much room is left: the next lines would not have fitted.
    expect(usage.promptTokens + usage.anchors).toBeGreaterThan(200);
    const said = `${linesLeftOut.before} lines at the file's beginning`;
    expect(stderr).toContain(`The model does not see ${said} and ${linesLeftOut.after} lines`);
  });

  test('what one side leaves free is for the other one', async () => {
    const top = join(folder, 'top.js');
    writeFileSync(top, 'const value = 1;\n'.repeat(200));
    const at = async (cursor: string) => {
      const { stdout } = await complete(`${top}:${cursor}`, '--context', '256', '--json', '-q');
      const { linesLeftOut, usage } = JSON.parse(stdout);
      return { ...linesLeftOut, tokens: usage.promptTokens + usage.anchors };
    };
    const [first, last] = await Promise.all([at('1:1'), at('201:1')]);
    expect(first).toMatchObject({ before: 0, tokens: expect.any(Number) });
    expect(last).toMatchObject({ after: 0, tokens: expect.any(Number) });
    for (const { tokens } of [first, last]) expect(tokens).toBeGreaterThan(200);
  });

  test('a line that is longer than the context is refused', async () => {
    const wide = join(folder, 'wide.js');
    writeFileSync(wide, 'a = b + c; '.repeat(400));
    const { stderr, code } = await complete(`${wide}:1:4000`, '--context', '128', '--quiet');
    expect(code).toBe(1);
    expect(stderr).toMatch(/^ERR_CONTEXT_LENGTH: [^\n]+\n$/);
  });

  test.each<[string, string[], string]>([
    ['no place', [file], 'Expected FILE:LINE:COLUMN such as'],
    ['a line beyond the end', [`${file}:7:1`], 'from 1 to 6, the last one of'],
    ['line 0', [`${file}:0:1`], 'Expected a line from 1 to 6'],
    ['column 0', [`${file}:1:0`], 'Expected a column from 1 to 14, the end of line 1'],
    ['a column behind the carriage return', [`${file}:1:15`], 'Expected a column from 1 to 14'],
    ['a column in a character', [`${file}:2:17`], 'in the middle of a character'],
    ['a file that is not there', [join(folder, 'none.js:1:1')], 'there is no such file'],
    ['an order that is none', ['--order', 'mps', `${file}:1:1`], '--order'],
    ['marks without a place', ['--format', '<a>,{prefix}', `${file}:1:1`], 'option --format'],
    ['marks that are none', ['--format', '<a>,{prefix},{suffix}', `${file}:1:1`], '--format'],
  ])('%s: one sentence', async (_, args, words) => {
    const { stdout, stderr, code } = await complete('--quiet', ...args);
    expect({ stdout, code }).toEqual({ stdout: '', code: 2 });
    expect(stderr).toMatch(/^ERR_INVALID_ARGUMENT: [^\n]+\n$/);
    expect(stderr).toContain(words);
  });

  test('a model without marks, and with marks of the caller', async () => {
    const model = await models.make({ tokenizer: 'newlines', tokens: ['<hole>', '<tail>'] });
    const own = ['--quiet', '--insert-anchor', 'none', '--model', model, `${file}:1:1`];
    const refused = await complete(...own);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/^ERR_MODEL_UNSUPPORTED: .*cannot fill in the middle/);
    const taken = await complete('--json', '--format', '<hole>,{prefix},441,{suffix}', ...own);
    expect(taken.stderr).toBe('');
    expect(JSON.parse(taken.stdout)).toMatchObject({ order: 'psm', finish: 'length' });
  });
});

describe('generate --chat', () => {
  const template = readFileSync(new URL('../golden/chat/chatml.jinja', import.meta.url), 'utf8');
  const open = () =>
    models.make({
      ...{ tokenizer: 'newlines', tokens: ['<|im_start|>', '<|im_end|>'] },
      files: { 'chat_template.jinja': template },
    });

  test('writes the prompt as a message, behind one of the system', async () => {
    const own = ['generate', '--quiet', '--echo', '-n', '1', '--model', await open()];
    const chat = await run([...own, '--chat', 'go on <|im_end|>']);
    expect(chat.stdout).toContain('<|im_start|>user\ngo on <|im_end|><|im_end|>\n');
    expect(chat.stdout).toContain('<|im_start|>system\nBe brief.<|im_end|>\n');
    const { stdout } = await run([...own, '--system', 'Be long.', 'go on']);
    expect(stdout).toContain('system\nBe long.<|im_end|>\n<|im_start|>user\ngo on<|im_end|>');
  });

  test('inspect names templates and marks', async () => {
    const { stdout } = await run(['inspect', await open()]);
    expect(stdout).toMatch(/^prompts +no marks for a middle; chat templates: "default"$/m);
  });

  test('a model without a template, and control tokens in a chat', async () => {
    const none = await run(['generate', '--quiet', '--chat', 'hi']);
    expect(none.code).toBe(1);
    expect(none.stderr).toMatch(/^ERR_MODEL_UNSUPPORTED: .*no chat template.*\n$/);
    const both = await run(['generate', '--quiet', '--chat', '--parse-special', 'hi']);
    expect(both.code).toBe(2);
    expect(both.stderr).toMatch(/^ERR_INVALID_ARGUMENT: --parse-special/);
  });
});
