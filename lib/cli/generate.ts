/** The command `generate`: a prompt in, code out, figures at the end. */
import { type Command, Option } from 'commander';
import type { CacheType, Chunk, ComputeMode, Model, Session } from '../../types/api.js';
import { loadModel } from '../load.js';
import { parseOptions } from '../options.js';
import {
  anchorsOf,
  collect,
  defined,
  type PolicyOptions,
  parseCount,
  parseNumber,
  parseSeed,
  policyOf,
  type TextOptions,
} from './arguments.js';
import { UsageError } from './failure.js';
import { type GenerateReport, showFigures } from './figures.js';
import type { Host } from './host.js';
import { PromptProgress } from './progress.js';
import { readPrompt } from './prompt.js';
import { addPolicyOptions, addTextOptions, carriedModel, demonstrationNote } from './shared.js';

interface GenerateFlags extends PolicyOptions, TextOptions {
  model?: string;
  file?: string;
  maxTokens: number;
  temperature: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  seed?: bigint;
  stop?: string[];
  cacheType?: CacheType;
  context?: number;
  compute?: ComputeMode;
  threads?: number;
  maxMemory?: number;
  parseSpecial?: boolean;
  echo?: boolean;
  json?: boolean;
  quiet?: boolean;
}

const examples = `
Examples:
  anchorcoder generate "function median(values) {" --temperature 0.3
  anchorcoder generate --file src/queue.ts --max-tokens 64 --stop $'\\n\\n'
  git show HEAD:lib/text.ts | anchorcoder generate --quiet > rest.ts
  anchorcoder generate --model ./SmolLM2-135M --anchor-tokens newline \\
    --dense-layers 17,18,20,23 --window 64 "def fibonacci(n):"
  anchorcoder generate "class Stack:" --policy window:256,4 --json

The code goes to stdout, everything else to stderr. Ctrl-C ends the text where it is.`;

/** Adds the command to the program. */
export function addGenerate(program: Command, host: Host): void {
  const command = program
    .command('generate')
    .summary('go on with a prompt')
    .description('Goes on with a prompt: an argument, a file, or stdin.')
    .argument('[prompt]', 'text to go on with')
    .option(
      '-m, --model <folder>',
      `model folder${carriedModel() ? ' (default: the small one here)' : ''}`,
    )
    .option('-f, --file <path>', 'file with the prompt; "-" is stdin')
    .option('--parse-special', 'texts such as <|endoftext|> in the prompt become control tokens')
    .optionsGroup('How tokens are chosen:')
    .option(
      '-n, --max-tokens <n>',
      'tokens to generate at most, anchors not counted',
      parseCount,
      256,
    )
    .option('-t, --temperature <t>', '0 takes the most probable token', parseNumber, 0)
    .option('--top-k <k>', 'sample among the k most probable', parseCount)
    .option('--top-p <p>', 'sample among the most probable that together reach p', parseNumber)
    .option('--min-p <p>', 'drop what is below this share of the most probable', parseNumber)
    .option('--repetition-penalty <r>', 'above 1: less of what is there already', parseNumber)
    .option('-s, --seed <n>', 'same seed, same text (default: a random one)', parseSeed)
    .option('--stop <text>', 'ends the text before this one; may be repeated', collect);
  addPolicyOptions(command);
  addTextOptions(command)
    .addOption(
      new Option('--cache-type <type>', 'type of the rows (default: by --compute)').choices([
        'f32',
        'bf16',
        'f16',
        'int8',
      ]),
    )
    .option(
      '--context <tokens>',
      "tokens that the text may have (default: the model's)",
      parseCount,
    )
    .optionsGroup('Engine:')
    .addOption(
      new Option('--compute <mode>', "arithmetic (default: by the weights' type)").choices([
        'exact',
        'bf16',
      ]),
    )
    .option('--threads <n>', 'worker threads (default: one per physical core)', parseCount)
    .option('--max-memory <bytes>', 'refuse to take more', parseCount)
    .optionsGroup('Output:')
    .addOption(new Option('--echo', 'print the prompt first').conflicts('json'))
    .option('--json', 'print one JSON object at the end instead of the text')
    .option('-q, --quiet', 'no figures and notes on stderr')
    .addHelpText('after', examples)
    .action((prompt: string | undefined, flags: GenerateFlags) => generate(prompt, flags, host));
}

async function generate(prompt: string | undefined, flags: GenerateFlags, host: Host) {
  const { folder, load, session, sampling, seed } = settingsOf(flags);
  const note = (sentence: string | undefined) => {
    if (sentence !== undefined && !flags.quiet) host.stderr.write(`${sentence}\n`);
  };
  const text = await readPrompt(prompt, flags.file, host.stdin);
  const signal = host.interrupts();
  using model = await loadModel(folder, { ...load, signal });
  note(demonstrationNote(model.info.folder));
  for (const warning of model.info.warnings) note(warning);
  using opened = model.createSession(session);
  note(approximationNote(model, opened));

  const print = (piece: string) => {
    if (!flags.json) host.stdout.write(piece);
  };
  if (flags.echo) print(text);
  const run = new Run(opened, print);
  const progress = new PromptProgress(host.stderr);
  try {
    const { parseSpecial = false } = flags;
    const onProgress = flags.quiet ? undefined : progress.update;
    await run.read(() => opened.append(text, { parseSpecial, onProgress, signal }));
    progress.stop();
    await run.generate({ ...sampling, signal });
  } catch (error) {
    if (!signal.aborted) throw error;
    run.finish = 'aborted';
  } finally {
    progress.stop();
  }
  const report = run.report(model, seed);
  if (flags.json) host.stdout.write(`${JSON.stringify(report)}\n`);
  else if (!run.endsLine && host.stdout.isTTY) host.stdout.write('\n');
  if (!flags.quiet) host.stderr.write(`\n${showFigures(report)}`);
}

/** Options as the library takes them, checked before anything is loaded. */
function settingsOf(flags: GenerateFlags) {
  const folder = flags.model ?? carriedModel();
  if (folder === undefined) throw new UsageError('Name the folder of a model with --model');
  const { maxTokens, temperature, topK, topP, minP, repetitionPenalty, stop } = flags;
  const seed = flags.seed ?? randomSeed();
  const load = defined({
    compute: flags.compute,
    threads: flags.threads,
    maxMemory: flags.maxMemory,
    anchors: anchorsOf(flags),
  });
  const session = defined({
    policy: policyOf(flags),
    cacheType: flags.cacheType,
    contextLength: flags.context,
  });
  const sampling = defined({
    ...{ maxTokens, temperature, topK, topP, minP, repetitionPenalty, stop },
    seed,
  });
  parseOptions.load(load);
  parseOptions.session(session);
  parseOptions.generate(sampling);
  return { folder, load, session, sampling, seed: temperature > 0 ? seed : undefined };
}

// Short, since people copy it to repeat a text.
function randomSeed(): bigint {
  return BigInt(crypto.getRandomValues(new Uint32Array(1))[0] as number);
}

function approximationNote({ info }: Model, { policy }: Session): string | undefined {
  const trained = info.trainedForAnchors ? 'anchor' : 'full';
  if (policy.kind === trained) return undefined;
  const why = trained === 'anchor' ? 'was trained for anchors' : 'was not trained for anchors';
  return `The model ${why}: under the policy "${policy.kind}" it is approximated.`;
}

/** One prompt and what came of it, as far as it came. */
class Run {
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
