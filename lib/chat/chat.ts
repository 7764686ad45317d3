/** Chats as a model's template writes them. */
import type { ChatMessage, ChatPrompt } from '../../types/api.js';
import type { Codec } from '../codec.js';
import { AnchorError } from '../errors.js';
import { invalid, type Parsed } from '../options.js';
import { printable, quote } from '../show.js';
import { LONGEST_TEXT, type Tokenizer } from '../tokenizer/tokenizer.js';
import { renderApart } from './chat-client.js';
import { chatMegabytes, chatMilliseconds } from './chat-limits.js';
import { withoutMarks } from './chat-marks.js';
import { type ChatTemplates, chatTemplatePlaces } from './chat-templates.js';
import type { ChatOutcome } from './chat-worker.js';

type ChatOptions = Parsed<'chat'>;

/** A template, and what sentences call it. */
interface Chosen {
  text: string;
  name: string;
  /** What is wrong with it is the folder's fault, not the caller's. */
  ofFolder: boolean;
}

/** @throws `ERR_MODEL_UNSUPPORTED`, `ERR_MODEL_INVALID`, `ERR_INVALID_ARGUMENT`, `ERR_ADDON` */
export async function writeChat(
  messages: readonly ChatMessage[],
  options: ChatOptions,
  folder: string,
  tokenizer: Tokenizer,
  codec: Codec,
): Promise<ChatPrompt> {
  const { templates, specials } = tokenizer.chatFiles();
  const template = chooseTemplate(templates, options, folder);
  const { signal } = options;
  const job = {
    ...tokenizer.addedTexts(),
    template: template.text,
    messages,
    tools: options.tools,
    variables: options.variables ?? {},
    specials,
    addGenerationPrompt: options.addGenerationPrompt ?? true,
    longest: LONGEST_TEXT,
    milliseconds: chatMilliseconds,
  };
  const outcome = await renderApart(job, signal);
  if (outcome.kind !== 'text') throw failureOf(outcome, template);
  const { text, mark } = outcome;
  const ids = await codec.encodeChat(text, mark, signal);
  return { ids, text: withoutMarks(text, mark) };
}

function chooseTemplate(
  templates: ChatTemplates,
  { template: name, templateText, tools }: ChatOptions,
  folder: string,
): Chosen {
  if (templateText !== undefined) {
    if (name !== undefined) {
      throw invalid('option "template"', 'left out, since there is "templateText"', name);
    }
    return { text: templateText, name: 'of option "templateText"', ofFolder: false };
  }
  const names = [...templates.keys()];
  if (names.length === 0) {
    const message = `"${folder}" has no chat template: there is none in ${chatTemplatePlaces}`;
    const cure = 'Option "templateText" takes one of your own';
    throw new AnchorError('ERR_MODEL_UNSUPPORTED', `${message}. ${cure}`);
  }
  const usual = tools && templates.has('tool_use') ? 'tool_use' : 'default';
  const wanted = name ?? usual;
  const text = templates.get(wanted);
  if (text !== undefined) return { text, name: quote(wanted), ofFolder: true };
  const list = `one of ${names.map(quote).join(', ')}`;
  throw invalid('option "template"', list, name);
}

function failureOf(outcome: Exclude<ChatOutcome, { kind: 'text' }>, template: Chosen): AnchorError {
  const subject = `The chat template ${template.name}`;
  const code = template.ofFolder ? 'ERR_MODEL_INVALID' : 'ERR_INVALID_ARGUMENT';
  const broken = (fault: string) => new AnchorError(code, `${subject} ${fault}`);
  switch (outcome.kind) {
    case 'input':
      return new AnchorError(
        'ERR_INVALID_ARGUMENT',
        `No chat can be written: ${printable(outcome.message)}`,
      );
    case 'refused': {
      const message = `${subject} refuses the messages: ${printable(outcome.message)}`;
      return new AnchorError('ERR_INVALID_ARGUMENT', message);
    }
    case 'syntax':
      return broken(`does not parse: ${printable(outcome.message)}`);
    case 'failed':
      return broken(`failed: ${printable(outcome.message)}`);
    case 'time':
      return broken(`did not end within ${chatMilliseconds / 1000} seconds`);
    case 'memory':
      return broken(`took more than ${chatMegabytes} MiB of memory`);
    case 'length':
      return broken(`wrote more than ${LONGEST_TEXT} characters`);
  }
}
