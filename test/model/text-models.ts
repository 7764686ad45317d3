// Tiny random models with the golden tokenizers and further control tokens: what the tests of
// prompts share.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type GoldenTokenizer, goldenTokenizer } from '../golden/load.js';
import { randomModel, saveModel } from '../reference/weights.js';
import type { Json } from './folders.js';

type Name = 'sentencepiece' | 'newlines';

const VOCAB = 480;
/** Id of the first of {@link TextModel.tokens}. */
export const FIRST = 440;

export interface TextModel {
  tokenizer: Name;
  /** Tokens beside the vocabulary, in order of their ids; by default control tokens. */
  tokens?: readonly (string | Json)[];
  /** Keys of config.json and tokenizer_config.json. */
  config?: Json;
  tokenizerConfig?: Json;
  /** Other files by name. */
  files?: Record<string, string>;
}

/** Makes folders until `remove` takes them away. */
export class TextModels {
  readonly #root = mkdtempSync(join(tmpdir(), 'anchorcoder-text-'));
  #count = 0;

  async make({ tokenizer, tokens = [], ...own }: TextModel): Promise<string> {
    const folder = join(this.#root, String(this.#count++));
    const sizes = { layers: 2, hiddenSize: 16, intermediateSize: 24, heads: 2, kvHeads: 2 };
    saveModel(randomModel({ ...sizes, headDim: 8, vocabSize: VOCAB }, 7), folder, {
      max_position_embeddings: 512,
      ...own.config,
    });
    const from = goldenTokenizer(tokenizer).folder as string;
    const read = (name: string) => JSON.parse(readFileSync(join(from, name), 'utf8'));
    const json = read('tokenizer.json');
    const flags = { special: true, normalized: false, lstrip: false, rstrip: false };
    const added = tokens.map((token, i) => ({
      ...{ id: FIRST + i, single_word: false, ...flags },
      ...(typeof token === 'string' ? { content: token } : token),
    }));
    json.added_tokens = [...json.added_tokens, ...added];
    const config = { ...read('tokenizer_config.json'), ...own.tokenizerConfig };
    const files: Record<string, string> = {
      'tokenizer.json': JSON.stringify(json),
      'tokenizer_config.json': JSON.stringify(config),
      ...own.files,
    };
    for (const [name, text] of Object.entries(files)) {
      await mkdir(dirname(join(folder, name)), { recursive: true });
      writeFileSync(join(folder, name), text);
    }
    return folder;
  }

  remove(): void {
    rmSync(this.#root, { recursive: true, force: true });
  }
}

/** Golden ids of a text, so that prompts are compared with what Python makes of their parts. */
export function goldenIds(
  name: Name | 'shipped',
  text: string,
  kind: 'plain' | 'continued' | 'anchored' = 'plain',
): number[] {
  const golden: GoldenTokenizer = goldenTokenizer(name);
  const found = golden.cases.find((each) => each.text === text);
  if (!found) throw new Error(`no golden ids of ${JSON.stringify(text)}`);
  return found[kind];
}
