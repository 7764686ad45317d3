/** How models write a text with a hole: their marks, by vocabulary. Data only. */
import type { FimOrder } from '../types/api.js';

/** Where the texts before and after the hole go. */
export const PREFIX = '{prefix}';
export const SUFFIX = '{suffix}';

/** Marks by text or id, with {@link PREFIX} and {@link SUFFIX} once each. */
export type FimFormat = readonly (string | number)[];

export interface FimFamily {
  /** Models that have these marks. */
  name: string;
  /** The order that the models are documented with, and others that they know. */
  order: FimOrder;
  formats: { readonly [K in FimOrder]?: FimFormat };
  /** Marks that end a middle, beside the ends of text and the format's own marks. */
  stops: readonly string[];
}

const pipes = ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>'] as const;
const plain = ['<fim_prefix>', '<fim_suffix>', '<fim_middle>'] as const;
const dashes = ['<fim-prefix>', '<fim-suffix>', '<fim-middle>'] as const;
const codeLlama = ['▁<PRE>', '▁<SUF>', '▁<MID>'] as const;

// With the suffix first these keep their marks before what they name, and the prefix goes last.
function bothOrders([pre, suf, mid]: readonly [string, string, string]): FimFamily['formats'] {
  return { psm: [pre, PREFIX, suf, SUFFIX, mid], spm: [pre, suf, SUFFIX, mid, PREFIX] };
}

/** The first one whose marks a tokenizer has is the model's. */
export const fimFamilies: readonly FimFamily[] = [
  {
    name: 'Qwen-Coder, CodeGemma, Granite 4',
    order: 'psm',
    formats: bothOrders(pipes),
    stops: [
      '<|endoftext|>',
      '<|fim_pad|>',
      '<|repo_name|>',
      '<|file_sep|>',
      '<|file_separator|>',
      '<|end_of_text|>',
    ],
  },
  {
    name: 'StarCoder, Granite-Code, Stable-Code',
    order: 'psm',
    formats: bothOrders(plain),
    stops: [
      '<|endoftext|>',
      '<fim_pad>',
      '<file_sep>',
      '<repo_name>',
      '<filename>',
      '<reponame>',
      '<|end_of_text|>',
    ],
  },
  {
    name: 'SantaCoder',
    order: 'psm',
    formats: bothOrders(dashes),
    stops: ['<|endoftext|>', '<fim-pad>'],
  },
  { name: 'CodeLlama', order: 'psm', formats: bothOrders(codeLlama), stops: ['▁<EOT>'] },
  {
    name: 'DeepSeek-Coder',
    order: 'psm',
    formats: { psm: ['<｜fim▁begin｜>', PREFIX, '<｜fim▁hole｜>', SUFFIX, '<｜fim▁end｜>'] },
    stops: ['<｜end▁of▁sentence｜>', '<|EOT|>'],
  },
  {
    name: 'Seed-Coder',
    order: 'spm',
    formats: {
      spm: ['<[fim-suffix]>', SUFFIX, '<[fim-prefix]>', PREFIX, '<[fim-middle]>'],
    },
    stops: ['<[end▁of▁sentence]>'],
  },
  {
    name: 'Codestral',
    order: 'spm',
    formats: { spm: ['[SUFFIX]', SUFFIX, '[PREFIX]', PREFIX] },
    stops: [],
  },
  {
    name: 'anchor-code',
    order: 'spm',
    formats: { spm: ['<|fim_suffix|>', SUFFIX, '<|fim_prefix|>', PREFIX] },
    stops: ['<|endoftext|>'],
  },
];

/** The marks of a format: all but the places of the texts. */
export function marksOf(format: FimFormat): (string | number)[] {
  return format.filter((part) => part !== PREFIX && part !== SUFFIX);
}

/** Every text that is a mark or a stop somewhere: never text, whatever a tokenizer's flags say. */
export const fimTokens: readonly string[] = fimFamilies.flatMap(({ formats, stops }) => [
  ...stops,
  ...Object.values(formats).flatMap((format) => marksOf(format) as string[]),
]);
