/**
 * Reads the small files of a model folder; failures become sentences. A file is judged by what has
 * been opened, never by what stood under its name before, and no more is read than was judged.
 */
import { closeSync, constants, fstatSync, openSync, readSync, type Stats, statSync } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { AnchorError, codeOf } from './errors.js';
import { type Json, type JsonRules, parseJson } from './json.js';

export type { Json } from './json.js';

/** A configuration has kilobytes; long lists of ids or of modules may make it longer. */
const maxJsonBytes = 4 << 20;

/** Flags to open a file for reading, without waiting for the writer of a pipe. */
export const readOnly = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0);

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

function sizeOfFile(found: Stats, path: string): number {
  if (found.isFile()) return found.size;
  throw new AnchorError('ERR_MODEL_INVALID', `"${path}" is not a regular file`);
}

function missingOrThrow(path: string): (error: unknown) => undefined {
  return (error) => {
    if (!isMissing(error)) throw unreadable(path, error);
    return undefined;
  };
}

/** Size in bytes, or undefined when there is no such file. @throws for anything but a file */
export async function sizeOf(path: string): Promise<number | undefined> {
  const found = await stat(path).catch(missingOrThrow(path));
  return found && sizeOfFile(found, path);
}

/**
 * Opens a file for reading, hands it and its size in bytes to `use` and closes it.
 * @returns undefined when there is no such file
 * @throws `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_INVALID` for anything but a regular file
 */
export async function withFile<T>(
  path: string,
  use: (file: FileHandle, size: number) => Promise<T>,
): Promise<T | undefined> {
  // First by name, since opening alone makes some devices act.
  if ((await sizeOf(path)) === undefined) return undefined;
  const file = await open(path, readOnly).catch(missingOrThrow(path));
  if (!file) return undefined;
  try {
    return await use(file, sizeOfFile(await file.stat(), path));
  } finally {
    await file.close();
  }
}

/** `length` bytes of a file from `start` on; `name` is the file's. */
export async function readBytes(
  file: FileHandle,
  start: number,
  length: number,
  name: string,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const read = file.read(bytes, at, length - at, start + at);
    const { bytesRead } = await read.catch((error: unknown) => {
      throw unreadable(name, error);
    });
    if (bytesRead === 0) throw cutOff(name);
    at += bytesRead;
  }
  return bytes;
}

function cutOff(name: string): AnchorError {
  return new AnchorError('ERR_MODEL_INVALID', `${name} became shorter while it was read`);
}

function checkSize(size: number, name: string, most: number): void {
  if (size <= most) return;
  const message = `${name} has ${size} bytes, more than the ${most} that are read`;
  throw new AnchorError('ERR_MODEL_INVALID', message);
}

/** Bounds of a JSON file. */
export interface JsonFileRules extends JsonRules {
  /** @default 4 MiB */
  bytes?: number;
}

/** The JSON object in a file of the folder, or undefined when there is no such file. */
export async function readJson(
  folder: string,
  name: string,
  rules: JsonFileRules = {},
): Promise<Json | undefined> {
  const bytes = await withFile(join(folder, name), (file, size) => {
    checkSize(size, name, rules.bytes ?? maxJsonBytes);
    return readBytes(file, 0, size, name);
  });
  return bytes && parseJson(bytes, name, rules);
}

/** As {@link readJson}, but blocks: for workers. */
export function readJsonSync(
  folder: string,
  name: string,
  rules: JsonFileRules = {},
): Json | undefined {
  const path = join(folder, name);
  const bytes = readFileSync(path, name, rules.bytes ?? maxJsonBytes);
  return bytes && parseJson(bytes, name, rules);
}

/** The text in a file of the folder, or undefined when there is no such file. Blocks. */
export function readTextSync(folder: string, name: string, most: number): string | undefined {
  const bytes = readFileSync(join(folder, name), name, most);
  try {
    return bytes && new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new AnchorError('ERR_MODEL_INVALID', `${name} is not UTF-8`, { cause });
  }
}

function readFileSync(path: string, name: string, most: number): Uint8Array | undefined {
  let file: number;
  try {
    sizeOfFile(statSync(path), path);
    file = openSync(path, readOnly);
  } catch (error) {
    if (error instanceof AnchorError) throw error;
    return missingOrThrow(path)(error);
  }
  try {
    const size = sizeOfFile(fstatSync(file), path);
    checkSize(size, name, most);
    const bytes = new Uint8Array(size);
    for (let at = 0; at < size; ) {
      const count = readSync(file, bytes, at, size - at, at);
      if (count === 0) throw cutOff(name);
      at += count;
    }
    return bytes;
  } catch (error) {
    throw error instanceof AnchorError ? error : unreadable(path, error);
  } finally {
    closeSync(file);
  }
}
