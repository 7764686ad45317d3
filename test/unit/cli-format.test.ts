// What the command line prints, and where its prompts come from.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { afterAll, describe, expect, test } from '@jest/globals';
import {
  bytes,
  count,
  denseLayers,
  describePolicy,
  many,
  numbers,
  percent,
  table,
} from '../../lib/cli/format.js';
import { contextsUpTo } from '../../lib/cli/inspect.js';
import { PromptProgress } from '../../lib/cli/progress.js';
import { type Input, readPrompt } from '../../lib/cli/prompt.js';

describe('formats', () => {
  test('numbers', () => {
    expect(count(1234567)).toBe('1,234,567');
    expect([many(0, 'row'), many(1, 'row'), many(1000, 'row')]).toEqual([
      '0 rows',
      '1 row',
      '1,000 rows',
    ]);
    expect(percent(1, 3)).toBe('33.3 %');
    expect(percent(0, 0)).toBe('-');
  });

  test.each([
    [0, '0 bytes'],
    [999, '999 bytes'],
    [1000, '0.98 KiB'],
    [1024, '1.00 KiB'],
    [10_239, '10.0 KiB'],
    [1_048_575, '1.00 MiB'],
    [45_896_320, '43.8 MiB'],
    [2 ** 50, '1024 TiB'],
  ])('%i bytes', (value, text) => {
    expect(bytes(value)).toBe(text);
  });

  test.each([
    [[], 'none'],
    [[3], '3'],
    [[0, 8], '0 and 8'],
    [[0, 1, 2], '0-2'],
    [[1, 2, 4, 9, 10, 11, 12], '1, 2, 4 and 9-12'],
  ])('runs of %j', (values, text) => {
    expect(numbers(values)).toBe(text);
  });

  test('columns', () => {
    const rows = [
      ['a', 'long', ''],
      ['bcd', 'x', 'end'],
    ];
    expect(table(rows, [1])).toBe('a    long\nbcd     x  end\n');
  });

  test('policies in words', () => {
    expect(describePolicy({ kind: 'full' }, 4)).toBe('full: every row of every layer');
    expect(describePolicy({ kind: 'anchor', per: 8, sourceLayer: 8, consumersAbove: 24 }, 32)).toBe(
      'anchor: anchors, the open line; dense layers: 0, 8, 16 and 24 of 32; source layer 8 for 25-31',
    );
    const window = { denseLayers: [3, 1], window: 64, sinks: 4, line: false, sourceLayer: null };
    expect(describePolicy({ kind: 'anchor', ...window }, 4)).toBe(
      'anchor: anchors, the last 64 tokens, 4 sinks; dense layers: 1 and 3 of 4',
    );
    expect(describePolicy({ kind: 'window', size: 1024, sinks: 4, denseLayers: [] }, 4)).toBe(
      'window: the last 1,024 tokens, 4 sinks; dense layers: none of 4',
    );
    expect(describePolicy({ kind: 'ansan' }, 4)).toContain('ansan');
    expect(denseLayers({ kind: 'full' }, 3)).toEqual([0, 1, 2]);
    expect(denseLayers({ kind: 'anchor', per: 'none' }, 3)).toEqual([]);
  });

  test('contexts of the table', () => {
    expect(contextsUpTo(2048)).toEqual([1024, 2048]);
    expect(contextsUpTo(16384)).toEqual([1024, 4096, 16384]);
    expect(contextsUpTo(512)).toEqual([512]);
  });
});

describe('prompts', () => {
  const folder = mkdtempSync(join(tmpdir(), 'anchorcoder-cli-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const stdin = (...parts: Uint8Array[]): Input => Readable.from(parts);
  const none = stdin();

  test('an argument, a file or stdin, exactly as they are', async () => {
    const path = join(folder, 'prompt.ts');
    writeFileSync(path, '\uFEFFlet a;\r\n');
    expect(await readPrompt('x\n', undefined, none)).toBe('x\n');
    expect(await readPrompt(undefined, path, none)).toBe('\uFEFFlet a;\r\n');
    const snail = new TextEncoder().encode('🐌\n');
    const halves = () => stdin(snail.subarray(0, 2), snail.subarray(2));
    expect(await readPrompt(undefined, undefined, halves())).toBe('🐌\n');
    expect(await readPrompt(undefined, '-', halves())).toBe('🐌\n');
  });

  test('what cannot be a prompt', async () => {
    const missing = join(folder, 'missing');
    const terminal = Object.assign(stdin(), { isTTY: true });
    const broken = () => stdin(Uint8Array.of(0xc3));
    const cases: [() => Promise<string>, string][] = [
      [() => readPrompt('x', 'y', none), 'not both'],
      [() => readPrompt(undefined, missing, none), 'there is no such file'],
      [() => readPrompt(undefined, folder, none), 'cannot be read'],
      [() => readPrompt(undefined, undefined, terminal), 'There is no prompt'],
      [() => readPrompt(undefined, undefined, stdin()), 'The prompt is empty'],
      [() => readPrompt('', undefined, none), 'The prompt is empty'],
      [() => readPrompt(undefined, undefined, broken()), 'is not UTF-8'],
    ];
    for (const [read, message] of cases) {
      await expect(read()).rejects.toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
        message: expect.stringContaining(message),
      });
    }
  });
});

describe('the progress bar', () => {
  // What cli-progress asks of a terminal.
  function terminal(isTTY: boolean) {
    const stream = Object.assign(new PassThrough(), {
      isTTY,
      columns: 80,
      cursorTo: () => true,
      clearLine: () => true,
      moveCursor: () => true,
    });
    return { stream, written: () => String(stream.read() ?? '') };
  }

  test('shows on a terminal while a long prompt is read', () => {
    const { stream, written } = terminal(true);
    const progress = new PromptProgress(stream);
    progress.update({ done: 100, total: 1000 });
    progress.update({ done: 1000, total: 1000 });
    progress.stop();
    progress.stop();
    expect(written()).toContain('100/1000 tokens');
  });

  test.each<[string, boolean, { done: number; total: number }]>([
    ['no terminal', false, { done: 100, total: 1000 }],
    ['a short prompt', true, { done: 1, total: 255 }],
    ['a prompt that was read at once', true, { done: 1000, total: 1000 }],
  ])('%s: nothing', (_, isTTY, step) => {
    const { stream, written } = terminal(isTTY);
    const progress = new PromptProgress(stream);
    progress.update(step);
    progress.stop();
    expect(written()).toBe('');
  });
});
