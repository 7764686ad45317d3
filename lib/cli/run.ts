/** One prompt that a session reads, and what came of it. */
import type { Chunk, Model, Session } from '../../types/api.js';
import type { GenerateReport } from './figures.js';

/** A reading and a generation, as far as they came. */
export class Run {
  finish: GenerateReport['finish'] = 'length';
  endsLine = false;
  private readonly text: string[] = [];
  private readonly sampled: number[] = [];
  private readonly times = { prefill: 0, decode: 0 };
  private prompt = { ids: 0, tokens: 0, anchors: 0 };

  constructor(
    private readonly session: Session,
    private readonly print: (piece: string) => void,
  ) {}

  read(append: () => Promise<unknown>): Promise<void> {
    return this.timed('prefill', async () => {
      try {
        await append();
      } finally {
        const { position, pending, full, fullWithoutAnchors, rowsPerLayer } = this.session.stats();
        const anchors = (full.rows - fullWithoutAnchors.rows) / rowsPerLayer.length;
        // After an abort the rest is pending, and has not been read.
        this.prompt = { ids: position, tokens: position - pending - anchors, anchors };
      }
    });
  }

  generate(options: Parameters<Session['generate']>[0]): Promise<void> {
    return this.timed('decode', async () => {
      for await (const chunk of this.session.generate(options)) this.take(chunk);
    });
  }

  report({ info }: Model, seed: bigint | undefined): GenerateReport {
    const { session, prompt, times } = this;
    const held = session.ids().subarray(prompt.ids);
    const ids = keptIds(this.sampled, held);
    return {
      text: this.text.join(''),
      ids,
      finish: this.finish,
      usage: {
        promptTokens: prompt.tokens,
        completionTokens: ids.length,
        anchors: prompt.anchors + held.length - ids.length,
        prefillSeconds: times.prefill,
        decodeSeconds: times.decode,
        reusedTokens: session.stats().reusedTokens,
      },
      seed: seed === undefined ? null : jsonSeed(seed),
      policy: session.policy,
      cacheType: session.cacheType,
      contextLength: session.contextLength,
      stats: session.stats(),
      model: info,
    };
  }

  private take({ id, text, finish }: Chunk): void {
    this.sampled.push(id);
    if (finish) this.finish = finish;
    if (text === '') return;
    this.text.push(text);
    this.show(text);
  }

  /** Prints a text; of the generation or behind it. */
  show(text: string): void {
    this.endsLine = text.endsWith('\n');
    this.print(text);
  }

  private async timed(phase: 'prefill' | 'decode', call: () => Promise<void>): Promise<void> {
    const start = performance.now();
    try {
      await call();
    } finally {
      this.times[phase] = (performance.now() - start) / 1000;
    }
  }
}

// What the session holds behind the prompt are the sampled ids with anchors between them; the last
// ones may have been taken back by a stop text.
function keptIds(sampled: readonly number[], held: Uint32Array): number[] {
  const ids: number[] = [];
  let at = 0;
  for (const id of sampled) {
    at = held.indexOf(id, at) + 1;
    if (at === 0) break;
    ids.push(id);
  }
  return ids;
}

function jsonSeed(seed: bigint): number | string {
  return seed <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(seed) : String(seed);
}
