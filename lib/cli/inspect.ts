/** The command `inspect`: what a model folder holds, and what the engine makes of it. */
import type { Command } from 'commander';
import type { CachePolicy, CacheType, ModelInfo } from '../../types/api.js';
import type { WeightCheck } from '../../types/check.js';
import { checkWeights } from '../check-weights.js';
import { estimate } from '../estimate.js';
import { type Inspection, inspectFolder } from '../load.js';
import { parseOptions } from '../options.js';
import { describe } from '../policy.js';
import { quote } from '../show.js';
import { defined } from '../validate.js';
import {
  anchorsOf,
  type PolicyOptions,
  parseNumber,
  policyOf,
  type TextOptions,
} from './arguments.js';
import { flagOf, UsageError } from './failure.js';
import {
  bytes,
  count,
  denseLayers,
  describePolicy,
  many,
  numbers,
  percent,
  table,
} from './format.js';
import type { Host } from './host.js';
import { addPolicyOptions, addTextOptions, carriedModel, demonstrationNote } from './shared.js';

interface InspectFlags extends PolicyOptions, TextOptions {
  anchorShare?: number;
  json?: boolean;
  check?: boolean;
  adapter?: string;
}

/** Memory of one session's cache. */
interface CacheSize {
  context: number;
  policy: CachePolicy;
  rows: number;
  bytes: Record<CacheType, number>;
}

const cacheTypes: readonly CacheType[] = ['f32', 'bf16', 'f16', 'int8'];
const firstContext = 1024;

const examples = `
Examples:
  anchorcoder inspect ./SmolLM2-135M
  anchorcoder inspect ./SmolLM2-135M --anchor-tokens newline --dense-layers 17,18,20,23 --window 64
  anchorcoder inspect ./SmolLM2-135M --json | jq .info.weightBytes

Without --check weights are not read: only their headers are.`;

/** Adds the command to the program. */
export function addInspect(program: Command, host: Host): void {
  const command = program
    .command('inspect')
    .summary('show what a model folder holds')
    .description('Shows what a model folder holds, and what its cache would take.')
    .argument('[folder]', `model folder${carriedModel() ? ' (default: the small one here)' : ''}`)
    .option('--json', 'print one JSON object')
    .option('--check', 'read all weights and count those that are no finite numbers')
    .option('--anchor-share <share>', 'anchors per token (default: 0.09)', parseNumber)
    .option('--adapter <folder>', 'LoRA adapter to merge into the model');
  addTextOptions(addPolicyOptions(command))
    .addHelpText('after', examples)
    .action((folder: string | undefined, flags: InspectFlags) => inspect(folder, flags, host));
}

async function inspect(argument: string | undefined, flags: InspectFlags, host: Host) {
  const folder = argument ?? carriedModel();
  if (folder === undefined) throw new UsageError('Name the folder of a model');
  const anchors = anchorsOf(flags);
  const policy = policyOf(flags);
  const { anchorShare } = flags;
  parseOptions.estimate(defined({ policy, anchors, anchorShare }));
  const model = await inspectFolder(folder, defined({ anchors, adapter: flags.adapter }));
  const policies = policiesFor(policy, model).map((each) => describe(each, model.anchors));
  const cache = await sizesOf(folder, model, policies, anchorShare);
  const check = flags.check ? await checkWeights(folder, { signal: host.interrupts() }) : undefined;
  const report = { ...reportOf(model, cache), ...defined({ check }) };
  host.stdout.write(flags.json ? `${JSON.stringify(report)}\n` : show(report));
}

// The usual three; a policy of the user's takes the place of its kind, or comes last.
function policiesFor(own: CachePolicy | undefined, { anchors }: Inspection): CachePolicy[] {
  const canAnchor = anchors.tokenizer !== undefined || Array.isArray(anchors.settings.tokens);
  const usual: CachePolicy[] = [{ kind: 'full' }, { kind: 'window', size: 512 }];
  if (canAnchor) usual.splice(1, 0, { kind: 'anchor' });
  // What all others are compared with stays first.
  if (!own || own.kind === 'full') return usual;
  const others = usual.filter(({ kind }) => kind !== own.kind);
  return [...others, own];
}

async function sizesOf(
  folder: string,
  { info, anchors }: Inspection,
  policies: readonly CachePolicy[],
  anchorShare: number | undefined,
): Promise<CacheSize[]> {
  const sizes: CacheSize[] = [];
  for (const context of contextsUpTo(info.contextLength)) {
    for (const policy of policies) {
      const held: Partial<Record<CacheType, number>> = {};
      let rows = 0;
      for (const cacheType of cacheTypes) {
        const options = { context, policy, cacheType, anchors: anchors.settings };
        const result = await estimate(folder, { ...options, ...defined({ anchorShare }) });
        held[cacheType] = result.cacheBytes;
        rows = result.rows;
      }
      sizes.push({ context, policy, rows, bytes: held as CacheSize['bytes'] });
    }
  }
  return sizes;
}

/** 1 k, 4 k, 16 k, ... and the longest. */
export function contextsUpTo(longest: number): number[] {
  const contexts: number[] = [];
  for (let context = firstContext; context < longest; context *= 4) contexts.push(context);
  return [...contexts, longest];
}

