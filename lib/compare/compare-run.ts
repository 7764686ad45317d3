/** A comparison while it runs: sessions that read the same chunks in turns, and their figures. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { ComparedCase, Comparison, ComparisonCase, Model, Session } from '../../types/api.js';
import type { Codec } from '../codec.js';
import { AnchorError, throwIfAborted } from '../errors.js';
import type { Parsed } from '../options.js';
import { WorkerClient } from '../worker-client.js';
import type { CompareRequest } from './compare-worker.js';
import type { Scores, Summary } from './divergence.js';

const mostChunkTokens = 256;
const mostChunkBytes = 2 ** 25;
/** Logits that are copied at once: less than a millisecond's work. */
const copiedAtOnce = 2 ** 17;

export type NamedCase = ComparisonCase & { name: string };

/** What the logits of a chunk of tokens predict. */
interface ChunkTargets {
  /** Place of the first one among all targets. */
  first: number;
  /** Rows of the chunk's logits, and the ids that follow there. */
  rows: Uint32Array;
  targets: Uint32Array;
}

/** Ids, and which of them are targets: all but the first and inserted anchors. */
export class ComparedText {
  /** (targets) positions. */
  readonly targets: Uint32Array;
  readonly insertedAnchors: number;
  /** Of the targets that `next` has given. */
  targetBytes: number | null;
  private taken = 0;

  /** @throws `ERR_INVALID_ARGUMENT` where there is no target */
  constructor(
    readonly ids: Uint32Array,
    insertId: number,
    private readonly codec: Codec | undefined,
  ) {
    const positions = new Uint32Array(ids.length);
    let [targets, anchors] = [0, 0];
    ids.forEach((id, position) => {
      if (id === insertId) anchors++;
      else if (position > 0) positions[targets++] = position;
    });
    this.targets = positions.slice(0, targets);
    this.insertedAnchors = anchors;
    this.targetBytes = codec ? 0 : null;
    if (targets > 0) return;
    const message =
      'Expected the text to have a token to predict beside its first one and inserted anchors, ' +
      `but of its ${ids.length} tokens ${anchors} are inserted anchors`;
    throw new AnchorError('ERR_INVALID_ARGUMENT', message);
  }

  /** Of the tokens from `start` to `end`; chunk by chunk, since a long text takes long. */
  next(start: number, end: number): ChunkTargets {
    const { ids, codec, taken: first } = this;
    while (this.taken < this.targets.length && this.targets[this.taken]! <= end) this.taken++;
    const positions = this.targets.subarray(first, this.taken);
    const targets = positions.map((position) => ids[position]!);
    if (codec) {
      const lengths = Array.from(targets, (id) => codec.bytes(id).length);
      this.targetBytes = lengths.reduce((sum, length) => sum + length, this.targetBytes ?? 0);
    }
    return { first, rows: positions.map((position) => position - 1 - start), targets };
  }
}

/** One session, and what was seen of it. */
class Reader {
  readonly kl: Float64Array;
  readonly nats: Float64Array;
  readonly agrees: Uint8Array;
  /** Spent on reading. */
  seconds = 0;
  private peakBytes = 0;

  constructor(
    readonly name: string,
    readonly session: Session,
    targets: number,
  ) {
    this.kl = new Float64Array(targets);
    this.nats = new Float64Array(targets);
    this.agrees = new Uint8Array(targets).fill(1);
  }

  /** Logits (ids, vocabSize). */
  async read(ids: Uint32Array, signal: AbortSignal | undefined): Promise<Float32Array> {
    const start = performance.now();
    const logits = await this.session.append(ids, { logits: 'all', signal });
    this.seconds += (performance.now() - start) / 1000;
    this.peakBytes = Math.max(this.peakBytes, this.session.stats().bytes);
    return logits!;
  }

  /** Greedy tokens a second from the first on; undefined where the context has no room for two. */
  async decode(maxTokens: number, signal: AbortSignal | undefined): Promise<number | undefined> {
    let count = 0;
    let first = 0;
    const greedy = { temperature: 0, repetitionPenalty: 1, stopTokens: [] };
    for await (const _ of this.session.generate({ ...greedy, maxTokens, signal })) {
      if (count++ === 0) first = performance.now();
    }
    return count < 2 ? undefined : (1000 * (count - 1)) / (performance.now() - first);
  }

  result({ ids, targets, targetBytes }: ComparedText, summary: Summary, reference: Reader) {
    const { policy, cacheType } = this.session;
    const natsPerToken = summary.nats / targets.length;
    return {
      name: this.name,
      policy,
      cacheType,
      klDivergence: summary.klDivergence,
      top1Agreement: summary.agreed / targets.length,
      perplexity: Math.exp(natsPerToken),
      natsPerToken,
      // Control tokens alone have no bytes.
      natsPerByte: targetBytes ? summary.nats / targetBytes : null,
      tokenKl: this.kl,
      tokenNats: this.nats,
      tokenAgrees: this.agrees,
      stats: this.session.stats(),
      peakBytes: this.peakBytes,
      prefill: {
        tokensPerSecond: ids.length / this.seconds,
        ratio: reference.seconds / this.seconds,
      },
      decode: null,
    };
  }
}

