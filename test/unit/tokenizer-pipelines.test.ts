// Normalizers and pre-tokenizers of real model families, against the Rust library's ids.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import { Encoder } from '../../lib/tokenizer/tokenizer-encode.js';
import { type Json, readTokenizerFiles } from '../../lib/tokenizer/tokenizer-files.js';

const golden = fileURLToPath(new URL('../golden/tokenizer/', import.meta.url));
const { text, cases } = JSON.parse(
  readFileSync(new URL('./tokenizer-pipelines.json', import.meta.url), 'utf8'),
) as { text: string; cases: { name: string; base: string; changes: Json; ids: number[] }[] };
const SIZE = 500;

function encoder(base: string, changes: Json): Encoder {
  const files = readTokenizerFiles(join(golden, base), SIZE);
  return new Encoder({ ...files, tokenizer: { ...files.tokenizer, ...changes } }, SIZE);
}

const plain = { parseSpecial: false, addSpecial: false, continued: false };

test.each(cases)('$name', ({ base, changes, ids }) => {
  expect(Array.from(encoder(base, changes).encode(text, plain))).toEqual(ids);
});

describe('text that goes on gets no blank', () => {
  test.each(cases)('$name', ({ base, changes }) => {
    const some = encoder(base, changes);
    const ids = some.encode('x', { ...plain, continued: true });
    const { bytes, offsets } = some.table;
    const own = Array.from(ids, (id) => Buffer.from(bytes.slice(offsets[id], offsets[id + 1])));
    expect(Buffer.concat(own).toString()).toBe('x');
  });
});

test('anchors go where a normalizer takes the newlines', () => {
  const newline = { type: 'Replace', pattern: { String: '\n' }, content: ' ' };
  const some = encoder('sentencepiece', { normalizer: newline });
  const ids = some.encodeWithAnchors('a\nb', { ...plain, anchorId: 7, indent: 'none' });
  expect(Array.from(ids)).toContain(7);
});
