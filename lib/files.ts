/** Reads the small files of a model folder; failures become sentences. */
import { type FileHandle, open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { AnchorError, codeOf } from './errors.js';

// The largest tokenizer.json of a known model has about 40 MB; what is read here is far smaller.
const maxJsonBytes = 64 * 1024 * 1024;

/** A parsed JSON object. */
export type Json = { [key: string]: unknown };

/** Whether `value` is a JSON object, not an array. */
export function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** @throws `ERR_MODEL_NOT_FOUND` unless `folder` is a folder */
export async function requireFolder(folder: string): Promise<void> {
  const found = await stat(folder).catch((error: unknown) => {
    if (isMissing(error)) throw new AnchorError('ERR_MODEL_NOT_FOUND', missingFolder(folder));
    throw unreadable(folder, error);
  });
  if (found.isDirectory()) return;
  throw new AnchorError('ERR_MODEL_NOT_FOUND', `"${folder}" is a file, not a model folder`);
}

function missingFolder(folder: string): string {
  return `There is no folder "${folder}"; a model folder holds config.json and *.safetensors`;
}

function isMissing(error: unknown): boolean {
  const code = codeOf(error);
  return code === 'ENOENT' || code === 'ENOTDIR';
}

function unreadable(path: string, cause: unknown): AnchorError {
  const reason = cause instanceof Error || codeOf(cause) ? (cause as Error).message : String(cause);
  return new AnchorError('ERR_MODEL_NOT_FOUND', `"${path}" cannot be read: ${reason}`, { cause });
}

/** Size in bytes, or undefined when there is no such file. @throws for anything but a file */
export async function sizeOf(path: string): Promise<number | undefined> {
  const found = await stat(path).catch((error: unknown) => {
    if (isMissing(error)) return undefined;
    throw unreadable(path, error);
  });
  // Opening a pipe would wait for its writer for ever.
  if (found && !found.isFile()) {
    throw new AnchorError('ERR_MODEL_INVALID', `"${path}" is not a regular file`);
  }
  return found?.size;
}

/** Opens a file for reading, hands it to `use` and closes it. */
export async function withFile<T>(path: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path, 'r').catch((error: unknown) => {
    throw unreadable(path, error);
  });
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

/** The JSON object in a file of the folder, or undefined when there is no such file. */
export async function readJson(folder: string, name: string): Promise<Json | undefined> {
  const path = join(folder, name);
  const size = await sizeOf(path);
  if (size === undefined) return undefined;
  if (size > maxJsonBytes) {
    const message = `${name} has ${size} bytes, more than the ${maxJsonBytes} that are read`;
    throw new AnchorError('ERR_MODEL_INVALID', message);
  }
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw unreadable(path, error);
  });
  return parseJson(text, name);
}

/** @throws `ERR_MODEL_INVALID` unless `text` is a JSON object; `name` is the file's */
export function parseJson(text: string, name: string): Json {
  let value: unknown;
  try {
    value = JSON.parse(text.startsWith('\uFEFF') ? text.slice(1) : text);
  } catch (cause) {
    const message = `${name} is not valid JSON: ${(cause as Error).message}`;
    throw new AnchorError('ERR_MODEL_INVALID', message, { cause });
  }
  if (isJson(value)) return value;
  throw new AnchorError('ERR_MODEL_INVALID', `${name} holds no JSON object`);
}
