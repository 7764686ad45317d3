/** The process around a command. */
import type { Terminal } from './progress.js';
import type { Input } from './prompt.js';

/** Streams, and interrupts from the keyboard. */
export interface Host {
  readonly stdin: Input;
  readonly stdout: Terminal;
  readonly stderr: Terminal;
  /** From now on a first Ctrl-C aborts this signal, and a second one ends the process. */
  interrupts(): AbortSignal;
}
