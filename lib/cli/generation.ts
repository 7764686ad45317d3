/** What the commands that generate share: their options, and the way from a prompt to figures. */
import { type Command, Option } from 'commander';
import type { CacheType, GenerationDefaults, Model, Session } from '../../types/api.js';
import { loadModel } from '../load.js';
import { parseOptions } from '../options.js';
import { defined } from '../validate.js';
import {
  anchorsOf,
  collect,
  type PolicyOptions,
  parseCount,
  parseNumber,
  parseSeed,
  policyOf,
  type TextOptions,
} from './arguments.js';
import { UsageError } from './failure.js';
import { showFigures } from './figures.js';
import type { Host } from './host.js';
import { PromptProgress } from './progress.js';
import { Run } from './run.js';
import {
  addEngineOptions,
  addPolicyOptions,
  addTextOptions,
  carriedModel,
  demonstrationNote,
  type EngineOptions,
} from './shared.js';

const defaultTokens = 256;

/** Options of every command that generates. */
export interface GenerationFlags
  extends PolicyOptions,
    TextOptions,
    EngineOptions,
    GenerationDefaults {
  model?: string;
  seed?: bigint;
  stop?: string[];
  generationConfig?: 'model' | 'ignore';
  cacheType?: CacheType;
  context?: number;
  echo?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** Adds `--model`. */
export function addModelOption(command: Command): Command {
  const otherwise = carriedModel() ? ' (default: the small one here)' : '';
  return command.option('-m, --model <folder>', `model folder${otherwise}`);
}

/** Adds the options about sampling, cache, engine and output; `echo` is what `--echo` says. */
export function addGenerationOptions(command: Command, echo: string): Command {
  command
    .optionsGroup('How tokens are chosen:')
    .option(
      '-n, --max-tokens <n>',
      "tokens to generate at most, anchors not counted (default: the model's, or 256)",
      parseCount,
    )
    .option(
      '-t, --temperature <t>',
      "0 takes the most probable token (default: the model's, or 0)",
      parseNumber,
    )
    .option('--top-k <k>', 'sample among the k most probable', parseCount)
    .option('--top-p <p>', 'sample among the most probable that together reach p', parseNumber)
    .option('--min-p <p>', 'drop what is below this share of the most probable', parseNumber)
    .option('--repetition-penalty <r>', 'above 1: less of what is there already', parseNumber)
    .option('-s, --seed <n>', 'same seed, same text (default: a random one)', parseSeed)
    .option('--stop <text>', 'ends the text before this one; may be repeated', collect)
    .addOption(
      new Option(
        '--generation-config <whose>',
        "whether the model's generation_config.json has defaults for these (default: model)",
      ).choices(['model', 'ignore']),
    );
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
    );
  return addEngineOptions(command)
    .optionsGroup('Output:')
    .addOption(new Option('--echo', echo).conflicts('json'))
    .option('--json', 'print one JSON object at the end instead of the text')
    .option('-q, --quiet', 'no figures and notes on stderr');
}

/** A prompt for the session that has been opened for it. */
export interface Prompt {
  content: string | Uint32Array;
  /** Control tokens in a text. */
  parseSpecial?: boolean;
  /** Instead of the model's ends of text. */
  stopTokens?: readonly number[];
  /** What `--echo` prints before and after the generated text. */
  before: string;
  after?: string;
  /** What `--json` prints beside the report. */
  facts?: object;
}

/** What a prompt is made from. */
export interface Opened {
  model: Model;
  session: Session;
  /** Tokens that will be generated at most. */
  maxTokens: number;
  signal: AbortSignal;
  /** Writes a sentence to stderr, unless `--quiet`. */
  note(sentence: string): void;
}

/** Loads the model, reads the prompt, generates, shows the figures. */
export async function generateFrom(
  flags: GenerationFlags,
  host: Host,
  promptOf: (opened: Opened) => Prompt | Promise<Prompt>,
): Promise<void> {
  const { folder, load, session: wanted, sampling } = settingsOf(flags);
  const note = (sentence: string | undefined) => {
    if (sentence !== undefined && !flags.quiet) host.stderr.write(`${sentence}\n`);
  };
  const print = (piece: string) => {
    if (!flags.json) host.stdout.write(piece);
  };
  const signal = host.interrupts();
  using model = await loadModel(folder, { ...load, signal });
  note(demonstrationNote(model.info.folder));
  for (const warning of model.info.warnings) note(warning);
  using session = model.createSession(wanted);
  note(approximationNote(model, session));
  const { generationDefaults: defaults } = model.info;
  const { temperature = defaults.temperature ?? 0 } = sampling;
  const { maxTokens = defaults.maxTokens ?? defaultTokens } = sampling;
  const prompt = await promptOf({ model, session, maxTokens, signal, note });

  if (flags.echo) print(prompt.before);
  const run = new Run(session, print);
  const progress = new PromptProgress(host.stderr);
  try {
    const { content, parseSpecial = false, stopTokens } = prompt;
    const onProgress = flags.quiet ? undefined : progress.update;
    await run.read(() => session.append(content, { parseSpecial, onProgress, signal }));
    progress.stop();
    await run.generate({ ...sampling, maxTokens, ...defined({ stopTokens }), signal });
  } catch (error) {
    if (!signal.aborted) throw error;
    run.finish = 'aborted';
  } finally {
    progress.stop();
  }
  const { after = '' } = prompt;
  if (flags.echo && after !== '') run.show(after);
  const report = run.report(model, temperature > 0 ? sampling.seed : undefined);
  if (flags.json) host.stdout.write(`${JSON.stringify({ ...prompt.facts, ...report })}\n`);
  else if (!run.endsLine && host.stdout.isTTY) host.stdout.write('\n');
  if (!flags.quiet) host.stderr.write(`\n${showFigures(report)}`);
}

/** Options as the library takes them, checked before anything is loaded. */
function settingsOf(flags: GenerationFlags) {
  const folder = flags.model ?? carriedModel();
  if (folder === undefined) throw new UsageError('Name the folder of a model with --model');
  const { maxTokens, temperature, topK, topP, minP, repetitionPenalty, stop } = flags;
  const load = defined({
    compute: flags.compute,
    threads: flags.threads,
    generationConfig: flags.generationConfig,
    maxMemory: flags.maxMemory,
    adapter: flags.adapter,
    anchors: anchorsOf(flags),
  });
  const session = defined({
    policy: policyOf(flags),
    cacheType: flags.cacheType,
    contextLength: flags.context,
  });
  const sampling = {
    ...defined({ maxTokens, temperature, topK, topP, minP, repetitionPenalty, stop }),
    seed: flags.seed ?? randomSeed(),
  };
  parseOptions.load(load);
  parseOptions.session(session);
  parseOptions.generate(sampling);
  return { folder, load, session, sampling };
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
