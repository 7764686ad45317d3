/** Prompts that a model's folder says how to write: texts with a hole, and chats. */

/** A text with a hole: what is before it and what is behind it. Either may be empty. */
export interface FillInTheMiddleText {
  prefix: string;
  suffix: string;
}

/** Order of a text with a hole: prefix, suffix, middle or suffix, prefix, middle. */
export type FimOrder = 'psm' | 'spm';

/** Options of {@link Model.fillInTheMiddle}. */
export interface FillInTheMiddleOptions {
  /** @default {@link ModelInfo.fillInTheMiddle} */
  order?: FimOrder;
  /**
   * Instead of the marks that the vocabulary tells: texts or ids of tokens in order, with
   * `'{prefix}'` and `'{suffix}'` once each. `['<PRE>', '{prefix}', '<SUF>', '{suffix}', '<MID>']`.
   */
  format?: readonly (string | number)[];
  signal?: AbortSignal;
}

/** A text with a hole as the model reads it: generate, and what comes is the middle. */
export interface FillInTheMiddlePrompt {
  /** For `append` or `complete`; with the tokenizer's first ids (BOS). */
  ids: Uint32Array;
  /** For `generate`: the model's ends of text and the marks that end a middle. */
  stopTokens: readonly number[];
  order: FimOrder;
}

/** A message of a chat. Templates may read further keys, such as `tool_calls` or `name`. */
export interface ChatMessage {
  /** `system`, `user`, `assistant`, `tool`: those that the template knows. */
  role: string;
  /** Mostly a text. Some templates take parts such as `{ type: 'text', text: '...' }`. */
  content?: unknown;
  [key: string]: unknown;
}

/** Options of {@link Model.chat}. */
export interface ChatOptions {
  /** One of {@link ModelInfo.chatTemplates}. @default `tool_use` with tools, else `default` */
  template?: string;
  /** A template of the caller's own, in Jinja, instead of the folder's. */
  templateText?: string;
  /** Ends the prompt with the beginning of an answer. @default true */
  addGenerationPrompt?: boolean;
  /** Tools that the model may call, each as the JSON schema of a function. */
  tools?: readonly object[];
  /** Further variables of the template, such as `enable_thinking`, by name. */
  variables?: Readonly<Record<string, unknown>>;
  signal?: AbortSignal;
}

/** A chat as the model reads it. */
export interface ChatPrompt {
  /** For `append` or `complete`. Holds the BOS that the template writes, and no other. */
  ids: Uint32Array;
  /** What the template made of the messages, for reading: in it nothing tells tokens from text. */
  text: string;
}
