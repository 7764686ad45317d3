/** Asks a worker thread, one request at a time or many, and outlives it. */
import { Worker } from 'node:worker_threads';
import type { ErrorCode } from '../types/api.js';
import { AnchorError, codeOf } from './errors.js';

/** An answer to the request with the same number. */
export type Reply =
  | { number: number; value: unknown }
  | { number: number; error: { code: ErrorCode; message: string; stack: string | undefined } };

interface Pending {
  patience: Patience | undefined;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** How long a request may keep the worker, and what to say when it did for longer. */
export interface Patience {
  milliseconds: number;
  sentence: string;
}

/** Rejects what waited behind a request that had to be ended: it may be asked again. */
export class WorkerLost extends AnchorError {}

/**
 * A worker that starts with the first request and keeps the process alive only while an answer is
 * due. When it dies, the requests that wait are rejected; the next one starts another worker.
 *
 * The rules of a tokenizer are a stranger's patterns, which may take longer than anyone lives. The
 * worker answers in order, so the first request that waits is the one at work: when it takes longer
 * than its patience, if it has one, the worker is ended and it rejects with `ERR_MODEL_INVALID`.
 */
export class WorkerClient<Request extends object> {
  private worker: Worker | undefined;
  private readonly pending = new Map<number, Pending>();
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

  ask<Value>(request: Request, patience?: Patience): Promise<Value> {
    const worker = this.start();
    const number = ++this.numbers;
    return new Promise<Value>((resolve, reject) => {
      const answer = resolve as (value: unknown) => void;
      worker.postMessage({ number, ...request }); // throws for what cannot be copied
      this.pending.set(number, { patience, resolve: answer, reject });
      if (this.pending.size === 1) this.watch();
      worker.ref();
    });
  }

  // Begins the time of the request at work.
  private watch(): void {
    clearTimeout(this.clock);
    const [first] = this.pending;
    if (!first) return;
    const [number, { patience }] = first;
    if (!patience) return;
    const expire = () => {
      // After the answers that came while this thread was busy.
      setImmediate(() => {
        const pending = this.pending.get(number);
        if (!pending || !this.worker) return;
        this.pending.delete(number);
        this.lose(this.worker, new WorkerLost('ERR_ADDON', 'it was ended for another text'));
        pending.reject(new AnchorError('ERR_MODEL_INVALID', patience.sentence));
      });
    };
    this.clock = setTimeout(expire, patience.milliseconds);
    this.clock.unref();
  }

  private rest(): void {
    if (this.users > 0 || this.pending.size > 0) return;
    void this.worker?.terminate();
    this.worker = undefined;
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
    const pending = this.pending.get(reply.number);
    if (worker !== this.worker || !pending) return;
    this.pending.delete(reply.number);
    this.watch();
    if (this.pending.size === 0) worker.unref();
    this.rest();
    if ('value' in reply) {
      pending.resolve(reply.value);
      return;
    }
    const { code, message, stack } = reply.error;
    // The worker's own stack says more than the one from here.
    const cause = Object.assign(new Error(message), { stack });
    pending.reject(new AnchorError(code, message, { cause }));
  }

  private lose(worker: Worker, cause: unknown): void {
    if (worker !== this.worker) return;
    this.worker = undefined;
    void worker.terminate();
    const memory = codeOf(cause) === 'ERR_WORKER_OUT_OF_MEMORY';
    const Kind = cause instanceof WorkerLost ? WorkerLost : AnchorError;
    const error = new Kind(
      memory ? 'ERR_OUT_OF_MEMORY' : 'ERR_ADDON',
      `The ${this.name}'s worker thread failed: ${(cause as Error).message}`,
      { cause },
    );
    const waiting = [...this.pending.values()];
    this.pending.clear();
    this.watch();
    for (const pending of waiting) pending.reject(error);
  }
}
