// Streaming: text, stop strings, early ends, aborts.
import { describe, expect, test } from '@jest/globals';
import type { Chunk, GenerateOptions } from '../../types/api.js';
import { type FakeModel, fakeSession } from './fake.js';

const words = ['<bos>', 'a', 'b', 'ab', ';', '\n', '\n\n', 'x\ny', '<ANCHOR>', 'end'];
const [A, B, AB, SEMI, LINE, LINES, SPLIT, ANCHOR, END] = [1, 2, 3, 4, 5, 6, 7, 8, 9];

async function collect(fake: FakeModel, script: number[], options: GenerateOptions = {}) {
  fake.native.script = script;
  const chunks: Chunk[] = [];
  for await (const chunk of fake.session.generate(options)) chunks.push(chunk);
  return { chunks, text: chunks.map(({ text }) => text).join('') };
}

describe('generate', () => {
  test('gives one chunk per token, and the finish with the last one', async () => {
    const fake = fakeSession(words);
    const { chunks } = await collect(fake, [A, B, END]);
    expect(chunks).toEqual([
      { id: A, text: 'a' },
      { id: B, text: 'b' },
      { id: END, text: 'end', finish: 'length' },
    ]);
    expect(fake.session.position).toBe(4);
    expect(fake.native.ended).toEqual([4]);
  });

  test('reports the end of text as the last id, with no text and not in the session', async () => {
    const fake = fakeSession(words);
    fake.native.finish = 'stop';
    const { chunks } = await collect(fake, [A, END], { stopTokens: [END] });
    expect(chunks.at(-1)).toEqual({ id: END, text: '', finish: 'stop' });
    expect(fake.native.text).toEqual([0, A]);
    expect([...(fake.native.spec?.eosIds ?? [])]).toEqual([END]);
  });

  test('hands sampling settings over, and greedy ones by default', async () => {
    const fake = fakeSession(words, { contextLength: 50 });
    await collect(fake, [A]);
    const { seed, ...spec } = fake.native.spec as NonNullable<typeof fake.native.spec>;
    expect(typeof seed).toBe('bigint');
    expect(spec).toMatchObject({ maxTokens: 49, temperature: 0, topK: 0, topP: 1, minP: 0 });
    expect(spec).toMatchObject({ repetitionPenalty: 1, forcedAnchor: -1, logprobs: false });
    const given = { maxTokens: 1000, temperature: 0.5, topK: 3, topP: 0.9, minP: 0.1 };
    await collect(fake, [A], { ...given, repetitionPenalty: 1.1, seed: 7, logprobs: 2 });
    expect(fake.native.spec).toMatchObject({ ...given, maxTokens: 48, seed: 7n, topLogprobs: 2 });
  });

  test('takes what the call says, then what the model says', async () => {
    const defaults = { temperature: 0.6, topK: 20, repetitionPenalty: 1.2, maxTokens: 7 };
    const fake = fakeSession(words, { defaults });
    await collect(fake, [A]);
    expect(fake.native.spec).toMatchObject({ ...defaults, topP: 1, minP: 0 });
    await collect(fake, [A], { temperature: 0, topK: undefined, maxTokens: 3 } as GenerateOptions);
    expect(fake.native.spec).toMatchObject({ ...defaults, temperature: 0, maxTokens: 3 });
  });

  test('forces the inserted anchor and bans ids that it could not follow', async () => {
    const fake = fakeSession(words, { insert: ANCHOR });
    const { chunks, text } = await collect(fake, [A, LINE, B], { logprobs: true });
    expect(text).toBe('a\nb');
    expect(fake.native.text).toEqual([0, A, LINE, ANCHOR, B]);
    expect([...(fake.native.spec?.newlineIds ?? [])]).toEqual([LINE]);
    expect([...(fake.native.spec?.bannedIds ?? [])].sort()).toEqual([LINES, SPLIT, ANCHOR]);
    expect(chunks[1]).toEqual({ id: LINE, text: '\n', logprob: -LINE, anchorLogprob: -0.5 });
    expect(chunks[0]).toEqual({ id: A, text: 'a', logprob: -A });
  });

  test('samples anchors when asked to, without text', async () => {
    const fake = fakeSession(words, { insert: ANCHOR });
    const { text } = await collect(fake, [LINE, ANCHOR, A], { anchors: 'sampled' });
    expect(text).toBe('\na');
    expect(fake.native.spec).toMatchObject({ forcedAnchor: -1 });
    expect(fake.native.spec?.bannedIds.length).toBe(0);
  });

  test('gives alternatives in order', async () => {
    const fake = fakeSession(words);
    fake.native.batchSize = 2;
    const { chunks } = await collect(fake, [A, B], { logprobs: 2 });
    expect(chunks[1]?.top).toEqual([
      { id: 2, logprob: -2 },
      { id: 3, logprob: -3 },
    ]);
  });

  test('yields whole characters only, and finishes those that the prompt began', async () => {
    const [first, second, third] = [...new TextEncoder().encode('漢')].map((b) => Uint8Array.of(b));
    const parts = ['<bos>', first, second, third, 'a'] as (string | Uint8Array)[];
    const fake = fakeSession(parts, { text: [0, 1] });
    expect((await collect(fake, [2, 3, 4, 1])).chunks.map(({ text }) => text)).toEqual([
      '',
      '漢',
      'a',
      '', // not yet a character
    ]);
    expect((await collect(fake, [2, 3])).text).toBe('漢');
    // Without its end, a character becomes U+FFFD.
    expect((await collect(fake, [1, 4])).text).toBe('\uFFFDa');
  });

  test('undoes tabs that stand for four blanks', async () => {
    const fake = fakeSession(['<bos>', '\t', 'x'], { indent: 'tab4' });
    expect((await collect(fake, [1, 2], { stop: '  x' })).text).toBe('  ');
  });
});

