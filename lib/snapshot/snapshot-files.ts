/** Snapshots in memory and in files. */
import { randomBytes } from 'node:crypto';
import type { Stats } from 'node:fs';
import { type FileHandle, open, realpath, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { AnchorError, codeOf, throwIfAborted } from '../errors.js';
import { readOnly } from '../files.js';
import { invalid } from '../options.js';
import type { SnapshotWriter, Source } from './snapshot.js';

/** All of a snapshot in one array. */
export async function writeToMemory(
  writer: SnapshotWriter,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const bytes = allocate(writer.size);
  let at = 0;
  for await (const piece of writer.pieces(signal)) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

function allocate(size: number): Uint8Array {
  try {
    return new Uint8Array(size);
  } catch (cause) {
    const message = `There is no memory for a snapshot of ${size} bytes; save it to a file`;
    throw new AnchorError('ERR_OUT_OF_MEMORY', message, { cause });
  }
}

/**
 * Writes a file beside `path` and renames it when all of it is on the disk, so that whoever opens
 * `path` finds the old content or the new one. A link stays one, and a file keeps its mode.
 * @throws `ERR_FILE`, also for what is there and no regular file
 */
export async function writeToFile(
  writer: SnapshotWriter,
  path: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const suffix = randomBytes(6).toString('hex');
  let temporary = '';
  let file: FileHandle | undefined;
  try {
    const before = await statOf(path);
    const target = before ? await realpath(path) : resolve(path);
    temporary = join(dirname(target), `.${basename(target)}.${suffix}.tmp`);
    file = await open(temporary, 'wx');
    if (before) await file.chmod(before.mode & 0o777);
    await writeFile(file, writer.pieces(signal));
    await file.sync();
    await file.close();
    throwIfAborted(signal);
    await rename(temporary, target);
  } catch (error) {
    await file?.close().catch(() => {}); // it may be closed already
    if (file) await rm(temporary, { force: true }).catch(() => {});
    throw fileError(error, path, 'written');
  }
}

async function statOf(path: string): Promise<Stats | undefined> {
  try {
    return requireFile(await stat(path), path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function requireFile(found: Stats, path: string): Stats {
  if (found.isFile()) return found;
  throw new AnchorError('ERR_FILE', `"${path}" is not a regular file`);
}

/** Opens what `Model.restore` was given, and closes it after `use`. @throws `ERR_FILE` */
export async function withSource<T>(
  snapshot: unknown,
  use: (source: Source) => Promise<T>,
): Promise<T> {
  if (ArrayBuffer.isView(snapshot)) return use(memorySource(snapshot));
  const path = checkFile(snapshot, 'the snapshot', 'a Uint8Array or the path of a file');
  let file: FileHandle | undefined;
  try {
    // First by name, since opening alone makes some devices act.
    requireFile(await stat(path), path);
    file = await open(path, readOnly);
    const { size } = requireFile(await file.stat(), path);
    return await use(fileSource(file, path, size));
  } catch (error) {
    throw fileError(error, path, 'read');
  } finally {
    await file?.close();
  }
}

/** Checks the path of a file. @throws `ERR_INVALID_ARGUMENT` */
export function checkFile(value: unknown, name: string, expectation: string): string {
  if (typeof value === 'string' && value !== '' && !value.includes('\0')) return value;
  throw invalid(name, expectation, value);
}

function memorySource(given: ArrayBufferView): Source {
  const all = bytesIn(given);
  return {
    size: all.length,
    read: async (bytes, position) => {
      // Its memory may have been transferred away.
      if (all.length < position + bytes.length) throw cutOff('The snapshot');
      bytes.set(all.subarray(position, position + bytes.length));
    },
  };
}

function bytesIn(given: ArrayBufferView): Uint8Array {
  try {
    return new Uint8Array(given.buffer, given.byteOffset, given.byteLength);
  } catch (cause) {
    const message = 'Expected the snapshot to have its memory, but that was transferred away';
    throw new AnchorError('ERR_INVALID_ARGUMENT', message, { cause });
  }
}

function fileSource(file: FileHandle, path: string, size: number): Source {
  return {
    size,
    read: async (bytes, position) => {
      for (let at = 0; at < bytes.length; ) {
        const { bytesRead } = await file.read(bytes, at, bytes.length - at, position + at);
        if (bytesRead === 0) throw cutOff(`"${path}"`);
        at += bytesRead;
      }
    },
  };
}

function cutOff(what: string): AnchorError {
  return new AnchorError('ERR_SNAPSHOT_INVALID', `${what} became shorter while it was read`);
}

// Only what the file system says: an abort's reason and errors of our own stay as they are.
function fileError(error: unknown, path: string, verb: 'read' | 'written'): unknown {
  if (typeof (error as { syscall?: unknown } | null)?.syscall !== 'string') return error;
  const message = `"${path}" cannot be ${verb}: ${(error as Error).message}`;
  return new AnchorError('ERR_FILE', message, { cause: error });
}
