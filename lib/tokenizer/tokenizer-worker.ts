/** The worker thread behind `tokenizer.ts`: reads tokenizers, encodes texts. */
import { parentPort } from 'node:worker_threads';
import type { ErrorCode } from '../../types/api.js';
import { type ChatTemplates, readChatTemplates } from '../chat/chat-templates.js';
import { AnchorError, codeOf } from '../errors.js';
import type { Reply } from '../worker-client.js';
import { type ByteTable, type NewlineIds, stripsFirstBlank } from './tokenizer-bytes.js';
import {
  type AnchorSettings,
  type ChatSettings,
  Encoder,
  type EncodeSettings,
} from './tokenizer-encode.js';
import { readTokenizerFiles } from './tokenizer-files.js';

/** What the worker is asked. `tokenizer` is the caller's number for an opened folder. */
export type Request =
  | { kind: 'open'; tokenizer: number; folder: string; vocabSize: number }
  | { kind: 'encode'; tokenizer: number; text: string; settings: EncodeSettings }
  | { kind: 'anchors'; tokenizer: number; text: string; settings: AnchorSettings }
  | { kind: 'chat'; tokenizer: number; text: string; settings: ChatSettings }
  | { kind: 'close'; tokenizer: number };

/** What a folder has for chats. */
export interface ChatFiles {
  templates: ChatTemplates;
  specials: Record<string, string>;
}

/** What opening gives back, so that streaming needs no worker. */
export interface Opened {
  table: ByteTable;
  newlines: NewlineIds;
  /** Tokens beside the vocabulary. */
  added: [content: string, id: number][];
  stripsFirstBlank: boolean;
  chat: ChatFiles;
}

const encoders = new Map<number, Encoder>();

function encoderOf(tokenizer: number): Encoder {
  const encoder = encoders.get(tokenizer);
  if (encoder) return encoder;
  throw new AnchorError('ERR_DISPOSED', 'The tokenizer has been disposed');
}

function open({ tokenizer, folder, vocabSize }: Request & { kind: 'open' }) {
  const files = readTokenizerFiles(folder, vocabSize);
  const encoder = new Encoder(files, vocabSize);
  encoders.set(tokenizer, encoder);
  const { table, newlines } = encoder;
  const value: Opened = {
    table,
    newlines,
    added: files.added.map(({ content, id }) => [content, id]),
    stripsFirstBlank: stripsFirstBlank(files.tokenizer),
    chat: {
      templates: readChatTemplates(folder, files.chatTemplate),
      specials: files.specials,
    },
  };
  // The worker has no use for the table itself.
  return { value, moved: [table.bytes.buffer, table.offsets.buffer, table.control.buffer] };
}

function answer(request: Request): { value: unknown; moved: ArrayBuffer[] } {
  switch (request.kind) {
    case 'open':
      return open(request);
    case 'encode': {
      const value = encoderOf(request.tokenizer).encode(request.text, request.settings);
      return { value, moved: [value.buffer] };
    }
    case 'anchors': {
      const value = encoderOf(request.tokenizer).encodeWithAnchors(request.text, request.settings);
      return { value, moved: [value.buffer] };
    }
    case 'chat': {
      const value = encoderOf(request.tokenizer).encodeChat(request.text, request.settings);
      return { value, moved: [value.buffer] };
    }
    case 'close':
      encoders.delete(request.tokenizer);
      return { value: undefined, moved: [] };
  }
}

parentPort?.on('message', ({ number, ...request }: Request & { number: number }) => {
  try {
    const { value, moved } = answer(request as Request);
    parentPort?.postMessage({ number, value } satisfies Reply, moved);
  } catch (error) {
    const { name, stack } = error as Error;
    const isOurs = name === 'AnchorError';
    const code = isOurs ? (codeOf(error) as ErrorCode) : 'ERR_MODEL_INVALID';
    // What the library meets in rules that contradict themselves.
    const problem = isOurs ? '' : 'The rules of tokenizer.json cannot be followed: ';
    const message = problem + (error as Error).message;
    parentPort?.postMessage({ number, error: { code, message, stack } } satisfies Reply);
  }
});
