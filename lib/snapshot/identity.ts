/** Tells one model from another, so that a snapshot is not read by the wrong one. */
import { webcrypto } from 'node:crypto';
import { join } from 'node:path';
import { readBytes, withFile } from '../files.js';
import type { ModelFolder } from '../folder.js';
import { tokenizerFiles } from '../tokenizer/tokenizer-files.js';

/** Of each weight file this many pages are read, the first and the last among them. */
const samples = 32;
const pageBytes = 4096;
/** Of any other file; none that loads is longer. */
const mostBytes = 64 << 20;

/**
 * SHA-256 (hexadecimal) over the config, the tokenizer's files, the table of tensors, and the size
 * and some pages of each weight file. Weights that were tuned differ in every page, so that is
 * enough to tell them apart, but no proof against somebody who wants two models to look alike.
 */
export async function identityOf(model: ModelFolder): Promise<string> {
  const named = ['config.json', ...tokenizerFiles].map((name) => hashFile(model.path, name));
  const { adapter } = model;
  const beside = adapter === undefined ? [] : ['adapter_config.json', 'anchors.json'];
  const own = beside.map((name) => hashFile(adapter as string, name));
  const weights = model.files.map(({ path, size }) => hashPages(path, size));
  const table = model.tensors.map(({ name, dtype, shape, file, offset, length }) =>
    [name, dtype, shape.join('x'), file, offset, length].join(' '),
  );
  const parts = [...(await Promise.all([...named, ...own, ...weights])), ...table];
  return hash(new TextEncoder().encode(parts.join('\n')));
}

async function hash(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return Buffer.from(await webcrypto.subtle.digest('SHA-256', bytes)).toString('hex');
}

async function hashFile(folder: string, name: string): Promise<string> {
  const read = withFile(join(folder, name), (file, size) =>
    readBytes(file, 0, Math.min(size, mostBytes), name),
  );
  const bytes = await read.catch(() => undefined); // most are optional
  return `${name} ${bytes ? await hash(bytes) : 'none'}`;
}

async function hashPages(path: string, size: number): Promise<string> {
  const last = Math.max(0, size - pageBytes);
  const pages = new Uint8Array(samples * pageBytes);
  await withFile(path, async (file) => {
    for (let i = 0; i < samples; ++i) {
      const position = Math.floor((last * i) / (samples - 1));
      await file.read(pages, i * pageBytes, pageBytes, position);
    }
  });
  return `${size} ${await hash(pages)}`;
}