function reportOf({ info, anchors, files, anchorIds }: Inspection, cache: CacheSize[]) {
  const policy = info.defaultPolicy;
  const source = policy.kind === 'anchor' ? (policy.sourceLayer ?? null) : null;
  return {
    info,
    files,
    anchors: {
      trained: anchors.trained,
      ids: anchorIds,
      inserted: anchors.insertId < 0 ? null : anchors.insertId,
      indent: anchors.indent,
      settings: anchors.settings,
    },
    layers: { dense: denseLayers(policy, info.layers), source },
    cache,
  };
}

type Report = ReturnType<typeof reportOf> & { check?: WeightCheck };

function show(report: Report): string {
  const notes = [demonstrationNote(report.info.folder), ...report.info.warnings];
  const said = notes.filter((sentence) => sentence !== undefined);
  return [
    table([...folderRows(report), ...engineRows(report)], []),
    ...(said.length > 0 ? [`${said.join('\n')}\n`] : []),
    ...(report.check ? [checkTable(report.check)] : []),
    cacheTable(report.cache, report.info.layers),
  ].join('\n');
}

function folderRows({ info, files, anchors }: Report): string[][] {
  const { heads, kvHeads, headDim } = info;
  const parameters = `${count(info.parameters)} parameters`;
  return [
    ['folder', info.folder],
    ...(info.adapter === undefined ? [] : [['adapter', info.adapter]]),
    ['architecture', `${info.architecture}, ${parameters}`],
    [
      'sizes',
      `${info.layers} layers, hidden ${info.hiddenSize}, feed-forward ${info.intermediateSize}, ` +
        `${many(heads, 'head')} and ${kvHeads} for keys and values, of ${headDim}`,
    ],
    [
      'vocabulary',
      `${many(info.vocabSize, 'id')}, context of ${many(info.contextLength, 'token')}`,
    ],
    ['weights', `${info.weightType}, ${bytes(info.weightBytes)} in ${many(files.length, 'file')}`],
    ['tokenizer', info.hasTokenizer ? 'tokenizer.json' : 'none: ids only, no text'],
    ['anchors', anchorWords(anchors)],
    ['prompts', promptWords(info)],
    ['sampling', samplingWords(info)],
  ];
}

function anchorWords({ trained, ids, inserted }: Report['anchors']): string {
  const words = [trained ? 'trained for them' : 'not trained for them'];
  if (ids) words.push(ids.length <= 8 ? `ids ${numbers(ids)}` : `${many(ids.length, 'id')}`);
  if (inserted !== null) words.push(`${inserted} is inserted after every newline`);
  return words.join('; ');
}

function promptWords({ fillInTheMiddle: order, chatTemplates }: ModelInfo): string {
  const first = order === 'spm' ? 'the suffix first' : 'the prefix first';
  const middle = order ? `fills in the middle, ${first} (${order})` : 'no marks for a middle';
  const templates = chatTemplates.length > 0 ? chatTemplates.map(quote).join(', ') : 'none';
  return `${middle}; chat templates: ${templates}`;
}

function samplingWords({ generationDefaults: defaults }: ModelInfo): string {
  const named = Object.entries(defaults).filter(([name]) => name !== 'temperature');
  const words = named.map(([name, value]) => `${flagOf(name).slice(2)} ${value}`);
  const { temperature = 0 } = defaults;
  return [temperature > 0 ? `temperature ${temperature}` : 'greedy', ...words].join(', ');
}

function engineRows({ info }: Report): string[][] {
  return [
    ['compute', `${info.compute} on ${info.instructionSet}, ${many(info.threads, 'thread')}`],
    ['default policy', describePolicy(info.defaultPolicy, info.layers)],
  ];
}

function checkTable({ tensors, elements, nonFinite }: WeightCheck): string {
  const read = `${many(elements, 'number')} in ${many(tensors, 'tensor')}`;
  if (nonFinite.length === 0) return `Weights: ${read}, all of them finite\n`;
  const lines = nonFinite.map(({ name, nan, infinite }) => [name, count(nan), count(infinite)]);
  const odd = `${many(nonFinite.length, 'tensor')} with what is no finite number`;
  return `Weights: ${read}; ${odd}\n${table([['tensor', 'NaN', 'infinite'], ...lines], [1, 2])}`;
}

function cacheTable(sizes: readonly CacheSize[], layers: number): string {
  const lines = [['context', 'policy', 'rows', 'of full', 'f32', 'bf16, f16', 'int8']];
  let full = 0;
  let before = 0;
  for (const { context, policy, rows, bytes: held } of sizes) {
    if (policy.kind === 'full') full = rows;
    const name = policy.kind === 'window' ? `window:${policy.size},${policy.sinks}` : policy.kind;
    lines.push([
      context === before ? '' : count(context),
      name,
      count(rows),
      percent(rows, full),
      ...[held.f32, held.bf16, held.int8].map(bytes),
    ]);
    before = context;
  }
  const policies = new Map(sizes.map(({ policy }) => [policy.kind, policy]));
  const legend = [...policies.values()].map((policy) => describePolicy(policy, layers));
  const columns = table(lines, [0, 2, 3, 4, 5, 6]);
  return `Cache of one session\n${columns}\n${legend.join('\n')}\n`;
}
