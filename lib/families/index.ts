/** The model classes whose folders are understood. A new one is a file here and a line below. */
import { codegen } from './codegen.js';
import type { Family } from './family.js';
import { gemma2 } from './gemma2.js';
import { gemma3, gemma3Nested } from './gemma3.js';
import { llama } from './llama.js';
import { mistral } from './mistral.js';
import { phi3 } from './phi3.js';
import { qwen2 } from './qwen2.js';
import { qwen3 } from './qwen3.js';
import { qwen3Moe } from './qwen3-moe.js';
import { starcoder2 } from './starcoder2.js';

export const families: readonly Family[] = [
  llama,
  mistral,
  qwen2,
  qwen3,
  qwen3Moe,
  starcoder2,
  phi3,
  gemma2,
  gemma3,
  gemma3Nested,
  codegen,
];