/** Opens its sessions at once; disposing it disposes them. */
export class ComparisonRun {
  private readonly readers: Reader[] = [];
  private readonly worker = new WorkerClient<CompareRequest>(
    new URL('./compare-worker.js', import.meta.url),
    'comparison',
  );
  private readonly vocabSize: number;
  private readonly chunkTokens: number;
  private done = 0;

  /** The first case is the reference. */
  constructor(
    model: Model,
    private readonly text: ComparedText,
    cases: readonly NamedCase[],
    private readonly settings: Parsed<'compare'>,
  ) {
    this.vocabSize = model.info.vocabSize;
    const fitting = Math.max(1, Math.floor(mostChunkBytes / (4 * this.vocabSize)));
    const { chunkTokens = Math.min(mostChunkTokens, fitting) } = settings;
    this.chunkTokens = Math.min(chunkTokens, text.ids.length);
    this.worker.retain();
    try {
      for (const one of cases) {
        this.readers.push(new Reader(one.name, openSession(model, one), text.targets.length));
      }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  async finish(): Promise<Comparison> {
    await this.readAll();
    const results: ComparedCase[] = [];
    for (const reader of this.readers) {
      const { kl, nats, agrees } = reader;
      const request: CompareRequest = { kind: 'summarise', scores: { kl, nats, agrees } };
      const summary = await this.worker.ask<Summary>(request);
      results.push(reader.result(this.text, summary, this.readers[0]!));
    }
    await this.decodeAll(results);
    const [reference, ...cases] = results;
    const { ids, insertedAnchors, targets, targetBytes } = this.text;
    return { ids, insertedAnchors, targets, targetBytes, reference: reference!, cases };
  }

  [Symbol.dispose](): void {
    for (const { session } of this.readers) session.dispose();
    this.worker.release();
  }

  private async readAll(): Promise<void> {
    const { text, chunkTokens, vocabSize } = this;
    const [reference, ...others] = this.readers as [Reader, ...Reader[]];
    const size = chunkTokens * vocabSize;
    const expected = sharedFloats(size);
    const received = sharedFloats(size);
    for (let start = 0; start < text.ids.length; start += chunkTokens) {
      const ids = text.ids.subarray(start, start + chunkTokens);
      const chunk = text.next(start, start + ids.length);
      await this.readChunk(reference, ids, expected);
      for (const reader of others) {
        await this.readChunk(reader, ids, received);
        const { rows, targets } = chunk;
        const pair = { reference: expected, logits: received, vocabSize, rows, targets };
        const scores = await this.worker.ask<Scores>({ kind: 'score', pair });
        throwIfAborted(this.settings.signal);
        this.take(reader, scores, chunk);
      }
    }
  }

  private async readChunk(reader: Reader, ids: Uint32Array, into: Float32Array): Promise<void> {
    const { signal, onProgress } = this.settings;
    await copy(await reader.read(ids, signal), into);
    throwIfAborted(signal);
    this.done += ids.length;
    onProgress?.({ done: this.done, total: this.readers.length * this.text.ids.length });
  }

  private take(reader: Reader, scores: Scores, { first }: ChunkTargets): void {
    // One that is infinite or no number makes all of these so.
    const bad = scores.kl.findIndex((kl, i) => !Number.isFinite(kl + scores.nats[i]!));
    if (bad >= 0) {
      const position = this.text.targets[first + bad]! - 1;
      const message =
        `The logits of token ${position} are not all finite numbers, in the reference or in the ` +
        `case ${JSON.stringify(reader.name)}: the weights may be damaged`;
      throw new AnchorError('ERR_MODEL_INVALID', message);
    }
    this.readers[0]?.nats.set(scores.referenceNats, first);
    reader.kl.set(scores.kl, first);
    reader.nats.set(scores.nats, first);
    reader.agrees.set(scores.agrees, first);
  }

  private async decodeAll(results: readonly ComparedCase[]): Promise<void> {
    const { decodeTokens, signal } = this.settings;
    if (decodeTokens === undefined) return;
    let reference: number | undefined;
    for (const [i, reader] of this.readers.entries()) {
      const speed = await reader.decode(decodeTokens, signal);
      if (i === 0) reference = speed;
      if (speed === undefined || reference === undefined) continue;
      results[i]!.decode = { tokensPerSecond: speed, ratio: speed / reference };
    }
  }
}

function openSession(model: Model, { name, policy, cacheType }: NamedCase): Session {
  try {
    // Rows of a prefix that is known would be read in no time.
    return model.createSession({ policy, cacheType, prefixCache: false });
  } catch (error) {
    if (!(error instanceof AnchorError)) throw error;
    const message = `The case ${JSON.stringify(name)} cannot be run: ${error.message}`;
    throw new AnchorError(error.code, message, { cause: error });
  }
}

function sharedFloats(length: number): Float32Array {
  try {
    return new Float32Array(new SharedArrayBuffer(4 * length));
  } catch (cause) {
    const message = `No memory for ${length} logits of a chunk: make option "chunkTokens" smaller`;
    throw new AnchorError('ERR_OUT_OF_MEMORY', message, { cause });
  }
}

// The engine's arrays cannot be moved to a worker, and copying a chunk at once takes many
// milliseconds.
async function copy(from: Float32Array, to: Float32Array): Promise<void> {
  for (let at = 0; at < from.length; at += copiedAtOnce) {
    if (at > 0) await nextTurn();
    to.set(from.subarray(at, at + copiedAtOnce), at);
  }
}
