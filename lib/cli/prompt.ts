/** Where a prompt comes from: the command line, a file or stdin. */
import { readFile } from 'node:fs/promises';
import { codeOf } from '../errors.js';
import { UsageError } from './failure.js';

/** What stdin has to be able to do. */
export type Input = AsyncIterable<Buffer | string> & { isTTY?: boolean };

/** The prompt, exactly as it is: its last newline belongs to it. @throws UsageError */
export async function readPrompt(
  argument: string | undefined,
  file: string | undefined,
  stdin: Input,
): Promise<string> {
  if (argument !== undefined && file !== undefined) {
    throw new UsageError('Give the prompt either as an argument or with --file, not both');
  }
  const text = argument ?? (await readText(file, stdin));
  if (text === '') throw new UsageError('The prompt is empty');
  return text;
}

/** All of a file, "-" for stdin; `missing` is said of a terminal. @throws UsageError */
export async function readText(
  file: string | undefined,
  stdin: Input,
  missing = 'There is no prompt: give it as an argument, with --file or on stdin',
): Promise<string> {
  if (file !== undefined && file !== '-') return decode(await readBytes(file), file);
  // Waiting for a terminal would look like hanging.
  if (stdin.isTTY) {
    throw new UsageError(missing);
  }
  const parts: Buffer[] = [];
  for await (const part of stdin) parts.push(Buffer.from(part));
  return decode(Buffer.concat(parts), 'stdin');
}

async function readBytes(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (error) {
    const reason = codeOf(error) === 'ENOENT' ? 'there is no such file' : (error as Error).message;
    throw new UsageError(`The file "${file}" cannot be read: ${reason}`);
  }
}

function decode(bytes: Buffer, name: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new UsageError(`The text in ${name} is not UTF-8`);
  }
}
