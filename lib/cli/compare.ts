/** The command `compare`: one text under several policies and types of rows, side by side. */
import { writeFile } from 'node:fs/promises';
import { type Command, InvalidArgumentError } from 'commander';
import type { CachePolicy, CacheType, ComparisonCase, Model } from '../../types/api.js';
import { version } from '../binding.js';
import { admitTokens, compare } from '../compare/compare.js';
import { codeOf } from '../errors.js';
import { loadModel } from '../load.js';
import { parseOptions } from '../options.js';
import { defined } from '../validate.js';
import { anchorsOf, parseCount, parsePolicy, type TextOptions } from './arguments.js';
import { showComparison } from './comparison.js';
import { UsageError } from './failure.js';
import { denseLayers } from './format.js';
import { addModelOption } from './generation.js';
import type { Host } from './host.js';
import { PromptProgress } from './progress.js';
import { readPrompt } from './prompt.js';
import {
  addEngineOptions,
  addTextOptions,
  carriedModel,
  demonstrationNote,
  type EngineOptions,
} from './shared.js';

interface CompareFlags extends TextOptions, EngineOptions {
  model?: string;
  file?: string;
  parseSpecial?: boolean;
  policy?: CachePolicy[];
  cacheType?: CacheType[];
  decode?: number;
  json?: string;
  svg?: string;
  quiet?: boolean;
}

const cacheTypes: readonly string[] = ['f32', 'bf16', 'f16', 'int8'] satisfies CacheType[];
/** Neighbours and sinks of the cases that are compared where none is named. */
const usualWindow = 64;
const usualSinks = 4;

const examples = `
Examples:
  anchorcoder compare --file src/queue.ts
  anchorcoder compare --file src/queue.ts --policy full --policy window:256,4 --svg kl.svg
  anchorcoder compare --file src/queue.ts --cache-type int8 --cache-type f16 --json -
  anchorcoder compare --model ./SmolLM2-135M --file prompt.py \\
    --policy '{"kind":"anchor","tokens":"newline","denseLayers":[17,18,20,23],"window":64}'

The reference is the model's own attention. Without --policy and --cache-type: the approximations
that suggest themselves, among them a window with about as many rows as anchors.`;

/** Adds the command to the program. */
export function addCompare(program: Command, host: Host): void {
  const command = program
    .command('compare')
    .summary('compare policies on a text')
    .description('Compares cache policies and types of rows on a text: an argument, a file, stdin.')
    .argument('[text]', 'text to read');
  addModelOption(command)
    .option('-f, --file <path>', 'file with the text; "-" is stdin')
    .option('--parse-special', 'texts such as <|endoftext|> become control tokens')
    .optionsGroup('What is compared:')
    .option(
      '--policy <policy>',
      'full, anchor, ansan, window:SIZE[,SINKS] or JSON; may be repeated',
      (text, before: CachePolicy[] = []) => [...before, parsePolicy(text)],
    )
    .option(
      '--cache-type <type>',
      'f32, bf16, f16 or int8, for every policy; may be repeated',
      (text, before: CacheType[] = []) => [...before, parseCacheType(text)],
    )
    .option('--decode <tokens>', 'generate as many in the end, to time it', parseCount);
  addEngineOptions(addTextOptions(command))
    .optionsGroup('Output:')
    .option('--json <file>', 'write one JSON object; "-" is stdout, instead of the tables')
    .option('--svg <file>', 'write a plot of the divergence; "-" is stdout')
    .option('-q, --quiet', 'no notes on stderr')
    .addHelpText('after', examples)
    .action((text: string | undefined, flags: CompareFlags) => run(text, flags, host));
}

function parseCacheType(text: string): CacheType {
  if (cacheTypes.includes(text)) return text as CacheType;
  throw new InvalidArgumentError(`Expected one of ${cacheTypes.join(', ')}.`);
}

