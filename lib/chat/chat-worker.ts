/**
 * The worker thread behind `chat-client.ts`: starts the process that renders, and hands it one
 * job after the other. Starting one takes a thread the longer, the more memory its own process has.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parentPort } from 'node:worker_threads';
import type { Reply } from '../worker-client.js';
import { chatMegabytes } from './chat-limits.js';
import type { ChatJob, ChatResult } from './chat-render.js';

/** What the worker is asked: to render, or to let the process go. */
export type ChatRequest = { kind: 'render'; job: ChatJob } | { kind: 'end' };

/** What came of a job, or of the process that had it. */
export type ChatOutcome = ChatResult | { kind: 'memory' };

const startMilliseconds = 30_000;
/** What the process may take beyond the job's own time before it is ended from here. */
const graceMilliseconds = 500;

class Renderer {
  private child: ChildProcess | undefined;
  private queue: Promise<unknown> = Promise.resolve();

  /** Requests are served in order. */
  serve(request: ChatRequest): Promise<ChatOutcome | undefined> {
    const outcome = this.queue.then(() =>
      request.kind === 'end' ? this.end() : this.render(request.job),
    );
    this.queue = outcome.catch(() => {});
    return outcome;
  }

  private async render(job: ChatJob): Promise<ChatOutcome> {
    const child = this.child ?? (await this.start());
    child.send(job);
    const result = await answerOf(child, job.milliseconds + graceMilliseconds);
    if (result !== undefined && !(result instanceof Error)) return result as ChatResult;
    await this.end('SIGKILL');
    return result === undefined ? { kind: 'time' } : { kind: 'memory' };
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
      const reason = ready instanceof Error ? ready.message : 'it did not answer';
      throw new Error(`The process that renders chat templates did not start: ${reason}`);
    }
    this.child = child;
    return child;
  }

  // Waits for its end, so that the system may forget it.
  private async end(signal?: 'SIGKILL'): Promise<undefined> {
    const { child } = this;
    this.child = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    if (signal) child.kill(signal);
    else child.disconnect();
    await ended;
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

const renderer = new Renderer();

parentPort?.on('message', ({ number, ...request }: ChatRequest & { number: number }) => {
  const reply = (answer: Reply) => parentPort?.postMessage(answer);
  renderer.serve(request as ChatRequest).then(
    (value) => reply({ number, value }),
    ({ message, stack }: Error) => reply({ number, error: { code: 'ERR_ADDON', message, stack } }),
  );
});
