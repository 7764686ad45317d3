/** The bar on a terminal while a long prompt is read. */
import { Presets, SingleBar } from 'cli-progress';

/** A shorter prompt is read before anybody looks. */
const longPrompt = 256;

/** A stream that may be a terminal. */
export type Terminal = NodeJS.WritableStream & { isTTY?: boolean };

/** Follows a prompt that is being read; shows nothing where `stream` is no terminal. */
export class PromptProgress {
  private bar: SingleBar | undefined;

  constructor(private readonly stream: Terminal) {}

  /** For the option `onProgress` of `append`. */
  readonly update = ({ done, total }: { done: number; total: number }): void => {
    if (!this.stream.isTTY || total < longPrompt) return;
    if (!this.bar) {
      if (done >= total) return;
      const format = 'Reading the prompt {bar} {value}/{total} tokens';
      const settings = { format, stream: this.stream, clearOnComplete: true, barsize: 30 };
      this.bar = new SingleBar({ ...settings, gracefulExit: false }, Presets.shades_classic);
      this.bar.start(total, done);
    }
    this.bar.update(done);
  };

  /** Takes the bar away, whether the prompt was read or not. */
  stop(): void {
    this.bar?.stop();
    this.bar = undefined;
  }
}
