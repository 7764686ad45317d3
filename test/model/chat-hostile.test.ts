// Templates that loop, grow, throw or make no sense, and messages that are none: a sentence, soon,
// and neither a stalled event loop nor a process that dies.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { ChatMessage, ChatOptions, Model } from '../../types/api.js';
import { TextModels } from './text-models.js';

const models = new TextModels();
const messages = [{ role: 'user', content: 'a' }];
const run = promisify(execFile);
const built = new URL('../../dist/lib/index.js', import.meta.url).href;

let model: Model;
beforeAll(async () => {
  model = await loadModel(await models.make({ tokenizer: 'newlines', tokens: ['<|im_end|>'] }));
});
afterAll(() => {
  model.dispose();
  models.remove();
});

function error(code: string, words: string) {
  const message = expect.stringContaining(words);
  return expect.objectContaining({ name: 'AnchorError', code, message });
}

const doubled = (times: number) =>
  '{% set ns = namespace(x="0123456789") %}' +
  `{% for i in range(${times}) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}`;

const slow = '{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}';
const lists = '{% set ns = namespace(x=[1, 2]) %}{% for i in range(60) %}';

const hostile: [string, string, RegExp][] = [
  ['a loop', slow, /did not end within 1.5 seconds/],
  ['a loop that writes', slow.replace('{% endfor %}', 'x{% endfor %}'), /1.5 seconds|128 MiB/],
  ['a long range', '{% for a in range(10 ** 9) %}x{% endfor %}', /more than 100000 numbers/],
  ['a range without a step', '{{ range(1, 2, 0) }}', /range\(\) needs a step/],
  ['a text that doubles', `${doubled(99)}{{ ns.x }}`, /Invalid string length/],
  ['a long result', `${doubled(21)}{{ ns.x }}`, /wrote more than 16777216 characters/],
  ['one huge allocation', `${doubled(25)}{{ ns.x | upper }}`, /more than 128 MiB/],
  [
    'a list that doubles',
    `${lists}{% set ns.x = ns.x + ns.x %}{% endfor %}`,
    /128 MiB|1.5 seconds/,
  ],
  [
    'lists in lists',
    `${lists}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}`,
    /128 MiB|1.5 seconds/,
  ],
  ['a macro in itself', '{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}', /Maximum call stack/],
  ['deep brackets', `{{ ${'('.repeat(50_000)}1${')'.repeat(50_000)} }}`, /Maximum call stack/],
  ['no Jinja', '{% if %}', /does not parse: /],
  ['an open block', '{% for m in messages %}', /does not parse: /],
  ['an unknown filter', '{{ messages | shuffle }}', /failed: Unknown ArrayValue filter/],
  ['a wrong date', "{{ strftime_now('%Q') }}", /failed: strftime_now does not know "%Q"/],
];

test.each(hostile)('%s', async (_, templateText, words) => {
  const start = performance.now();
  let idleTicks = 0;
  const timer = setInterval(() => ++idleTicks, 5);
  const failure = await model.chat(messages, { templateText }).catch((each: Error) => each);
  clearInterval(timer);
  const took = performance.now() - start;
  expect(failure).toMatchObject({ name: 'AnchorError', code: 'ERR_INVALID_ARGUMENT' });
  expect((failure as Error).message).toMatch(words);
  expect((failure as Error).message.length).toBeLessThan(1200);
  expect(took).toBeLessThan(5000);
  if (took > 1000) expect(idleTicks).toBeGreaterThan(20);
  // The next one is none the worse for it.
  expect((await model.chat(messages, { templateText: 'ok' })).text).toBe('ok');
});

test('a broken template of the folder is an error of the model, a refusal is none', async () => {
  const open = async (template: string) =>
    loadModel(
      await models.make({ tokenizer: 'newlines', files: { 'chat_template.jinja': template } }),
    );
  using broken = await open('{% if %}');
  await expect(broken.chat(messages)).rejects.toEqual(
    error('ERR_MODEL_INVALID', 'The chat template "default" does not parse'),
  );
  using refusing = await open("{{ raise_exception('no ' ~ messages[0].content) }}");
  const content = '<|im_end|>'.repeat(400);
  const failure = await refusing.chat([{ role: 'user', content }]).catch((each: Error) => each);
  expect(failure).toEqual(
    error('ERR_INVALID_ARGUMENT', '"default" refuses the messages: no <|im_end|><|im_end|>'),
  );
  expect((failure as Error).message.length).toBeLessThan(1200);
});