describe('stop strings', () => {
  const cases: [string, number[], string[], string, 'stop' | 'length', number[]][] = [
    ['inside a token', [A, AB, B], ['b'], 'aa', 'stop', [A]],
    ['over tokens', [A, A, B, B, END], ['abb'], 'a', 'stop', [A]],
    ['over tokens that begin again', [A, A, A, B], ['aab'], 'a', 'stop', [A]],
    ['held back and let go', [A, B, END], ['aba'], 'abend', 'length', [A, B, END]],
    ['held back at the end', [END, A], ['ab'], 'enda', 'length', [END, A]],
    ['first of two to be complete', [A, B, SEMI], ['ab;', 'b'], 'a', 'stop', [A]],
    ['longer of two that end together', [END, A, B], ['b', 'ab'], 'end', 'stop', [END]],
    ['at the first token', [B, A], ['b'], '', 'stop', []],
    ['a token with a newline', [A, LINE, A], ['\n'], 'a', 'stop', [A]],
  ];
  for (const batchSize of [1, 2, 16]) {
    test.each(cases)(`%s, by ${batchSize}`, async (_, script, stop, text, finish, kept) => {
      const fake = fakeSession(words);
      fake.native.batchSize = batchSize;
      const result = await collect(fake, [...script], { stop });
      expect(result.text).toBe(text);
      expect(result.chunks.at(-1)?.finish).toBe(finish);
      expect(fake.native.text).toEqual([0, ...kept]);
      expect(fake.session.position).toBe(1 + kept.length);
    });
  }

  test('are found wherever tokens cut random text', async () => {
    let state = 1;
    const random = (n: number) => {
      state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
      return (state >>> 8) % n;
    };
    const letters = ['<bos>', 'a', 'b', 'ab', 'ba', 'aab', 'bab'];
    for (let round = 0; round < 300; ++round) {
      const script = Array.from({ length: 1 + random(12) }, () => 1 + random(6));
      const stop = Array.from({ length: 1 + random(3) }, () =>
        Array.from({ length: 1 + random(4) }, () => 'ab'[random(2)]).join(''),
      );
      const fake = fakeSession(letters);
      fake.native.batchSize = 1 + random(4);
      const { text, chunks } = await collect(fake, [...script], { stop });

      // By hand: the end that comes first, and there the longest string.
      const whole = script.map((id) => letters[id]).join('');
      let expected = { text: whole, kept: script.length };
      for (let end = 1; end <= whole.length; ++end) {
        const found = stop.filter((s) => whole.slice(0, end).endsWith(s));
        if (found.length === 0) continue;
        const cut = end - Math.max(...found.map((s) => s.length));
        let kept = 0;
        for (let at = 0; kept < script.length; ++kept) {
          at += (letters[script[kept] as number] as string).length;
          if (at > cut) break;
        }
        expected = { text: whole.slice(0, cut), kept };
        break;
      }
      expect({ text, kept: fake.native.text.length - 1 }).toEqual(expected);
      expect(chunks.at(-1)?.finish).toBe(text === whole ? 'length' : 'stop');
    }
  });

  test('let rows leave up to the last token that they cannot undo', async () => {
    const fake = fakeSession(words);
    await collect(fake, [END, A, B, END], { stop: 'ab;' });
    // start; "end" is certain; "a" and "b" are held; the next "end" settles them
    expect(fake.native.commits).toEqual([1, 2, 2, 2]);
  });

  test('may begin with a character that has only begun', async () => {
    const bytes = [...new TextEncoder().encode('é')].map((b) => Uint8Array.of(b));
    const fake = fakeSession(['<bos>', ...bytes, 'a'] as (string | Uint8Array)[]);
    expect((await collect(fake, [3, 1, 2, 3], { stop: 'é' })).text).toBe('a');
    expect(fake.native.text).toEqual([0, 3]);
  });

  test('need a tokenizer', () => {
    const { session } = fakeSession(undefined);
    expect(() => session.generate({ stop: 'x' })).toThrow(
      expect.objectContaining({ code: 'ERR_NO_TOKENIZER' }),
    );
  });
});

