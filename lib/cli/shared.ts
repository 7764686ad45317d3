/** What the commands have in common: their options about the model and the cache. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { type Command, Option } from 'commander';
import type { ComputeMode } from '../../types/api.js';
import {
  parseCount,
  parseCountOrNone,
  parseInsert,
  parseLayers,
  parsePolicy,
  parseTokens,
} from './arguments.js';

const demonstration = 'anchor-code-23m';

/** The model that a checkout carries; undefined in an installed package. */
export function carriedModel(): string | undefined {
  const manifest = createRequire(import.meta.url).resolve('anchorcoder/package.json');
  const folder = join(dirname(manifest), 'models', demonstration);
  return existsSync(join(folder, 'config.json')) ? folder : undefined;
}

/** A sentence about the model that the repository carries, undefined for any other. */
export function demonstrationNote(folder: string): string | undefined {
  if (basename(folder) !== demonstration) return undefined;
  const rest = 'its code looks plausible, but it knows little.';
  return `${demonstration} is a small demonstration model: ${rest}`;
}

/** Options about how a model is computed. */
export interface EngineOptions {
  compute?: ComputeMode;
  threads?: number;
  maxMemory?: number;
  adapter?: string;
}

/** Adds the options that name a policy, word by word. */
export function addPolicyOptions(command: Command): Command {
  return command
    .optionsGroup('Which rows the cache keeps:')
    .option(
      '--policy <policy>',
      "full, anchor, ansan, window:SIZE[,SINKS] or JSON (default: the model's own)",
      parsePolicy,
    )
    .option('--anchor-tokens <ids>', 'anchors: "newline", or ids such as 0,1', parseTokens)
    .option('--dense-layers <layers>', 'layers that keep every row: 17,18,20,23', parseLayers)
    .option('--per <n>', 'every n-th layer keeps every row, from 0 on; or "none"', parseCountOrNone)
    .option(
      '--source-layer <layer>',
      'dense layer that later ones also read; or "none"',
      parseCountOrNone,
    )
    .option('--consumers-above <layer>', 'layers above this one read it', parseCount)
    .option('--window <tokens>', 'last tokens that anchored layers keep as well', parseCount)
    .option('--sinks <tokens>', 'first tokens that always stay', parseCount)
    .option('--no-line', 'anchored layers keep the window, but not the open line');
}

/** Adds the options about inserted anchors. */
export function addTextOptions(command: Command): Command {
  return command
    .option('--insert-anchor <token>', 'id or text put after every newline; "none"', parseInsert)
    .addOption(
      new Option('--indent <kind>', 'four blanks become a tab').choices(['none', 'tab4'] as const),
    );
}

/** Adds the options about how a model is computed. */
export function addEngineOptions(command: Command): Command {
  return command
    .optionsGroup('Engine:')
    .addOption(
      new Option('--compute <mode>', "arithmetic (default: by the weights' type)").choices([
        'exact',
        'bf16',
      ]),
    )
    .option('--threads <n>', 'worker threads (default: one per physical core)', parseCount)
    .option('--max-memory <bytes>', 'refuse to take more', parseCount)
    .option('--adapter <folder>', 'LoRA adapter to merge into the model');
}