async function run(argument: string | undefined, flags: CompareFlags, host: Host): Promise<void> {
  const { folder, load, options } = settingsOf(flags);
  const text = await readPrompt(argument, flags.file, host.stdin);
  const note = (sentence: string | undefined) => {
    if (sentence !== undefined && !flags.quiet) host.stderr.write(`${sentence}\n`);
  };
  const signal = host.interrupts();
  using model = await loadModel(folder, { ...load, signal });
  note(demonstrationNote(model.info.folder));
  for (const warning of model.info.warnings) note(warning);
  const { parseSpecial = false } = flags;
  const ids = await model.tokenize(text, { parseSpecial, signal });
  admitTokens(ids.length, flags.decode ?? 0, model.info);
  const cases = casesOf(flags) ?? (await usualCases(model, ids, signal));
  const progress = new PromptProgress(host.stderr);
  const onProgress = flags.quiet ? undefined : progress.update;
  const comparison = await compare(model, ids, cases, {
    ...options,
    ...defined({ onProgress }),
    signal,
  }).finally(() => progress.stop());

  const { info } = model;
  try {
    if (flags.json !== undefined) {
      const report = { version, model: info, ...comparison };
      await write(flags.json, `${JSON.stringify(report, withPlainArrays)}\n`, host);
    }
    if (flags.svg !== undefined) {
      // Whoever wants no plot need not wait for what draws it.
      const { plot } = await import('./plot.js');
      await write(flags.svg, plot(comparison), host);
    }
  } finally {
    // Behind the files, which a reader that has gone must not cost; and when they fail, too.
    const table = flags.json !== '-' && flags.svg !== '-';
    if (table) host.stdout.write(showComparison(comparison, info));
  }
}

function settingsOf(flags: CompareFlags) {
  const folder = flags.model ?? carriedModel();
  if (folder === undefined) throw new UsageError('Name the folder of a model with --model');
  if (flags.json === '-' && flags.svg === '-') {
    throw new UsageError('Only one of --json and --svg can be written to stdout');
  }
  const { compute, threads, maxMemory, adapter, decode } = flags;
  const load = defined({ compute, threads, maxMemory, adapter, anchors: anchorsOf(flags) });
  if (decode !== undefined && decode < 2) {
    throw new UsageError(`Expected option --decode to be 2 or more tokens, but received ${decode}`);
  }
  parseOptions.load(load);
  for (const policy of flags.policy ?? []) parseOptions.session({ policy });
  return { folder, load, options: defined({ decodeTokens: decode }) };
}

/** Every policy with every type; undefined where neither is named. */
function casesOf({ policy, cacheType }: CompareFlags): ComparisonCase[] | undefined {
  if (!policy && !cacheType) return undefined;
  const policies = policy ?? [undefined];
  const types = cacheType ?? [undefined];
  return policies.flatMap((one) =>
    types.map((type) => defined({ policy: one, cacheType: type }) as ComparisonCase),
  );
}

/** The other attention, a window that holds as many rows as the anchors do, and rows in int8. */
async function usualCases(
  model: Model,
  ids: Uint32Array,
  signal: AbortSignal,
): Promise<ComparisonCase[]> {
  const { trainedForAnchors, defaultPolicy, layers } = model.info;
  const anchor: CachePolicy = trainedForAnchors
    ? defaultPolicy
    : { kind: 'anchor', tokens: 'newline', window: usualWindow };
  using session = model.createSession({ policy: anchor });
  await session.append(ids, { signal });
  const dense = denseLayers(session.policy, layers);
  const rows = session.stats().rowsPerLayer.find((_, layer) => !dense.includes(layer));
  const cases: ComparisonCase[] = [{ policy: trainedForAnchors ? { kind: 'full' } : anchor }];
  if (rows !== undefined) {
    const size = Math.max(1, rows - usualSinks);
    cases.push({ policy: { kind: 'window', size, sinks: usualSinks, denseLayers: dense } });
  }
  return [...cases, { cacheType: 'int8' }];
}

function withPlainArrays(_: string, value: unknown): unknown {
  return ArrayBuffer.isView(value) ? Array.from(value as Float64Array) : value;
}

async function write(file: string, text: string, host: Host): Promise<void> {
  if (file === '-') {
    host.stdout.write(text);
    return;
  }
  try {
    await writeFile(file, text);
  } catch (error) {
    const missing = codeOf(error) === 'ENOENT';
    const reason = missing ? 'there is no such folder' : (error as Error).message;
    throw new UsageError(`The file "${file}" cannot be written: ${reason}`);
  }
}
