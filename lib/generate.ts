/** Streams tokens out of the engine: text, stop strings, aborts and early ends. */
import type { Chunk, TokenLogprob } from '../types/api.js';
import type { NativeBatch, NativeGenerateSpec, NativeSession } from '../types/native.js';
import type { Codec } from './codec.js';
import { StopFinder, TextStream } from './text.js';

/** The session's side of a generation. */
export interface GenerateHost {
  readonly native: NativeSession;
  readonly codec: Codec | undefined;
  /** Tokens of the text that the caller knows of. */
  position: number;
  readonly disposed: boolean;
  /**
   * Claims the session, checks that it can generate, and gives what releases it (once).
   * @throws `ERR_BUSY`, `ERR_DISPOSED`, `ERR_INVALID_ARGUMENT`, `ERR_CONTEXT_LENGTH`
   */
  begin(): () => void;
  /** @throws the signal's reason, `ERR_DISPOSED` */
  guard(signal: AbortSignal | undefined): void;
  /** Runs a native call that the signal may abort; its failures become the package's errors. */
  run<T>(signal: AbortSignal | undefined, call: () => Promise<T>): Promise<T>;
}

/** Checked options. */
export interface GeneratePlan {
  /** Made when the generation begins, since it depends on the position. */
  spec: () => NativeGenerateSpec;
  stops: readonly string[];
  signal: AbortSignal | undefined;
}

interface Token {
  /** Session length with the token, and the place where its text ends. */
  end: number;
  textEnd: number;
}

/**
 * Text of the generation, and the tokens whose text may still turn out to belong to a stop string.
 * Places in the text are UTF-16 units from its start.
 */
class GeneratedText {
  /** A stop string is complete: nothing after it counts. */
  stopped = false;
  /** Session length that no stop string can undo. */
  settled: number;
  private readonly stream: TextStream;
  private readonly finder: StopFinder;
  private readonly held: Token[] = [];
  private heldText = '';
  private length = 0;
  private yielded = 0;

  constructor(
    private readonly codec: Codec | undefined,
    stops: readonly string[],
    start: number,
    before: Uint8Array,
  ) {
    this.settled = start;
    this.stream = new TextStream(before);
    this.finder = new StopFinder(stops);
  }

  /** Adds a token; the text that became certain with it. `end`: session length with the token. */
  push(id: number, end: number): string {
    if (!this.codec) {
      this.settled = end;
      return '';
    }
    const piece = this.codec.restoreIndent(this.stream.push(this.codec.bytes(id)));
    const stopAt = this.finder.push(piece);
    this.heldText += piece;
    this.length += piece.length;
    // A character that has only begun counts: a stop string may begin with it.
    this.held.push({ end, textEnd: this.length + (this.stream.isOpen ? 1 : 0) });
    this.stopped = stopAt >= 0;
    const certain = this.stopped ? stopAt : this.finder.certain;
    this.settle(certain);
    return this.take(certain);
  }

  /** The text that was held back, when the generation ends without a stop string. */
  rest(): string {
    return this.take(this.length);
  }

  private settle(certain: number): void {
    while (this.held[0] && this.held[0].textEnd <= certain) {
      this.settled = this.held[0].end;
      this.held.shift();
    }
  }

  private take(end: number): string {
    const text = this.heldText.slice(0, end - this.yielded);
    this.heldText = this.heldText.slice(text.length);
    this.yielded += text.length;
    return text;
  }
}

/**
 * Generates until a finish. What is left by `break`, an abort or an error keeps the tokens that
 * were yielded. An async generator queues calls of `next()`, so they are served one by one.
 */
export async function* generateTokens(
  host: GenerateHost,
  plan: GeneratePlan,
): AsyncGenerator<Chunk, void, void> {
  const release = host.begin();
  let open = false;
  const close = async () => {
    if (!open || host.disposed) return;
    open = false;
    await host.run(undefined, () => host.native.endGenerate(host.position));
  };
  try {
    host.guard(plan.signal);
    const { native, codec, position: start } = host;
    const text = new GeneratedText(codec, plan.stops, start, codec?.tail(native.ids()) ?? none);
    await host.run(plan.signal, async () => native.startGenerate(plan.spec()));
    open = true;
    for (;;) {
      // Rows may leave up to here: not of tokens that the caller may still give back by leaving,
      // and not of those that a stop string may.
      const commit = plan.stops.length > 0 ? text.settled : host.position;
      const batch = await host.run(plan.signal, () => native.read(commit));
      for (let i = 0; i < batch.ids.length; ++i) {
        host.guard(plan.signal);
        const chunk = nextChunk(batch, i, text);
        host.position = text.stopped ? text.settled : (batch.ends[i] as number);
        if (chunk.finish === undefined) {
          yield chunk;
          continue;
        }
        // Before the last chunk, so that the session is free when the caller has it.
        await close();
        release();
        yield chunk;
        return;
      }
      if (batch.finish !== '') throw new Error('The addon ended a generation without a token');
    }
  } finally {
    try {
      await close();
    } finally {
      release();
    }
  }
}

function nextChunk(batch: NativeBatch, i: number, text: GeneratedText): Chunk {
  const id = batch.ids[i] as number;
  const finish = i === batch.ids.length - 1 ? batch.finish : '';
  // A stop token ends the text and is no part of it, even where its id has bytes.
  const chunk = chunkOf(batch, i, finish === 'stop' ? '' : text.push(id, batch.ends[i] as number));
  if (text.stopped) chunk.finish = 'stop';
  else if (finish !== '') {
    chunk.finish = finish;
    chunk.text += text.rest();
  }
  return chunk;
}

const none = new Uint8Array();

function chunkOf(batch: NativeBatch, i: number, text: string): Chunk {
  const chunk: Chunk = { id: batch.ids[i] as number, text };
  if (batch.logprobs.length === 0) return chunk;
  chunk.logprob = batch.logprobs[i] as number;
  const anchor = batch.anchorLogprobs[i];
  if (anchor !== undefined && !Number.isNaN(anchor)) chunk.anchorLogprob = anchor;
  const width = batch.topIds.length / batch.ids.length;
  if (width === 0) return chunk;
  const top: TokenLogprob[] = [];
  for (let j = i * width; j < (i + 1) * width; ++j) {
    top.push({ id: batch.topIds[j] as number, logprob: batch.topLogprobs[j] as number });
  }
  chunk.top = top;
  return chunk;
}
