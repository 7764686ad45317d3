// Reads the golden data beside this file; README.md describes it.
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));

/** Largest error allowed, relative to the largest logit of the prompt. */
export const tolerance = { exact: 2e-4, bf16: 2e-2 } as const;

export interface GoldenPrompt {
  ids: Uint32Array;
  /** The positions whose logits are stored; the last of them is the prompt's last. */
  positions: number[];
  /** One row of the vocabulary's size for each of `positions`. */
  logits: Float32Array[];
  /** The best id at every position of the prompt. */
  argmax: Uint32Array;
  /** The greedy continuation; ends of text are sampled like any id. */
  greedy: Uint32Array;
  /** The greedy continuation under generation_config.json, cut behind its end of text. */
  stopped?: Uint32Array;
  /** The largest absolute logit over all positions. */
  largest: number;
  /** Context of the session that they are for, where it decides the table of positions. */
  context?: number;
  /** The reference's own error against float64, and transformers' in bfloat16 against float32. */
  noise: { float32: number; bfloat16: number };
}

export interface GoldenModel {
  name: string;
  folder: string;
  vocabulary: number;
  /** Other spellings of config.json that lie beside it. */
  spellings: string[];
  /** `one`: a prompt of a single id; not for the Llama class. */
  prompts: { short: GoldenPrompt; long: GoldenPrompt; one?: GoldenPrompt };
}

/** A model of real size: the five best ids and their logits at every position. */
export interface GoldenTop {
  about: string;
  ids: Uint32Array;
  top: Uint32Array[];
  logits: Float32Array[];
  largest: number;
}

export interface GoldenEncoding {
  text: string;
  /** User text: no special token is read from it, none is put in front. */
  plain: number[];
  /** Special tokens read from the text. */
  parsed: number[];
  /** As `plain`, but without the blank that the tokenizer puts before a text. */
  continued: number[];
  /** As `plain`, with the anchor after every newline. */
  anchored: number[];
  /** The text of `plain`. */
  decoded: string;
}

export interface GoldenTokenizer {
  name: string;
  /** Where the tokenizer's files are; undefined for the shipped model's. */
  folder: string | undefined;
  about: string;
  size: number;
  special: Record<string, number>;
  /** What the post-processor puts before a text. */
  first: number[];
  /** Ids whose bytes hold a newline. */
  newlineIds: number[];
  /** Those that hold one anywhere but as their last byte. */
  innerNewlineIds: number[];
  /** SHA-256 over every id's bytes, each behind its length as a little-endian uint32. */
  bytesSha256: string;
  /** The bytes of every id, in the small tokenizers. */
  bytes: Uint8Array[] | undefined;
  cases: GoldenEncoding[];
}

function readJson<T>(...path: string[]): T {
  return JSON.parse(readFileSync(join(here, ...path), 'utf8')) as T;
}

function floatRows(base64: string, width: number): Float32Array[] {
  const bytes = Buffer.from(base64, 'base64');
  const rows: Float32Array[] = [];
  for (let at = 0; at < bytes.length; at += 4 * width) {
    rows.push(Float32Array.from({ length: width }, (_, i) => bytes.readFloatLE(at + 4 * i)));
  }
  return rows;
}

interface StoredPrompt {
  ids: number[];
  positions: number[];
  logits: string;
  argmax: number[];
  greedy: number[];
  stopped?: number[];
  context?: number;
  largest: number;
  noise: GoldenPrompt['noise'];
}

function readPrompt(stored: StoredPrompt, vocabulary: number): GoldenPrompt {
  const { stopped, ...rest } = stored;
  return {
    ...rest,
    ids: Uint32Array.from(stored.ids),
    logits: floatRows(stored.logits, vocabulary),
    argmax: Uint32Array.from(stored.argmax),
    greedy: Uint32Array.from(stored.greedy),
    ...(stopped && { stopped: Uint32Array.from(stopped) }),
  };
}

/** The names of all model folders. */
export function goldenModels(): string[] {
  return readdirSync(join(here, 'logits'))
    .filter((file) => file.endsWith('.json'))
    .map((file) => file.slice(0, -'.json'.length))
    .sort();
}

export function goldenModel(name: string): GoldenModel {
  const stored = readJson<{
    vocabulary: number;
    prompts: { short: StoredPrompt; long: StoredPrompt; one?: StoredPrompt };
  }>('logits', `${name}.json`);
  const folder = join(here, 'models', name);
  const { short, long, one } = stored.prompts;
  return {
    name,
    folder,
    vocabulary: stored.vocabulary,
    spellings: readdirSync(folder).flatMap((file) => /^config\.(\w+)\.json$/.exec(file)?.[1] ?? []),
    prompts: {
      short: readPrompt(short, stored.vocabulary),
      long: readPrompt(long, stored.vocabulary),
      ...(one && { one: readPrompt(one, stored.vocabulary) }),
    },
  };
}

/** A copy of the model's folder under another spelling of its config.json; remove it after use. */
export function respelled(
  model: GoldenModel,
  spelling: string,
): { folder: string; remove: () => void } {
  const folder = mkdtempSync(join(tmpdir(), `golden-${model.name}-`));
  for (const file of readdirSync(model.folder)) {
    if (!file.startsWith('config.')) copyFileSync(join(model.folder, file), join(folder, file));
  }
  copyFileSync(join(model.folder, `config.${spelling}.json`), join(folder, 'config.json'));
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

export function goldenTop(name: 'shipped' | 'twin'): GoldenTop {
  const stored = readJson<{
    about: string;
    ids: number[];
    top: number[][];
    logits: string;
    largest: number;
  }>(`${name}.json`);
  return {
    about: stored.about,
    ids: Uint32Array.from(stored.ids),
    top: stored.top.map((row) => Uint32Array.from(row)),
    logits: floatRows(stored.logits, 5),
    largest: stored.largest,
  };
}

type StoredEncoding = Pick<GoldenEncoding, 'text' | 'plain'> & Partial<GoldenEncoding>;

export function goldenTokenizer(name: 'sentencepiece' | 'newlines' | 'shipped'): GoldenTokenizer {
  const { bytes, cases, ...rest } = readJson<
    Omit<GoldenTokenizer, 'name' | 'folder' | 'bytes' | 'cases'> & {
      bytes?: string[];
      cases: StoredEncoding[];
    }
  >('tokenizer', name, 'encodings.json');
  return {
    ...rest,
    name,
    folder: name === 'shipped' ? undefined : join(here, 'tokenizer', name),
    bytes: bytes?.map((hex) => Uint8Array.from(Buffer.from(hex, 'hex'))),
    // What is left out equals `plain` or the text.
    cases: cases.map((stored) => ({
      parsed: stored.plain,
      continued: stored.plain,
      anchored: stored.plain,
      decoded: stored.text,
      ...stored,
    })),
  };
}

/** The largest difference of two rows, relative to `largest`; infinite where one is no number. */
export function relativeError(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  largest: number,
): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(Number(actual[i]) - Number(expected[i]));
    if (!(error <= worst)) worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
  }
  return worst / largest;
}
