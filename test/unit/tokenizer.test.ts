// Encoding in the worker, against golden ids of the Rust library and the shipped model's own.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openTokenizer, type Tokenizer } from '../../dist/lib/tokenizer/tokenizer.js';
import { goldenTokenizer } from '../golden/load.js';

const shipped = fileURLToPath(new URL('../../models/anchor-code-23m', import.meta.url));
const list = (ids: ArrayLike<number>) => Array.from(ids);

async function opened(folder: string, vocabSize: number): Promise<Tokenizer> {
  const tokenizer = await openTokenizer(folder, vocabSize);
  if (!tokenizer) throw new Error(`${folder} has no tokenizer`);
  return tokenizer;
}

describe.each(['sentencepiece', 'newlines', 'shipped'] as const)('golden %s', (name) => {
  const golden = goldenTokenizer(name);
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await opened(golden.folder ?? shipped, golden.size);
  });
  afterAll(() => tokenizer.dispose());

  test('user text', async () => {
    for (const { text, plain } of golden.cases) {
      const ids = await tokenizer.encode(text, { addSpecial: false });
      expect([text, list(ids)]).toEqual([text, plain]);
    }
  });

  test('text with control tokens', async () => {
    for (const { text, parsed } of golden.cases) {
      const ids = await tokenizer.encode(text, { addSpecial: false, parseSpecial: true });
      expect([text, list(ids)]).toEqual([text, parsed]);
    }
  });

  test('text that goes on', async () => {
    for (const { text, continued } of golden.cases) {
      const ids = await tokenizer.encode(text, { addSpecial: false, continued: true });
      expect([text, list(ids)]).toEqual([text, continued]);
    }
  });

  test('anchors after newlines', async () => {
    const anchorId = tokenizer.idOf('<ANCHOR>') as number;
    expect(anchorId).toBe(golden.special['<ANCHOR>']);
    for (const { text, anchored } of golden.cases) {
      const ids = await tokenizer.encodeWithAnchors(text, { addSpecial: false, anchorId });
      expect([text, list(ids)]).toEqual([text, anchored]);
    }
  });

  test('ids in front', async () => {
    // The shipped folder has no post-processor, but says add_bos_token.
    const first = name === 'shipped' ? [0] : golden.first;
    const [plain, text] = [golden.cases[20]?.plain ?? [], golden.cases[20]?.text ?? ''];
    expect(list(await tokenizer.encode(''))).toEqual(first);
    expect(list(await tokenizer.encode(text))).toEqual([...first, ...plain]);
    const anchored = await tokenizer.encodeWithAnchors(text, { anchorId: 5 });
    expect(list(anchored).slice(0, first.length)).toEqual(first);
  });

  test('text of ids', () => {
    for (const { plain, decoded } of golden.cases) {
      expect(tokenizer.detokenize(plain)).toBe(decoded);
    }
  });

  test('bytes of every id', () => {
    const hash = createHash('sha256');
    const special = new Map(Object.entries(golden.special).map(([content, id]) => [id, content]));
    for (let id = 0; id < golden.size; id++) {
      const content = special.get(id);
      expect(tokenizer.isControl(id)).toBe(content !== undefined);
      if (content !== undefined) expect(tokenizer.tokenBytes(id)).toHaveLength(0);
      const bytes = content === undefined ? tokenizer.tokenBytes(id) : Buffer.from(content);
      const length = Buffer.alloc(4);
      length.writeUInt32LE(bytes.length);
      hash.update(length).update(bytes);
    }
    expect(hash.digest('hex')).toBe(golden.bytesSha256);
  });

  test('ids with newlines', () => {
    const { ending, unusable, containing } = tokenizer.newlines();
    expect(list(containing)).toEqual(golden.newlineIds);
    expect(list(unusable)).toEqual(golden.innerNewlineIds);
    const inner = new Set(golden.innerNewlineIds);
    expect(list(ending)).toEqual(golden.newlineIds.filter((id) => !inner.has(id)));
  });
});

describe('the shipped tokenizer', () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await opened(shipped, 8192);
  });
  afterAll(() => tokenizer.dispose());

  test('gives the ids that the model was checked with', async () => {
    const parity = JSON.parse(readFileSync(`${shipped}/parity.json`, 'utf8')) as {
      text: string;
      ids: number[];
    };
    const ids = await tokenizer.encodeWithAnchors(parity.text, { anchorId: 1 });
    expect(list(ids)).toEqual(parity.ids);
    expect(tokenizer.detokenize(ids)).toBe(parity.text);
  });

  test('inserts nothing where the text brings the anchor', async () => {
    const options = { anchorId: 1, addSpecial: false, parseSpecial: true };
    const brought = await tokenizer.encodeWithAnchors('a\n<ANCHOR>b\n', options);
    const inserted = await tokenizer.encodeWithAnchors('a\nb\n', options);
    expect(list(brought)).toEqual(list(inserted));
  });

  test('turns four blanks into a tab', async () => {
    const options = { anchorId: 1, indent: 'tab4' } as const;
    const ids = await tokenizer.encodeWithAnchors('if x:\n         y    z', options);
    expect(tokenizer.decode(ids)).toBe('if x:\n\t\t y\tz');
  });

  test('finds ids by text', () => {
    expect(tokenizer.idOf('<|endoftext|>')).toBe(0);
    expect(tokenizer.idOf('\n')).toBe(202);
    expect(tokenizer.idOf('no such token')).toBeUndefined();
    expect(tokenizer.idOf('')).toBeUndefined();
  });

  test('keeps marks that decoders like to drop', () => {
    const ids = [...Buffer.from('\ufeffx')].map((byte) => {
      const id = Array.from({ length: 8192 }, (_, i) => i).find((i) => {
        const own = tokenizer.tokenBytes(i);
        return own.length === 1 && own[0] === byte;
      });
      return id as number;
    });
    expect(tokenizer.decode(ids)).toBe('\ufeffx');
    expect(tokenizer.decode(ids.slice(1))).toBe('\ufffd\ufffdx');
  });

  test('says which ids there are', () => {
    const message = 'There is no id 8192; ids go from 0 to 8191';
    expect(() => tokenizer.decode([5, 8192])).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT', message }) as unknown as Error,
    );
    expect(tokenizer.isControl(8192)).toBe(false);
  });

  test.each(['a', '\n', ' ', 'x\n    ', '=', '\ud83c\udf89', '_\u00e9'])(
    'reads 64 KiB of %j in bounded time',
    async (unit) => {
      const text = unit.repeat(Math.ceil(65536 / unit.length));
      const start = performance.now();
      const ids = await tokenizer.encodeWithAnchors(text, { anchorId: 1 });
      // Takes up to 0.25 s; the library's own merging takes four times that.
      expect(performance.now() - start).toBeLessThan(5000);
      expect(tokenizer.decode(ids)).toBe(text);
    },
  );

  test('refuses what is longer than any context', async () => {
    await expect(tokenizer.encode('x'.repeat(2 ** 24 + 1))).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringContaining('at most 16777216'),
    });
  });

  test('takes lone surrogates as the replacement character', async () => {
    const ids = await tokenizer.encode('a\ud800b', { addSpecial: false });
    expect(tokenizer.decode(ids)).toBe('a\ufffdb');
  });
});

test('a folder without a tokenizer is none', async () => {
  const folder = fileURLToPath(new URL('../golden/models/mqa', import.meta.url));
  expect(existsSync(folder)).toBe(true);
  expect(await openTokenizer(folder, 128)).toBeUndefined();
});
