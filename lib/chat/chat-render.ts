/** Renders a chat template. Runs in a process of its own: a template may take all it can get. */
import vm from 'node:vm';
import * as jinja from '@huggingface/jinja';
import {
  type ChatInput,
  ChatInputError,
  type ChatTokens,
  chooseMark,
  Marker,
  stringsOf,
  withoutMarks,
} from './chat-marks.js';
import { teachStrip } from './chat-strip.js';
import { strftime } from './chat-time.js';

/** What is rendered. */
export interface ChatJob extends ChatInput, ChatTokens {
  template: string;
  /** `bos_token`, `eos_token` and the like, by name. */
  specials: Readonly<Record<string, string>>;
  addGenerationPrompt: boolean;
  /** Of the messages together, and of the result, in UTF-16 units. */
  longest: number;
  milliseconds: number;
}

/** What came of it; `mark` stands in the text wherever users wrote a token's text. */
export type ChatResult =
  | { kind: 'text'; text: string; mark: string }
  | { kind: 'input' | 'refused'; message: string }
  | { kind: 'syntax' | 'failed'; message: string }
  | { kind: 'time' | 'length' };

class Refusal extends Error {}

const longestRange = 100_000;
const longestSentence = 1000;

teachStrip();

/** Never throws. */
export function renderChat(job: ChatJob): ChatResult {
  let mark = '';
  let stage: 'syntax' | 'failed' = 'syntax';
  try {
    mark = markFor(job);
    const { parsed } = new jinja.Template(job.template);
    stage = 'failed';
    const interpreter = new jinja.Interpreter(environmentOf(job, mark));
    const text = String(interpreter.run(parsed).value);
    return text.length > job.longest ? { kind: 'length' } : { kind: 'text', text, mark };
  } catch (error) {
    const said = (error as Error).message.slice(0, longestSentence);
    const message = mark === '' ? said : withoutMarks(said, mark);
    if (error instanceof ChatInputError) return { kind: 'input', message };
    return { kind: error instanceof Refusal ? 'refused' : stage, message };
  }
}

/** The same within the job's time. */
export function renderInTime(job: ChatJob): ChatResult {
  const key = '__anchorcoderRender';
  const global = globalThis as Record<string, unknown>;
  global[key] = () => renderChat(job);
  try {
    return vm.runInThisContext(`${key}()`, { timeout: job.milliseconds }) as ChatResult;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') {
      return { kind: 'time' };
    }
    return { kind: 'failed', message: (error as Error).message };
  } finally {
    delete global[key];
  }
}

function markFor({ messages, tools, variables, longest, ...rest }: ChatJob): string {
  const given = [
    ...stringsOf(messages, 'messages'),
    ...stringsOf(tools, 'tools'),
    ...stringsOf(variables, 'variables'),
  ];
  const length = given.reduce((sum, text) => sum + text.length, 0);
  if (length > longest) {
    throw new ChatInputError(`the messages have ${length} characters, and ${longest} are the most`);
  }
  const { template, control, words, specials } = rest;
  return chooseMark([...given, template, ...control, ...words, ...Object.values(specials)]);
}

function environmentOf(job: ChatJob, mark: string): jinja.Environment {
  const { messages, tools, variables } = new Marker(mark, job).input(job);
  const names: Record<string, unknown> = {
    ...{ true: true, True: true, false: false, False: false, none: null, None: null },
    range,
    strftime_now: (format: unknown) => strftime(new Date(), String(format)),
    raise_exception: (message: unknown) => {
      throw new Refusal(String(message));
    },
    documents: null,
    ...job.specials,
    ...variables,
    messages,
    tools: tools ?? null,
    add_generation_prompt: job.addGenerationPrompt,
  };
  const environment = new jinja.Environment();
  for (const [name, value] of Object.entries(names)) environment.set(name, value);
  return environment;
}

/** Python's range, which here is a list at once and so has an end. */
function range(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (!Number.isInteger(step) || step === 0) throw new Error('range() needs a step of at least 1');
  if (!(count <= longestRange)) throw new Error(`range() has more than ${longestRange} numbers`);
  return Array.from({ length: count }, (_, i) => start + i * step);
}
