// A signal ends calls on text at once, although the work behind them cannot be stopped: the caller
// gets the signal's reason, and what comes later finds everything as it was.
import { getEventListeners } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { compare, loadModel } from 'anchorcoder';
import type { Model, Session } from '../../types/api.js';
import { TextModels } from './text-models.js';

const reason = new Error('enough');
const chat_template = '{% for message in messages %}{{ message.content }}{% endfor %}';
const text = 'value = other + 1\n'.repeat(10);
const chat = [{ role: 'user', content: text }];
const hole = { prefix: text, suffix: text };

const folders = new TextModels();
let model: Model;
let session: Session;
beforeAll(async () => {
  const folder = await folders.make({
    tokenizer: 'newlines',
    tokens: ['<|fim_prefix|>', '<|fim_middle|>', '<|fim_suffix|>'],
    tokenizerConfig: { chat_template },
  });
  model = await loadModel(folder, { anchors: { insert: null } });
  session = model.createSession();
  await session.append('first = 0\n');
});
afterAll(() => {
  model.dispose();
  folders.remove();
});

const calls: [string, (signal: AbortSignal) => Promise<unknown>][] = [
  ['tokenize', (signal) => model.tokenize(text, { signal })],
  ['chat', (signal) => model.chat(chat, { signal })],
  ['fillInTheMiddle', (signal) => model.fillInTheMiddle(hole, { signal })],
  ['append', (signal) => session.append(text, { signal })],
  ['complete', (signal) => model.complete(text, { signal, maxTokens: 1 })],
  ['complete, with a suffix', (signal) => model.complete('', { signal, suffix: text })],
  ['compare', (signal) => compare(model, text, [{ cacheType: 'int8' }], { signal })],
];

test.each(calls)('%s ends before its text is in ids', async (_, call) => {
  const before = session.ids();
  const { sessions } = model.memory();
  const controller = new AbortController();
  const ended = call(controller.signal).catch((error) => error);
  controller.abort(reason);
  // The worker's answer would take a turn of the event loop at least.
  expect(await Promise.race([ended, setImmediate('later')])).toBe(reason);
  expect(getEventListeners(controller.signal, 'abort')).toEqual([]);
  expect([session.ids(), session.stats().pending]).toEqual([before, 0]);
  expect(model.memory().sessions).toBe(sessions);
});

test.each(calls)('%s does not begin under a signal that was aborted before', async (_, call) => {
  await expect(call(AbortSignal.abort(reason))).rejects.toBe(reason);
});

test.each(calls)('%s leaves no listener when it ends by itself', async (name, call) => {
  const { signal } = new AbortController();
  const before = session.position;
  await call(signal);
  expect(getEventListeners(signal, 'abort')).toEqual([]);
  // The same text as without the aborted calls before.
  if (name !== 'append') return;
  const ids = await model.tokenize(text, { addSpecial: false });
  expect(session.ids().subarray(before)).toEqual(ids);
  session.truncate(before);
});
