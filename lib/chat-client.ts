/**
 * Has chat templates rendered in a process of its own. Templates come with models and may loop or
 * grow without end. A worker thread is not enough: where a single allocation exceeds a thread's
 * limit, V8 ends the whole process.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { ChatJob, ChatResult } from './chat-render.js';
import { AnchorError } from './errors.js';

/** What came of a job, or of the process that had it. */
export type ChatOutcome = ChatResult | { kind: 'memory' };

/** Megabytes that a template may fill. */
export const chatMegabytes = 256;

const startMilliseconds = 30_000;
/** What the process may take beyond the job's own time before it is ended from here. */
const graceMilliseconds = 500;
const idleMilliseconds = 10_000;

/** One process, one job at a time. It starts with the first job and ends when none has come. */
class ChatClient {
  private child: ChildProcess | undefined;
  private queue: Promise<unknown> = Promise.resolve();
  private idle: NodeJS.Timeout | undefined;

  render(job: ChatJob): Promise<ChatOutcome> {
    const outcome = this.queue.then(() => this.run(job));
    this.queue = outcome.catch(() => {});
    return outcome;
  }

  private async run(job: ChatJob): Promise<ChatOutcome> {
    clearTimeout(this.idle);
    const child = this.child ?? (await this.start());
    child.ref();
    child.channel?.ref();
    try {
      return await this.ask(child, job);
    } finally {
      this.rest(child);
    }
  }

  private async start(): Promise<ChildProcess> {
    // Options of the process, such as loaders, are not meant for our file; Electron needs its own.
    const env = { ...process.env, NODE_OPTIONS: '', ELECTRON_RUN_AS_NODE: '1' };
    const child = fork(fileURLToPath(new URL('./chat-process.js', import.meta.url)), [], {
      execArgv: [`--max-old-space-size=${chatMegabytes}`],
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      env,
    });
    child.on('error', () => {}); // nobody may be listening when it dies
    child.once('exit', () => {
      if (this.child === child) this.child = undefined;
    });
    const ready = await answerOf(child, startMilliseconds);
    if (ready !== 'ready') {
      child.kill('SIGKILL');
      const message = 'The process that renders chat templates did not start';
      throw new AnchorError('ERR_ADDON', message, { cause: ready });
    }
    this.child = child;
    return child;
  }

  private async ask(child: ChildProcess, job: ChatJob): Promise<ChatOutcome> {
    try {
      child.send(job);
    } catch (error) {
      // What cannot be copied is no message; the process has not heard of it.
      return { kind: 'input', message: (error as Error).message };
    }
    const result = await answerOf(child, job.milliseconds + graceMilliseconds);
    if (!(result instanceof Error) && result !== undefined) return result as ChatResult;
    child.kill('SIGKILL');
    this.child = undefined;
    return result === undefined ? { kind: 'time' } : { kind: 'memory' };
  }

  private rest(child: ChildProcess): void {
    child.unref();
    child.channel?.unref();
    if (this.child !== child) return;
    this.idle = setTimeout(() => {
      this.child = undefined;
      if (child.connected) child.disconnect();
    }, idleMilliseconds).unref();
  }
}

/** The next message; undefined when none comes in time, an error when the process ends. */
function answerOf(child: ChildProcess, milliseconds: number): Promise<unknown> {
  return new Promise((resolve) => {
    const settle = (value: unknown) => {
      clearTimeout(timer);
      child.off('message', settle).off('error', settle).off('exit', ended);
      resolve(value);
    };
    const ended = (code: number | null, signal: string | null) =>
      settle(new Error(`it ended with ${signal ?? `code ${code}`}`));
    const timer = setTimeout(() => settle(undefined), milliseconds);
    child.on('message', settle).on('error', settle).on('exit', ended);
  });
}

const shared = new ChatClient();

/** Renders a chat; of all models, one after the other. @throws `ERR_ADDON` */
export function renderApart(job: ChatJob): Promise<ChatOutcome> {
  return shared.render(job);
}
