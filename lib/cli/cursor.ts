/** A cursor in a file, as editors and compilers write it: FILE:LINE:COLUMN; "-" is stdin. */

import { quote } from '../show.js';
import { UsageError } from './failure.js';
import { count } from './format.js';

/** Line and column from 1 on; columns are UTF-16 units, as in most editors' protocols. */
export interface Cursor {
  file: string;
  line: number;
  column: number;
}

/** @throws UsageError */
export function parseCursor(text: string): Cursor {
  const [found, file = '-', line, column] = /^(?:(.+):)?(\d{1,15}):(\d{1,15})$/s.exec(text) ?? [];
  if (found !== undefined) return { file, line: Number(line), column: Number(column) };
  const forms = 'FILE:LINE:COLUMN such as "src/queue.ts:12:5", or LINE:COLUMN for stdin';
  throw new UsageError(`Expected ${forms}, not ${quote(text)}`);
}

/** The texts before and behind it. @throws UsageError where the text has no such place */
export function splitAt(text: string, { file, line, column }: Cursor) {
  const lines = text.split('\n');
  const name = file === '-' ? 'the text' : quote(file);
  if (line < 1 || line > lines.length) {
    const last = count(lines.length);
    throw new UsageError(`Expected a line from 1 to ${last}, the last one of ${name}, not ${line}`);
  }
  const own = lines[line - 1] as string;
  const length = own.endsWith('\r') ? own.length - 1 : own.length;
  if (column < 1 || column > length + 1) {
    const last = count(length + 1);
    const message = `Expected a column from 1 to ${last}, the end of line ${line} of ${name}`;
    throw new UsageError(`${message}, not ${column}`);
  }
  const before = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
  const at = before + column - 1;
  if (/[\ud800-\udbff]/.test(text.charAt(at - 1)) && /[\udc00-\udfff]/.test(text.charAt(at))) {
    throw new UsageError(`Column ${column} of line ${line} is in the middle of a character`);
  }
  return { prefix: text.slice(0, at), suffix: text.slice(at) };
}
