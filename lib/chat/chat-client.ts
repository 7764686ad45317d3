/**
 * Has chat templates rendered in a process of its own. Templates come with models and may loop or
 * grow without end. A worker thread is not enough: where a single allocation exceeds a thread's
 * limit, V8 ends the whole process.
 */

import { WorkerClient } from '../worker-client.js';
import type { ChatJob } from './chat-render.js';
import type { ChatOutcome, ChatRequest } from './chat-worker.js';

const idleMilliseconds = 10_000;

/** The worker and its process start with the first chat, and end when none has come for a while. */
class ChatClient {
  private readonly worker = new WorkerClient<ChatRequest>(
    new URL('./chat-worker.js', import.meta.url),
    'chat template',
  );
  private waiting = 0;
  private retained = false;
  private idle: NodeJS.Timeout | undefined;

  async render(job: ChatJob, signal: AbortSignal | undefined): Promise<ChatOutcome> {
    clearTimeout(this.idle);
    if (!this.retained) this.worker.retain();
    this.retained = true;
    this.waiting++;
    try {
      // Copied now: the caller may change its messages while the job waits.
      const copy = copyOf(job);
      if ('kind' in copy) return copy;
      return await this.worker.ask<ChatOutcome>({ kind: 'render', job: copy }, { signal });
    } finally {
      if (--this.waiting === 0) {
        this.idle = setTimeout(() => void this.end(), idleMilliseconds);
        this.idle.unref();
      }
    }
  }

  private async end(): Promise<void> {
    this.retained = false;
    // A worker that is gone has let its process go too.
    await this.worker.ask({ kind: 'end' }).catch(() => {});
    this.worker.release();
  }
}

// Functions and the like are no part of a message.
function copyOf(job: ChatJob): ChatJob | ChatOutcome {
  try {
    return structuredClone(job);
  } catch (error) {
    const { name, message } = error as Error;
    if (name !== 'DataCloneError') throw error;
    return { kind: 'input', message };
  }
}

const shared = new ChatClient();

/** Renders a chat; of all models, one after the other. @throws `ERR_ADDON`, the signal's reason */
export function renderApart(job: ChatJob, signal?: AbortSignal): Promise<ChatOutcome> {
  return shared.render(job, signal);
}
