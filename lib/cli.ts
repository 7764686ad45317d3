#!/usr/bin/env node
/** The command line `anchorcoder`. */
import { Command } from 'commander';
import { version } from './binding.js';
import { addCompare } from './cli/compare.js';
import { addComplete } from './cli/complete.js';
import { exitCodes, failureOf, oneLine } from './cli/failure.js';
import { addGenerate } from './cli/generate.js';
import type { Host } from './cli/host.js';
import { addInspect } from './cli/inspect.js';
import { AnchorError, codeOf } from './errors.js';

const controller = new AbortController();

const host: Host = {
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  interrupts() {
    process.on('SIGINT', () => {
      if (controller.signal.aborted) process.exit(exitCodes.interrupted);
      controller.abort(new AnchorError('ERR_ABORTED', 'Interrupted'));
    });
    return controller.signal;
  },
};

const examples = `
Examples:
  anchorcoder generate "function median(values) {" --temperature 0.3
  anchorcoder complete src/queue.ts:12:5
  anchorcoder inspect ./SmolLM2-135M
  anchorcoder compare --file src/queue.ts --policy full --policy window:256,4
  anchorcoder help generate`;

function createProgram(): Command {
  const program = new Command('anchorcoder')
    .description('Runs code-generating language models with a small cache.')
    .version(version)
    .addHelpText('after', examples)
    .exitOverride()
    .configureOutput({
      outputError: (text, write) => {
        write(`${oneLine(text.replace(/^error: /, 'ERR_INVALID_ARGUMENT: '))}\n`);
      },
    });
  addGenerate(program, host);
  addComplete(program, host);
  addInspect(program, host);
  addCompare(program, host);
  return program;
}

// A reader that has seen enough, such as `head`, is no failure.
process.stdout.on('error', (error) => {
  if (codeOf(error) === 'EPIPE') process.exit(exitCodes.success);
  process.stderr.write(`ERR_UNEXPECTED: stdout cannot be written: ${error.message}\n`);
  process.exit(exitCodes.failure);
});
process.stderr.on('error', () => {}); // nobody is left to tell

async function main(): Promise<void> {
  try {
    await createProgram().parseAsync();
  } catch (error) {
    const { line, exitCode } = failureOf(error);
    if (line !== undefined) process.stderr.write(`${line}\n`);
    process.exitCode = exitCode;
  }
  if (controller.signal.aborted) process.exitCode = exitCodes.interrupted;
}

await main();
