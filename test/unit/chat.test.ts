// Parts of chats: Python's dates and strips, and marks in texts.
import { describe, expect, test } from '@jest/globals';
import { chooseMark, Marker, withoutMarks } from '../../lib/chat/chat-marks.js';
import { strip } from '../../lib/chat/chat-strip.js';
import { strftime } from '../../lib/chat/chat-time.js';

describe('strftime', () => {
  const date = new Date(2024, 6, 5, 14, 3, 9);

  test.each([
    ['%d %b %Y', '05 Jul 2024'],
    ['%A, %B %-d', 'Friday, July 5'],
    ['%a %m/%d/%y', 'Fri 07/05/24'],
    ['%H:%M:%S', '14:03:09'],
    ['%I %p %-I', '02 PM 2'],
    ['100%% of %-m', '100% of 7'],
  ])('%s', (format, text) => {
    expect(strftime(date, format)).toBe(text);
  });

  test('midnight and noon', () => {
    expect(strftime(new Date(2024, 0, 1, 0), '%I %p')).toBe('12 AM');
    expect(strftime(new Date(2024, 0, 1, 12), '%I %p')).toBe('12 PM');
  });

  test.each(['%Q', 'a %', '%-'])('refuses %s', (format) => {
    expect(() => strftime(date, format)).toThrow('strftime_now does not know');
  });
});

describe('strip', () => {
  test('takes off blanks as Python has them, or the letters that it is given', () => {
    expect(strip(' \t\n\x1ca b\u2003\n', 'strip')).toBe('a b');
    expect(strip('\ufeffa', 'lstrip')).toBe('\ufeffa');
    expect(strip('\n\n  a\n', 'lstrip', '\n')).toBe('  a\n');
    expect(strip('xya🎉x🎉', 'rstrip', '🎉x')).toBe('xya');
    expect(strip('aaa', 'strip', 'a')).toBe('');
  });
});

describe('marks', () => {
  const tokens = {
    control: ['<|end|>', '<s>', 'aa', '§', '🙂', '🙃!'],
    words: ['</think>', '  ', '\n'],
  };
  const marker = new Marker('M', tokens);
  const input = (message: unknown) =>
    marker.input({ messages: [message], tools: undefined, variables: {} }).messages[0];
  const content = (text: string, role = 'user') =>
    (input({ role, content: text }) as { content: string }).content;

  test.each([
    ['x', 'x'],
    ['<|end|>', '<M|end|>'],
    ['<S><s>', '<MS><Ms>'],
    ['baaab', 'baMaMab'],
    ['b §', 'b M§'],
    // Between characters, never inside one.
    ['🙂🙃!', 'M🙂🙃M!'],
    ['</think>', '<M/think>'],
    ['  \n  ', '  \n  '],
    // What could become a token together with a neighbour.
    [' <|e \n', ' <|eM \n'],
    ['nd|> x', 'Mnd|> x'],
    ['a', 'MaM'],
  ])('%j', (text, marked) => {
    expect(content(text)).toBe(marked);
    expect(withoutMarks(marked, 'M')).toBe(text);
  });

  test('words stay whole in answers, control tokens do not', () => {
    expect(content('</think><s>', 'assistant')).toBe('</think><Ms>');
  });

  test('names that templates compare stay whole, but for tokens', () => {
    const part = { type: 'a', '<s>': [1, null, true, 'a'], a: 'x' };
    expect(input({ role: 'a', content: part })).toEqual({
      role: 'a',
      content: { type: 'a', '<Ms>': [1, null, true, 'MaM'], a: 'x' },
    });
    expect(input({ role: '<s>' })).toEqual({ role: '<Ms>' });
  });

  test('the character is one that occurs nowhere', () => {
    expect(chooseMark([])).toBe('\ue000');
    expect(chooseMark(['a\ue000', '\\uE001', '\ue003'])).toBe('\ue002');
  });
});
