/** The command `complete`: fills in a file at a cursor. */
import { type Command, Option } from 'commander';
import type { FillInTheMiddleOptions, FillInTheMiddleText, FimOrder } from '../../types/api.js';
import { parseOptions } from '../options.js';
import { defined } from '../validate.js';
import { parseCursor, splitAt } from './cursor.js';
import {
  addGenerationOptions,
  addModelOption,
  type GenerationFlags,
  generateFrom,
  type Opened,
  type Prompt,
} from './generation.js';
import type { Host } from './host.js';
import { readText } from './prompt.js';
import { trim, trimNote } from './trim.js';

interface CompleteFlags extends GenerationFlags {
  order?: FimOrder;
  format?: (string | number)[];
}

const examples = `
Examples:
  anchorcoder complete src/queue.ts:12:5 --max-tokens 32
  anchorcoder complete src/queue.ts:12:5 --echo --quiet > completed.ts
  git show HEAD:lib/text.ts | anchorcoder complete 40:1
  anchorcoder complete main.py:3:9 -m ./model --format "<PRE>,{prefix},<SUF>,{suffix},<MID>"

Lines and columns count from 1, columns in UTF-16 units; the end of a line is a column too. Where
the context has no room for the file, the model sees whole lines around the cursor.`;

/** Adds the command to the program. */
export function addComplete(program: Command, host: Host): void {
  const command = program
    .command('complete')
    .summary('fill in a file at a cursor')
    .description('Fills in a file at a cursor: what stands behind it is taken into account.')
    .argument('<cursor>', 'FILE:LINE:COLUMN, or LINE:COLUMN for stdin');
  addModelOption(command)
    .addOption(
      new Option(
        '--order <order>',
        "what the model reads first (default: the model's own)",
      ).choices(['psm', 'spm']),
    )
    .option('--format <marks>', "marks in place of the vocabulary's, by text or id", parseFormat);
  addGenerationOptions(command, 'print the file with the completion in it')
    .addHelpText('after', examples)
    .action((cursor: string, flags: CompleteFlags) => complete(cursor, flags, host));
}

/** `<PRE>,{prefix},<SUF>,{suffix},<MID>`; digits are an id. */
export function parseFormat(text: string): (string | number)[] {
  return text.split(',').map((part) => (/^\d{1,10}$/.test(part) ? Number(part) : part));
}

async function complete(argument: string, flags: CompleteFlags, host: Host) {
  const cursor = parseCursor(argument);
  const options: FillInTheMiddleOptions = defined({ order: flags.order, format: flags.format });
  parseOptions.fillInTheMiddle(options);
  const missing = 'There is no text: name a file as FILE:LINE:COLUMN, or give it on stdin';
  const { prefix, suffix } = splitAt(await readText(cursor.file, host.stdin, missing), cursor);
  const { line, column } = cursor;
  await generateFrom(flags, host, async (opened): Promise<Prompt> => {
    const { model, session, signal, note } = opened;
    // Without texts, to know whether the model can and what the marks take.
    const ask = (own: FillInTheMiddleText) => model.fillInTheMiddle(own, { ...options, signal });
    const empty = await ask({ prefix: '', suffix: '' });
    const room = session.contextLength - reserve(opened) - empty.ids.length;
    const { left, ...texts } = await trim(model, { prefix, suffix }, room, signal);
    const unseen = trimNote(left, session.contextLength);
    if (unseen !== undefined) note(unseen);
    const { ids, order, stopTokens } = await ask(texts);
    const facts = { cursor: { line, column }, order, linesLeftOut: left };
    return { content: ids, stopTokens, before: prefix, after: suffix, facts };
  });
}

// Room for the middle, with the anchors that may come; but most of a short context is for the file.
function reserve({ session, maxTokens }: Opened): number {
  return Math.min(Math.ceil(maxTokens * 1.2), session.contextLength >> 2);
}
