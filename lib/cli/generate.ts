/** The command `generate`: a prompt in, code out, figures at the end. */
import type { Command } from 'commander';
import { UsageError } from './failure.js';
import {
  addGenerationOptions,
  addModelOption,
  type GenerationFlags,
  generateFrom,
  type Prompt,
} from './generation.js';
import type { Host } from './host.js';
import { readPrompt } from './prompt.js';

interface GenerateFlags extends GenerationFlags {
  file?: string;
  parseSpecial?: boolean;
  chat?: boolean;
  system?: string;
}

const examples = `
Examples:
  anchorcoder generate "function median(values) {" --temperature 0.3
  anchorcoder generate --file src/queue.ts --max-tokens 64 --stop $'\\n\\n'
  git show HEAD:lib/text.ts | anchorcoder generate --quiet > rest.ts
  anchorcoder generate --model ./SmolLM2-135M --anchor-tokens newline \\
    --dense-layers 17,18,20,23 --window 64 "def fibonacci(n):"
  anchorcoder generate "class Stack:" --policy window:256,4 --json
  anchorcoder generate --model ./SmolLM2-135M --chat "What is a closure?"

The code goes to stdout, everything else to stderr. Ctrl-C ends the text where it is.`;

/** Adds the command to the program. */
export function addGenerate(program: Command, host: Host): void {
  const command = program
    .command('generate')
    .summary('go on with a prompt')
    .description('Goes on with a prompt: an argument, a file, or stdin.')
    .argument('[prompt]', 'text to go on with');
  addModelOption(command)
    .option('-f, --file <path>', 'file with the prompt; "-" is stdin')
    .option('--parse-special', 'texts such as <|endoftext|> in the prompt become control tokens');
  command
    .option('--chat', "the prompt is a user's message, in the model's chat template")
    .option('--system <text>', 'a message of the system before it; implies --chat');
  addGenerationOptions(command, 'print the prompt first')
    .addHelpText('after', examples)
    .action((prompt: string | undefined, flags: GenerateFlags) => generate(prompt, flags, host));
}

async function generate(argument: string | undefined, flags: GenerateFlags, host: Host) {
  const text = await readPrompt(argument, flags.file, host.stdin);
  const { parseSpecial = false, system } = flags;
  const chat = flags.chat || system !== undefined;
  if (chat && parseSpecial) {
    throw new UsageError('--parse-special has no meaning in a chat: text of messages stays text');
  }
  await generateFrom(flags, host, async ({ model, signal }): Promise<Prompt> => {
    if (!chat) return { content: text, before: text, parseSpecial };
    const before = system === undefined ? [] : [{ role: 'system', content: system }];
    const prompt = await model.chat([...before, { role: 'user', content: text }], { signal });
    return { content: prompt.ids, before: prompt.text };
  });
}
