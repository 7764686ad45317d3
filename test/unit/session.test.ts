// Appending, cutting, forking, and one call at a time.
import { describe, expect, jest, test } from '@jest/globals';
import { fakeSession } from './fake.js';

const words = ['<bos>', 'a', 'b', '\n', '<ANCHOR>', '\t'];
const ANCHOR = 4;

function error(code: string, text = '') {
  const message = expect.stringContaining(text);
  return expect.objectContaining({ name: 'AnchorError', code, message });
}

describe('append', () => {
  test('puts BOS in front of the first text only, and says that later ones go on', async () => {
    const { session, native, tokenizer } = fakeSession(words, { text: [] });
    await session.append('ab');
    await session.append('b', { parseSpecial: true });
    expect(native.text).toEqual([0, 1, 2, 2]);
    expect(tokenizer?.calls).toEqual([
      { parseSpecial: false, addSpecial: true, continued: false },
      { parseSpecial: true, addSpecial: false, continued: true },
    ]);
    expect(session.position).toBe(4);
  });

  test('inserts anchors after newlines of texts, not of ids', async () => {
    const { session, native } = fakeSession(words, { insert: ANCHOR });
    await session.append('a\nb');
    await session.append([1, 3]);
    expect(native.text).toEqual([0, 1, 3, ANCHOR, 2, 1, 3]);
  });

  test('replaces four blanks by a tab where the model wants it', async () => {
    for (const insert of [undefined, ANCHOR]) {
      const fake = fakeSession(words, { indent: 'tab4', ...(insert ? { insert } : {}) });
      await fake.session.append('    a');
      expect(fake.native.text).toEqual([0, 5, 1]);
    }
  });

  test.each([
    ['an array', [1, 2]],
    ['a typed array', Uint32Array.of(1, 2)],
    ['what looks like one', { length: 2, 0: 1, 1: 2 }],
  ])('takes ids as %s', async (_, ids) => {
    const { session, native } = fakeSession(words);
    expect(await session.append(ids as ArrayLike<number>, { logits: 'last' })).toEqual(
      Float32Array.of(1, 2),
    );
    expect(native.appended).toEqual([{ ids: [1, 2], logits: 'last' }]);
  });

  test.each([
    [[0, 6], 'Expected id 1 of the prompt to be an integer from 0 to 5, but received 6 (number)'],
    [[-1], 'id 0 of the prompt'],
    [[1.5], '1.5'],
    [['1'], '"1" (string)'],
    [[1n], '1 (bigint)'],
    [{ length: 3, 0: 1 }, 'Expected id 1 of the prompt'],
    [{ length: -1 }, 'Expected the prompt to be'],
    [{ length: 2 ** 52 }, 'context is 100'],
    [{}, 'Expected the prompt to be a list of token ids, but received {} (object)'],
    [null, 'received null'],
    [undefined, 'received undefined'],
    [7, '7 (number)'],
    [[], 'nothing is pending in the session'],
    ['', 'nothing is pending in the session'],
  ])('refuses %j', async (prompt, text) => {
    const { session, native } = fakeSession(words);
    const code = text.includes('context') ? 'ERR_CONTEXT_LENGTH' : 'ERR_INVALID_ARGUMENT';
    await expect(session.append(prompt as number[])).rejects.toEqual(error(code, text));
    expect(native.appended).toEqual([]);
    await session.append([1]); // not busy
  });

  test('lets an empty prompt run what is pending, or ask for the last logits', async () => {
    const { session, native } = fakeSession(words);
    await session.append([], { logits: 'last' });
    native.cached = 0;
    await session.append('');
    expect(native.appended.map(({ ids }) => ids)).toEqual([[], []]);
    const empty = fakeSession(undefined, { text: [] });
    await expect(empty.session.append([], { logits: 'last' })).rejects.toEqual(
      error('ERR_INVALID_ARGUMENT', 'the session is empty'),
    );
    const text = fakeSession(words, { text: [] });
    await text.session.append('');
    expect(text.native.text).toEqual([0]);
  });

  test('names both numbers when the context is too small, before any work', async () => {
    const { session, native } = fakeSession(words, { contextLength: 3 });
    await expect(session.append('aab')).rejects.toEqual(
      error('ERR_CONTEXT_LENGTH', 'holds 1 tokens and 3 more were given: 4, but its context is 3'),
    );
    expect(native.appended).toEqual([]);
    await session.append('ab');
    await expect(session.generate().next()).rejects.toEqual(
      error('ERR_CONTEXT_LENGTH', 'holds 3 tokens and its context is 3'),
    );
  });

  test('needs a tokenizer for text', async () => {
    const { session } = fakeSession(undefined);
    await expect(session.append('a')).rejects.toMatchObject({ code: 'ERR_NO_TOKENIZER' });
    await session.append([1]);
  });

  test('rejects with the reason when aborted, and the rest stays pending', async () => {
    const { session, native } = fakeSession(words);
    const controller = new AbortController();
    const reason = { mine: true };
    native.waits = true;
    const call = session.append([1, 2], { signal: controller.signal });
    await Promise.resolve();
    controller.abort(reason);
    await expect(call).rejects.toBe(reason);
    expect(session.position).toBe(3);
    expect(session.stats().pending).toBe(2);
    session.truncate(1);
    expect(session.position).toBe(1);
    await expect(session.append([1], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(native.text).toEqual([0]);
  });

  test('tells its progress and turns what the callback throws into a rejection', async () => {
    jest.useFakeTimers();
    try {
      const { session, native } = fakeSession(words);
      native.waits = true;
      const seen: unknown[] = [];
      const call = session.append([1, 2, 1], { onProgress: (progress) => seen.push(progress) });
      await Promise.resolve();
      native.cached = 3;
      jest.advanceTimersByTime(100);
      native.go();
      await call;
      expect(seen).toEqual([
        { done: 2, total: 3 },
        { done: 3, total: 3 },
      ]);
      const failure = new Error('mine');
      const onProgress = () => {
        throw failure;
      };
      const failing = session.append([1], { onProgress });
      await Promise.resolve();
      jest.advanceTimersByTime(100);
      await expect(failing).rejects.toBe(failure);
      expect(jest.getTimerCount()).toBe(0);
    } finally {
      jest.useRealTimers();
    }
  });
});

describe('one call at a time', () => {
  test('a second one throws, and the first goes on', async () => {
    const { session, native } = fakeSession(words);
    native.waits = true;
    const call = session.append([1]);
    await expect(session.append([2])).rejects.toEqual(
      error('ERR_BUSY', 'busy with "append" and cannot begin "append"'),
    );
    await expect(session.generate().next()).rejects.toEqual(error('ERR_BUSY', '"generate"'));
    expect(session.stats().position).toBe(2); // what is there may be asked at any time
    expect(() => session.ids()).toThrow(error('ERR_BUSY'));
    expect(() => session.truncate(0)).toThrow(error('ERR_BUSY'));
    expect(() => session.fork()).toThrow(error('ERR_BUSY'));
    expect(session.position).toBe(1);
    native.go();
    await call;
    expect(session.position).toBe(2);
  });

  test('a generation is busy between its tokens', async () => {
    const { session, native } = fakeSession(words);
    native.script = [1, 2];
    const chunks = session.generate();
    await chunks.next();
    await expect(session.append([1])).rejects.toEqual(error('ERR_BUSY', 'busy with "generate"'));
    await chunks.return?.();
    await session.append([1]);
  });

  test('an empty session generates nothing', async () => {
    const { session } = fakeSession(words, { text: [] });
    await expect(session.generate().next()).rejects.toEqual(
      error('ERR_INVALID_ARGUMENT', 'append a prompt'),
    );
    await session.append([1]);
  });
});

describe('truncate and fork', () => {
  test.each([
    [-1, 'ERR_POSITION', 'from 0 to 2'],
    [3, 'ERR_POSITION', 'received 3 (number)'],
    [1.5, 'ERR_INVALID_ARGUMENT', 'an integer'],
    ['1', 'ERR_INVALID_ARGUMENT', '"1" (string)'],
    [Number.NaN, 'ERR_INVALID_ARGUMENT', 'NaN'],
  ])('refuse %p', (position, code, text) => {
    const { session } = fakeSession(words, { text: [0, 1] });
    expect(() => session.truncate(position as number)).toThrow(error(code, text));
    expect(() => session.fork(position as number)).toThrow(error(code, text));
  });

  test('a fork has its own text and the same settings', async () => {
    const { session } = fakeSession(words, { text: [0, 1, 2] });
    const copy = session.fork(2);
    await copy.append([1, 1]);
    expect([...copy.ids()]).toEqual([0, 1, 1, 1]);
    expect([...session.fork().ids()]).toEqual([0, 1, 2]);
    expect(copy.contextLength).toBe(session.contextLength);
    expect(copy.policy).toEqual(session.policy);
  });

  test('a refusal of the engine keeps its code', () => {
    const { session, native } = fakeSession(words, { text: [0, 1, 2] });
    native.committed = 2;
    expect(() => session.truncate(1)).toThrow(error('ERR_POSITION', 'native'));
    expect(session.position).toBe(3);
  });
});

describe('stats', () => {
  test('name both denominators', () => {
    const { session } = fakeSession(words, { text: [0, 3, ANCHOR, 1], insert: ANCHOR });
    expect(session.stats()).toEqual({
      ...{ position: 4, pending: 0, anchors: 0, rowsPerLayer: [4, 2], rows: 6, mirrorRows: 2 },
      ...{ bytes: 4096, rowBytes: 16, reusedTokens: 0 },
      full: { rows: 8, bytes: 128 },
      fullWithoutAnchors: { rows: 6, bytes: 96 },
    });
  });

  test('count no anchors out where none are inserted', () => {
    const { session } = fakeSession(words, { text: [0, 3, ANCHOR, 1] });
    expect(session.stats().fullWithoutAnchors).toEqual({ rows: 8, bytes: 128 });
  });
});

describe('dispose', () => {
  test('is final, idempotent, and makes a running call reject', async () => {
    const { session, native } = fakeSession(words);
    native.waits = true;
    const call = session.append([1]);
    await Promise.resolve();
    session.dispose();
    session.dispose();
    await expect(call).rejects.toEqual(error('ERR_DISPOSED'));
    expect(native.aborts).toBe(1);
    await expect(session.append([1])).rejects.toEqual(error('ERR_DISPOSED'));
    await expect(session.generate().next()).rejects.toEqual(error('ERR_DISPOSED'));
    expect(() => session.stats()).toThrow(error('ERR_DISPOSED'));
    expect(() => session.fork()).toThrow(error('ERR_DISPOSED'));
  });

  test('happens at the end of a `using` block', () => {
    const { session, native } = fakeSession(words);
    {
      using open = session;
      expect(open.position).toBe(1);
    }
    expect(native.disposed).toBe(true);
  });
});
