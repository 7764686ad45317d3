// The command line as people run it: a process of its own, with the built files.
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from '@jest/globals';

const root = fileURLToPath(new URL('../..', import.meta.url));
const model = join(root, 'models', 'anchor-code-23m');
const prompt = 'class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(';
const folder = mkdtempSync(join(tmpdir(), 'anchorcoder-cli-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Result {
  stdout: string;
  stderr: string;
  code: number | null;
}

function start(args: readonly string[]): { child: ChildProcess; result: Promise<Result> } {
  const child = spawn(process.execPath, [join(root, 'dist', 'lib', 'cli.js'), ...args]);
  const result = new Promise<Result>((resolve, reject) => {
    const out = { stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out.stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      out.stderr += text;
    });
    child.on('error', reject).on('close', (code) => resolve({ ...out, code }));
  });
  return { child, result };
}

async function run(args: readonly string[], input = ''): Promise<Result> {
  const { child, result } = start(args);
  child.stdin?.on('error', () => {}); // a command that fails at once reads nothing
  child.stdin?.end(input);
  return result;
}

const generate = (...args: string[]) => run(['generate', '--max-tokens', '12', ...args]);

describe('generate', () => {
  test('prints the code alone on stdout, and figures on stderr', async () => {
    const { stdout, stderr, code } = await generate(prompt);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^self, /);
    expect(stderr).toContain('small demonstration model');
    expect(stderr).toMatch(/^prompt +\d+ tokens in [\d.]+ s, [\d.,]+ tokens\/s$/m);
    expect(stderr).toMatch(/^generated +12 tokens in .* tokens\/s, cut at the length$/m);
    expect(stderr).toMatch(/^cache +[\d,]+ rows in [\d.]+ KiB|MiB, bf16$/m);
    expect(stderr).toMatch(/% of the rows, .* of a full cache of the same ids \(/);
    expect(stderr).toMatch(/% of the rows, .* of a full cache of the text without anchors \(/);
    expect(stderr).toMatch(/^policy +anchor: .*dense layers: 0 and 8 of 16; source layer 8/m);
  });

  test('takes the prompt from an argument, a file or stdin', async () => {
    const path = join(folder, 'prompt.py');
    writeFileSync(path, prompt);
    const args = ['generate', '-n', '12', '--quiet', '--model', model];
    const [argument, file, stdin] = await Promise.all([
      run([...args, prompt]),
      run([...args, '--file', path]),
      run(args, prompt),
    ]);
    expect(argument.stdout).not.toBe('');
    expect(file).toEqual(argument);
    expect(stdin).toEqual(argument);
    expect(argument.stderr).toBe('');
  });

  test('--json prints one object and nothing else', async () => {
    const { stdout, stderr } = await generate('--json', '-t', '0.5', '--seed', '7', prompt);
    const report = JSON.parse(stdout) as Record<string, never>;
    expect(stdout.trimEnd()).not.toContain('\n');
    expect(report).toMatchObject({
      finish: 'length',
      usage: { completionTokens: 12 },
      seed: 7,
      policy: { kind: 'anchor' },
      cacheType: 'bf16',
      contextLength: 2048,
      model: { layers: 16, folder: model },
    });
    expect(report.ids).toHaveLength(12);
    expect(stderr).toContain('tokens/s');
    const again = await generate('--json', '--quiet', '-t', '0.5', '--seed', '7', prompt);
    expect(JSON.parse(again.stdout)).toMatchObject({ text: report.text, ids: report.ids });
  });

  test('the ids of --json are those of the text, also where a stop text cut it', async () => {
    const { stdout } = await generate('--json', '--quiet', '--stop', '):', '--stop', '§', prompt);
    const { text, ids, finish, usage, stats, seed } = JSON.parse(stdout);
    expect(text).toBe('self, data');
    expect(finish).toBe('stop');
    expect(seed).toBeNull();
    expect(usage).toMatchObject({ completionTokens: ids.length, anchors: 4 });
    expect(stats.position).toBe(usage.promptTokens + ids.length + 4);
  });

  test('--echo prints the prompt first', async () => {
    const [plain, echoed] = await Promise.all([generate(prompt), generate('--echo', prompt)]);
    expect(echoed.stdout).toBe(prompt + plain.stdout);
  });

  test('policies and cache types', async () => {
    const policies = [
      ['--policy', 'full'],
      ['--policy', 'window:8,2', '--dense-layers', '0'],
      ['--policy', 'ansan', '--anchor-tokens', '0,1'],
      ['--anchor-tokens', 'newline', '--dense-layers', '3', '--source-layer', 'none'],
      ['--policy', '{"kind":"anchor","window":4}', '--cache-type', 'int8', '--compute', 'exact'],
    ];
    const results = await Promise.all(policies.map((args) => generate('--json', ...args, prompt)));
    const reports = results.map(({ stdout }) => JSON.parse(stdout));
    const kinds = reports.map(({ policy }) => policy.kind);
    expect(kinds).toEqual(['full', 'window', 'ansan', 'anchor', 'anchor']);
    expect(reports[0].stats.rows).toBe(reports[0].stats.full.rows);
    expect(reports[1].policy).toMatchObject({ size: 8, sinks: 2, denseLayers: [0] });
    expect(reports[3].policy).toMatchObject({ tokens: 'newline', denseLayers: [3] });
    expect(reports[4]).toMatchObject({ cacheType: 'int8', model: { compute: 'exact' } });
    expect(results[0]?.stderr).toContain('under the policy "full" it is approximated');
    expect(results[3]?.stderr).not.toContain('approximated');
  });

  test('generation_config.json has defaults, which options and --generation-config override', async () => {
    const copy = mkdtempSync(join(folder, 'sampling-'));
    cpSync(model, copy, { recursive: true });
    const values = { eos_token_id: 0, do_sample: true, temperature: 0.8, max_new_tokens: 5 };
    writeFileSync(join(copy, 'generation_config.json'), JSON.stringify(values));
    const json = async (...args: string[]) => {
      const own = ['generate', '--model', copy, '--json', '--quiet', '--seed', '3'];
      return JSON.parse((await run([...own, ...args, prompt])).stdout);
    };
    expect(await json()).toMatchObject({ usage: { completionTokens: 5 }, seed: 3 });
    const greedy = await json('--temperature', '0', '--max-tokens', '6');
    expect(greedy).toMatchObject({ usage: { completionTokens: 6 }, seed: null });
    const ignored = await json('--generation-config', 'ignore', '--max-tokens', '6');
    expect(ignored.text).toBe(greedy.text);
    const { stdout } = await run(['inspect', copy]);
    expect(stdout).toMatch(/^sampling +temperature 0.8, max-tokens 5$/m);
  });

  test('Ctrl-C ends the text where it is: figures, and exit code 130', async () => {
    const { child, result } = start(['generate', '-n', '2000', prompt]);
    child.stdout?.once('data', () => child.kill('SIGINT'));
    const { stdout, stderr, code } = await result;
    expect(code).toBe(130);
    expect(stdout).not.toBe('');
    expect(stderr).toMatch(/^generated .*interrupted$/m);
  });

  test('Ctrl-C and --json: what came of it', async () => {
    const { child, result } = start(['generate', '-n', '2000', '--json', prompt]);
    child.stderr?.once('data', () => setTimeout(() => child.kill('SIGINT'), 300));
    const { stdout, code } = await result;
    const { finish, ids, usage } = JSON.parse(stdout);
    expect({ code, finish }).toEqual({ code: 130, finish: 'aborted' });
    expect(usage.completionTokens).toBe(ids.length);
  });

  test('a reader that goes away ends it quietly', async () => {
    const { child, result } = start(['generate', '-n', '2000', '--quiet', prompt]);
    child.stdout?.once('data', () => child.stdout?.destroy());
    const { stderr, code } = await result;
    expect({ stderr, code }).toEqual({ stderr: '', code: 0 });
  });

  test.each<[string, string[], number]>([
    ['an unknown option', ['--tempreature', '1', 'x'], 2],
    ['a value that is no number', ['--top-k', 'many', 'x'], 2],
    ['a value out of range', ['--top-p', '2', 'x'], 2],
    ['an unknown policy', ['--policy', 'half', 'x'], 2],
    ['a JSON policy of an unknown kind', ['--policy', '{"kind":"half"}', 'x'], 2],
    ['an option that does not fit the policy', ['--policy', 'full', '--window', '8', 'x'], 2],
    ['a context beyond the model', ['--context', '4096', 'x'], 2],
    ['a layer that is not there', ['--dense-layers', '99', 'x'], 2],
    ['two prompts', ['--file', 'x', 'x'], 2],
    ['an echo in JSON', ['--echo', '--json', 'x'], 2],
    ['an empty prompt', [], 2],
    ['a prompt beyond the context', ['--context', '4', prompt], 1],
    ['a folder that is not there', ['--model', join(folder, 'none'), 'x'], 1],
    ['a folder that is no model', ['--model', folder, 'x'], 1],
  ])('%s: one sentence and an exit code', async (_, args, expected) => {
    const { stdout, stderr, code } = await run(['generate', '--quiet', ...args]);
    expect({ stdout, code }).toEqual({ stdout: '', code: expected });
    expect(stderr).toMatch(/^ERR_[A-Z_]+: [^\n]+\n$/);
    expect(stderr).not.toContain('    at ');
  });
});

describe('inspect', () => {
  test('shows the folder, the engine and the cache', async () => {
    const { stdout, stderr, code } = await run(['inspect', model]);
    expect({ stderr, code }).toEqual({ stderr: '', code: 0 });
    expect(stdout).toContain('LlamaForCausalLM, 22,948,160 parameters');
    expect(stdout).toContain('trained for them; ids 0-3; 1 is inserted after every newline');
    expect(stdout).toMatch(/^ +1,024 +full +16,384 +100.0 % +40.0 MiB +20.0 MiB +10.6 MiB$/m);
    expect(stdout).toMatch(/^ +anchor +/m);
    expect(stdout).toMatch(/^ +window:512,4 +/m);
  });

  test('--policy full changes no share', async () => {
    const [usual, full] = await Promise.all([
      run(['inspect', model]),
      run(['inspect', model, '--policy', 'full']),
    ]);
    expect(full.stdout).toBe(usual.stdout);
  });

  test('--json, with a policy of the user', async () => {
    const { stdout } = await run(['inspect', model, '--json', '--dense-layers', '3,5']);
    const { info, layers, files, anchors, cache } = JSON.parse(stdout);
    expect(info).toMatchObject({ layers: 16, weightType: 'BF16' });
    expect(layers).toEqual({ dense: [0, 8], source: 8 });
    expect(files).toHaveLength(1);
    expect(anchors).toMatchObject({ trained: true, ids: [0, 1, 2, 3], inserted: 1 });
    expect(cache).toHaveLength(6);
    const own = cache.filter(
      ({ policy }: { policy: { kind: string } }) => policy.kind === 'anchor',
    );
    expect(own[0].policy.denseLayers).toEqual([3, 5]);
    expect(own[0].bytes.int8).toBeLessThan(own[0].bytes.bf16);
  });

  test('a folder that is not there', async () => {
    const { stderr, code } = await run(['inspect', join(folder, 'none')]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^ERR_MODEL_NOT_FOUND: [^\n]+\n$/);
  });
});

describe('--adapter', () => {
  const granite = ['models', 'adapters'].map((name) => join(root, 'test/golden', name, 'granite'));
  const [base, adapter] = granite as [string, string];

  test('is merged into the model that it is for', async () => {
    const { stdout, code } = await run(['inspect', base, '--adapter', adapter]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^adapter +.*adapters\/granite$/m);
  });

  test.each([['generate'], ['compare'], ['complete', 'README.md:1:1']])(
    'and refused for any other: %s',
    async (...command) => {
      const { stderr, code } = await run([...command, '--adapter', adapter], 'x = 1\n');
      expect(stderr).toMatch(/^ERR_MODEL_INVALID: .*adapter/m);
      expect(code).toBe(1);
    },
  );
});

describe('the program', () => {
  test('help and version', async () => {
    const [version, help, more, none] = await Promise.all([
      run(['--version']),
      run(['--help']),
      run(['generate', '--help']),
      run([]),
    ]);
    expect(version).toMatchObject({ stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/), code: 0 });
    expect(help).toMatchObject({ stdout: expect.stringContaining('Examples:'), code: 0 });
    expect(more.stdout).toContain('--dense-layers');
    expect(none).toMatchObject({ stdout: '', code: 2 });
  });
});
