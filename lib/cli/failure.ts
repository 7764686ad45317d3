/** What goes wrong, as one sentence and an exit code. */
import { CommanderError } from 'commander';
import { AnchorError, codeOf } from '../errors.js';

/** A command line that asks for what cannot be. */
export class UsageError extends AnchorError {
  constructor(message: string) {
    super('ERR_INVALID_ARGUMENT', message);
  }
}

/** Exit codes, as shells know them: 130 is 128 and the number of SIGINT. */
export const exitCodes = { success: 0, failure: 1, usage: 2, interrupted: 130 } as const;

/** The line for stderr (undefined: it has been written) and the exit code of an error. */
export function failureOf(error: unknown): { line: string | undefined; exitCode: number } {
  if (error instanceof CommanderError) {
    // Help and the version that were asked for have 0, everything else has 1.
    const wasAsked = error.exitCode === 0;
    return { line: undefined, exitCode: wasAsked ? exitCodes.success : exitCodes.usage };
  }
  const code = codeOf(error);
  const message = error instanceof Error ? error.message : String(error);
  const sentence = oneLine(code === 'ERR_INVALID_ARGUMENT' ? withFlags(message) : message);
  return {
    line: `${code ?? 'ERR_UNEXPECTED'}: ${sentence}`,
    exitCode: code === 'ERR_INVALID_ARGUMENT' ? exitCodes.usage : exitCodes.failure,
  };
}

/** A message without line breaks, however it was made. */
export function oneLine(message: string): string {
  return message.trim().replace(/\s*\n\s*/g, ' ');
}

// The library names its own options.
function withFlags(message: string): string {
  return message
    .replace(/option "policy\.(\w+)"/g, (_, word: string) => `"${word}" of the policy`)
    .replace(/option "anchors\.(\w+)"/g, (_, word: string) => `option ${flagOf(word)}`)
    .replace(/option "(\w+)(?:\[\d+\])?"/g, (_, name: string) => `option ${flagOf(name)}`);
}

const flags: Record<string, string> = {
  tokens: '--anchor-tokens',
  line: '--no-line',
  contextLength: '--context',
  insert: '--insert-anchor',
};

/** How the command line spells an option of the library. */
export function flagOf(name: string): string {
  return flags[name] ?? `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