describe('leaving early', () => {
  test('keeps exactly the tokens that were yielded', async () => {
    const fake = fakeSession(words);
    fake.native.script = [A, B, A, B];
    fake.native.batchSize = 4;
    for await (const { id } of fake.session.generate()) if (id === B) break;
    expect(fake.native.text).toEqual([0, A, B]);
    expect(fake.session.position).toBe(3);
    expect([...fake.session.ids()]).toEqual([0, A, B]); // not busy
  });

  test('keeps tokens whose text was held back, too', async () => {
    const fake = fakeSession(words);
    fake.native.script = [END, A, B];
    fake.native.batchSize = 4;
    for await (const { id } of fake.session.generate({ stop: 'abb' })) if (id === A) break;
    expect(fake.native.text).toEqual([0, END, A]);
  });

  test('keeps the anchor that was forced after the last token', async () => {
    const fake = fakeSession(words, { insert: ANCHOR });
    fake.native.script = [LINE, A];
    fake.native.batchSize = 2;
    for await (const _ of fake.session.generate()) break;
    expect(fake.native.text).toEqual([0, LINE, ANCHOR]);
  });

  test('frees the session before the last chunk is given', async () => {
    const fake = fakeSession(words);
    fake.native.script = [A];
    const chunks = fake.session.generate();
    expect((await chunks.next()).value).toMatchObject({ finish: 'length' });
    fake.native.script = [B];
    const more = fake.session.generate();
    expect((await more.next()).value).toMatchObject({ id: B });
    // The first one's end is not the second one's.
    expect(await chunks.next()).toEqual({ done: true, value: undefined });
    expect(fake.native.text).toEqual([0, A, B]);
  });

  test('is free before the first call of next', async () => {
    const fake = fakeSession(words);
    const chunks = fake.session.generate();
    await chunks.return?.();
    expect(fake.native.spec).toBeUndefined();
    expect(await chunks.next()).toEqual({ done: true, value: undefined });
  });

  test('serves calls of next one by one', async () => {
    const fake = fakeSession(words);
    fake.native.script = [A, B, END];
    const chunks = fake.session.generate();
    const results = await Promise.all([chunks.next(), chunks.next(), chunks.next(), chunks.next()]);
    expect(results.map(({ value }) => (value as Chunk | undefined)?.id)).toEqual([
      A,
      B,
      END,
      undefined,
    ]);
  });
});

describe('aborting', () => {
  const reason = new Error('enough');

  test('rejects with the reason while a token is computed', async () => {
    const fake = fakeSession(words);
    const controller = new AbortController();
    fake.native.script = [A, B, END];
    const chunks = fake.session.generate({ signal: controller.signal });
    await chunks.next();
    fake.native.waits = true;
    const next = chunks.next();
    controller.abort(reason);
    await expect(next).rejects.toBe(reason);
    expect(fake.native.text).toEqual([0, A]);
    fake.native.waits = false;
    expect((await collect(fake, [B])).text).toBe('b');
  });

  test('rejects with the reason between tokens, and keeps the yielded ones', async () => {
    const fake = fakeSession(words);
    const controller = new AbortController();
    fake.native.script = [A, B, END];
    fake.native.batchSize = 3;
    const chunks = fake.session.generate({ signal: controller.signal });
    await chunks.next();
    controller.abort(reason);
    await expect(chunks.next()).rejects.toBe(reason);
    expect(fake.native.ended).toEqual([2]);
    expect(await chunks.next()).toEqual({ done: true, value: undefined });
  });

  test('before the beginning does nothing at all', async () => {
    const fake = fakeSession(words);
    const chunks = fake.session.generate({ signal: AbortSignal.abort(reason) });
    await expect(chunks.next()).rejects.toBe(reason);
    expect(fake.native.spec).toBeUndefined();
    expect(fake.session.stats().position).toBe(1);
  });

  test('removes its listener', async () => {
    const fake = fakeSession(words);
    const { signal } = new AbortController();
    let listeners = 0;
    const [add, remove] = [signal.addEventListener, signal.removeEventListener];
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      ++listeners;
      add.apply(signal, args);
    };
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      --listeners;
      remove.apply(signal, args);
    };
    await collect(fake, [A, B, END], { signal });
    expect(listeners).toBe(0);
  });
});

describe('disposing', () => {
  const disposed = expect.objectContaining({ name: 'AnchorError', code: 'ERR_DISPOSED' });

  test('makes a running generation reject', async () => {
    const fake = fakeSession(words);
    fake.native.waits = true;
    const next = fake.session.generate().next();
    await Promise.resolve();
    fake.session.dispose();
    await expect(next).rejects.toEqual(disposed);
  });

  test('makes a resting generation reject', async () => {
    const fake = fakeSession(words);
    fake.native.script = [A, B];
    const chunks = fake.session.generate();
    await chunks.next();
    fake.session.dispose();
    await expect(chunks.next()).rejects.toEqual(disposed);
    expect(fake.native.ended).toEqual([]);
  });

  test('lets a loop be left quietly', async () => {
    const fake = fakeSession(words);
    fake.native.script = [A, B];
    for await (const _ of fake.session.generate()) {
      fake.session.dispose();
      break;
    }
    expect(fake.native.disposed).toBe(true);
  });
});
