/** Finds the chat templates of a model folder. Blocks: for the tokenizer's worker only. */
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { codeOf } from '../errors.js';
import { readTextSync } from '../files.js';
import { isJson } from '../json.js';
import { invalid } from '../tokenizer/tokenizer-files.js';

/** Templates by name. */
export type ChatTemplates = ReadonlyMap<string, string>;

const file = 'chat_template.jinja';
const folderName = 'additional_chat_templates';
const extension = '.jinja';
// Known ones have 20 kB at most.
const mostBytes = 2 ** 18;
const mostTemplates = 32;

/** Where templates are looked for, in words. */
export const chatTemplatePlaces = [
  `${file}, ${folderName}/`,
  '"chat_template" in tokenizer_config.json',
].join(' and ');

/**
 * Files of their own win over `inConfig`, the template in tokenizer_config.json: a text, or a list
 * of named ones.
 * @throws `ERR_MODEL_INVALID`
 */
export function readChatTemplates(folder: string, inConfig: unknown): ChatTemplates {
  const templates = new Map<string, string>();
  const main = readTextSync(folder, file, mostBytes);
  if (main !== undefined) templates.set('default', main);
  for (const name of additional(join(folder, folderName))) {
    const text = readTextSync(folder, join(folderName, name), mostBytes);
    if (text !== undefined) templates.set(basename(name, extension), text);
  }
  return templates.size > 0 ? templates : named(inConfig);
}

function additional(folder: string): string[] {
  try {
    const names = readdirSync(folder).filter((name) => name.endsWith(extension));
    if (names.length <= mostTemplates) return names.sort();
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(codeOf(error) ?? '')) return [];
    throw invalid(`${folder} cannot be read: ${(error as Error).message}`, error);
  }
  throw invalid(`${folder} has more than ${mostTemplates} templates`);
}

function named(value: unknown): ChatTemplates {
  if (value === undefined || value === null) return new Map();
  if (typeof value === 'string') return new Map([['default', value]]);
  const templates = new Map<string, string>();
  for (const each of Array.isArray(value) ? (value as unknown[]) : [value]) {
    const { name, template } = isJson(each) ? each : {};
    if (typeof name !== 'string' || typeof template !== 'string') {
      const wanted = 'neither a text nor a list of objects with "name" and "template"';
      throw invalid(`"chat_template" in tokenizer_config.json is ${wanted}`);
    }
    templates.set(name, template);
  }
  return templates;
}