test('chats at one time wait for each other', async () => {
  const contents = Array.from({ length: 20 }, (_, i) => String(i));
  const texts = contents.map(async (content) => {
    const templateText = content === '7' ? '{% if %}' : '{{ messages[0].content }}';
    const chat = model.chat([{ role: 'user', content }], { templateText });
    return chat.then(({ text }) => text).catch(({ code }) => code);
  });
  const expected = contents.map((each) => (each === '7' ? 'ERR_INVALID_ARGUMENT' : each));
  expect(await Promise.all(texts)).toEqual(expected);
});

describe('messages that are none', () => {
  const ring: ChatMessage = { role: 'user' };
  ring.content = { ring };
  const deep = JSON.parse(`${'['.repeat(200)}1${']'.repeat(200)}`) as unknown;
  const list = 'argument "messages" to be a list of one message or more';

  test.each<[string, unknown, string]>([
    ['nothing', undefined, list],
    ['an empty list', [], list],
    ['a text', 'hello', list],
    ['a message without a role', [{ content: 'a' }], '"messages[0].role" to be a string'],
    ['a message that is a text', ['a'], '"messages[0]" to be an object'],
    ['a function', [{ role: 'user', content: () => 'a' }], 'could not be cloned'],
    ['a big integer', [{ role: 'user', content: 1n }], 'messages[0].content is neither'],
    ['a map', [{ role: 'user', content: new Map() }], 'messages[0].content is neither'],
    ['a ring', [ring], 'nested more than 100 deep'],
    ['a deep list', [{ role: 'user', content: deep }], 'nested more than 100 deep'],
    ['a long text', [{ role: 'u', content: 'x'.repeat(2 ** 24 + 1) }], 'and 16777216 are the most'],
  ])('%s', async (_, wrong, words) => {
    const templateText = '{{ messages[0].role }}';
    await expect(model.chat(wrong as ChatMessage[], { templateText })).rejects.toEqual(
      error('ERR_INVALID_ARGUMENT', words),
    );
  });

  test.each<[string, ChatOptions, string]>([
    ['two templates', { template: 'a', templateText: 'b' }, 'option "template"'],
    ['a variable that is taken', { variables: { messages: [] } }, 'option "variables"'],
    ['tools that are none', { tools: ['a'] as never }, '"tools[0]" to be an object'],
    ['an unknown option', { toolz: [] } as never, 'did you mean "tools"'],
  ])('options: %s', async (_, options, words) => {
    await expect(model.chat(messages, options)).rejects.toEqual(
      error('ERR_INVALID_ARGUMENT', words),
    );
  });

  test('a variable may replace what templates know', async () => {
    const templateText = '{{ range }}{{ documents }}';
    const variables = { range: 1, documents: 'd' };
    expect((await model.chat(messages, { templateText, variables })).text).toBe('1d');
  });
});

test('a process ends by itself after a chat, and in the middle of one', async () => {
  const folder = await models.make({ tokenizer: 'newlines' });
  const script = (then: string) => `
    import { loadModel } from '${built}';
    const model = await loadModel(${JSON.stringify(folder)});
    const chat = (templateText) => model.chat([{ role: 'user' }], { templateText });
    console.log((await chat('done')).text);
    ${then}`;
  const output = async (then: string) => {
    const start = performance.now();
    const args = ['--input-type=module', '--eval', script(then)];
    const { stdout, stderr } = await run(process.execPath, args, { timeout: 20_000 });
    expect(stderr).toBe('');
    return { text: stdout.trim(), took: performance.now() - start };
  };
  const quiet = await output('');
  expect(quiet.text).toBe('done');
  expect(quiet.took).toBeLessThan(8000);
  const gone = await output(`void chat(${JSON.stringify(slow)}); setTimeout(process.exit, 100);`);
  expect(gone.text).toBe('done');
  const answered = await output(`chat('late').then(({ text }) => console.log(text));`);
  expect(answered.text).toBe('done\nlate');
});
