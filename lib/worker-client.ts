/** Asks a worker thread, one request at a time or many, and outlives it. */
import { Worker } from 'node:worker_threads';
import type { ErrorCode } from '../types/api.js';
import { AnchorError, abortReason, codeOf, throwIfAborted } from './errors.js';

/** An answer to the request with the same number. */
export type Reply =
  | { number: number; value: unknown }
  | { number: number; error: { code: ErrorCode; message: string; stack: string | undefined } };

interface Pending<Request> {
  number: number;
  request: Request;
  patience: Patience | undefined;
  /** Someone waits for the answer: the process and the worker stay until it is there. */
  isWanted: boolean;
  resolve(value: unknown): void;
  reject(error: unknown): void;
}

/** How long a request may keep the worker, and what to say when it did for longer. */
export interface Patience {
  milliseconds: number;
  sentence: string;
}

/** How a request is asked. */
export interface AskOptions {
  patience?: Patience;
  /** Its abort rejects the request at once with its reason. */
  signal?: AbortSignal | undefined;
  /** Whether the process and the worker stay for the answer. @default true */
  isWanted?: boolean;
}

/** Rejects what waited behind a request that had to be ended: it may be asked again. */
export class WorkerLost extends AnchorError {}

/**
 * A worker that starts with the first request and keeps the process alive only while an answer is
 * due. When it dies, the requests that wait are rejected; the next one starts another worker.
 *
 * Requests wait here and are sent one by one, so that one that is aborted before its turn costs
 * nothing. The one at work cannot be stopped: its answer is then thrown away.
 *
 * The rules of a tokenizer are a stranger's patterns, which may take longer than anyone lives. When
 * the request at work takes longer than its patience, if it has one, the worker is ended and the
 * request rejects with `ERR_MODEL_INVALID`.
 */
export class WorkerClient<Request extends object> {
  private worker: Worker | undefined;
  private atWork: Pending<Request> | undefined;
  private readonly waiting = new Set<Pending<Request>>();
  private numbers = 0;
  private starts = 0;
  private users = 0;
  private clock: NodeJS.Timeout | undefined;

  /** `name` is what the worker is called: in its thread's name and where it fails. */
  constructor(
    private readonly file: URL,
    private readonly name: string,
  ) {}

  /** Number of the present worker, 0 for none. What an earlier one knew is lost. */
  get generation(): number {
    return this.worker ? this.starts : 0;
  }

  /** Someone will ask for a while: the worker stays. */
  retain(): void {
    this.users++;
  }

  /** Undoes a `retain`. After the last one the worker ends and its memory is free. */
  release(): void {
    this.users--;
    this.rest();
  }

  async ask<Value>(request: Request, options: AskOptions = {}): Promise<Value> {
    const { patience, signal, isWanted = true } = options;
    throwIfAborted(signal);
    this.start();
    let abort = () => {};
    const answer = new Promise<unknown>((resolve, reject) => {
      const number = ++this.numbers;
      const pending = { number, request, patience, isWanted, resolve, reject };
      abort = () => this.abandon(pending, abortReason(signal as AbortSignal));
      this.waiting.add(pending);
    });
    signal?.addEventListener('abort', abort, { once: true });
    this.next();
    try {
      return (await answer) as Value;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  private abandon(pending: Pending<Request>, reason: unknown): void {
    this.waiting.delete(pending);
    pending.isWanted = false;
    pending.reject(reason);
    this.rest();
  }

  // Sends the next request if none is at work.
  private next(): void {
    const [pending] = this.waiting;
    if (pending && !this.atWork) {
      this.waiting.delete(pending);
      const { number, request } = pending;
      try {
        this.start().postMessage({ number, ...request });
      } catch (error) {
        // What cannot be copied.
        pending.reject(error);
        this.next();
        return;
      }
      this.atWork = pending;
      this.watch();
    }
    this.rest();
  }

  // Begins the time of the request at work.
  private watch(): void {
    clearTimeout(this.clock);
    const pending = this.atWork;
    if (!pending?.patience) return;
    const { milliseconds, sentence } = pending.patience;
    const expire = () => {
      // After the answers that came while this thread was busy.
      setImmediate(() => {
        if (this.atWork !== pending || !this.worker) return;
        this.atWork = undefined;
        this.lose(this.worker, new WorkerLost('ERR_ADDON', 'it was ended for another text'));
        pending.reject(new AnchorError('ERR_MODEL_INVALID', sentence));
      });
    };
    this.clock = setTimeout(expire, milliseconds);
    this.clock.unref();
  }

  /** Whether an answer is due. */
  private get isWanted(): boolean {
    if (this.atWork?.isWanted) return true;
    for (const { isWanted } of this.waiting) if (isWanted) return true;
    return false;
  }

  // Stays for answers that are due, and without any only while there are users.
  private rest(): void {
    if (!this.worker) return;
    if (this.isWanted) this.worker.ref();
    else if (this.users > 0) this.worker.unref();
    else this.lose(this.worker, new Error('nobody needs it any more'));
  }

  private start(): Worker {
    if (this.worker) return this.worker;
    // Options of the process, such as loaders or --input-type, are not meant for our file.
    const worker = new Worker(this.file, { name: `anchorcoder ${this.name}`, execArgv: [] });
    worker.unref();
    worker.on('message', (reply: Reply) => this.settle(worker, reply));
    worker.on('error', (error) => this.lose(worker, error));
    worker.on('messageerror', (error) => this.lose(worker, error));
    worker.on('exit', (code) => this.lose(worker, new Error(`it exited with code ${code}`)));
    this.worker = worker;
    this.starts++;
    return worker;
  }

  private settle(worker: Worker, reply: Reply): void {
    const pending = this.atWork;
    if (worker !== this.worker || pending?.number !== reply.number) return;
    this.atWork = undefined;
    clearTimeout(this.clock);
    if ('value' in reply) {
      pending.resolve(reply.value);
    } else {
      const { code, message, stack } = reply.error;
      // The worker's own stack says more than the one from here.
      const cause = Object.assign(new Error(message), { stack });
      pending.reject(new AnchorError(code, message, { cause }));
    }
    this.next();
  }

  private lose(worker: Worker, cause: unknown): void {
    if (worker !== this.worker) return;
    this.worker = undefined;
    clearTimeout(this.clock);
    void worker.terminate();
    const memory = codeOf(cause) === 'ERR_WORKER_OUT_OF_MEMORY';
    const Kind = cause instanceof WorkerLost ? WorkerLost : AnchorError;
    const error = new Kind(
      memory ? 'ERR_OUT_OF_MEMORY' : 'ERR_ADDON',
      `The ${this.name}'s worker thread failed: ${(cause as Error).message}`,
      { cause },
    );
    const lost = [...(this.atWork ? [this.atWork] : []), ...this.waiting];
    this.atWork = undefined;
    this.waiting.clear();
    for (const pending of lost) pending.reject(error);
  }
}
