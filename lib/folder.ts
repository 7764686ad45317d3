/** Reads everything of a model folder but its weights and its tokenizer. */
import { resolve } from 'node:path';
import type { ModelInfo } from '../types/api.js';
import type { NativeDType, NativeTensor } from '../types/native.js';
import { type ModelConfig, parseConfig } from './config.js';
import { AnchorError, throwIfAborted } from './errors.js';
import type { ExpectedTensor } from './families/family.js';
import { type Json, readJson, requireFolder } from './files.js';
import { readGenerationIds } from './generation.js';
import { readWeightFiles, type TensorEntry, type WeightFiles } from './safetensors.js';

/** A model folder, checked against itself. */
export interface ModelFolder {
  /** Absolute. */
  path: string;
  /** `config.json` as it is. */
  json: Json;
  config: ModelConfig;
  bosTokenId: number | undefined;
  eosTokenIds: number[];
  files: WeightFiles['files'];
  tensors: NativeTensor[];
  weightType: ModelInfo['weightType'];
  weightBytes: number;
  parameters: number;
  warnings: string[];
}

/** @throws `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED` */
export async function readModelFolder(
  folder: string,
  signal: AbortSignal | undefined,
): Promise<ModelFolder> {
  const path = resolve(folder);
  await requireFolder(path);
  const json = await readJson(path, 'config.json');
  if (!json) {
    const message = `"${path}" has no config.json, so it is no model folder`;
    throw new AnchorError('ERR_MODEL_NOT_FOUND', message);
  }
  const config = parseConfig(json);
  const ids = readGenerationIds(await readJson(path, 'generation_config.json'), config);
  throwIfAborted(signal);
  const weights = await readWeightFiles(path);
  return { path, json, config, ...ids, ...matchTensors(config, weights) };
}

/** Checks the tensors of the files against those that the model class expects. */
export function matchTensors(config: ModelConfig, weights: WeightFiles) {
  const tensors: NativeTensor[] = [];
  const expectedTensors = config.family.tensors(config);
  const expectedNames = new Set(expectedTensors.map(({ name }) => name));
  let weightBytes = 0;
  let parameters = 0;
  for (const wanted of expectedTensors) {
    const entry = weights.tensors.get(wanted.name);
    if (!entry) {
      const message = `The weight files hold no tensor "${wanted.name}", which config.json implies`;
      throw new AnchorError('ERR_MODEL_INVALID', message);
    }
    const { shape, file, offset, length, elements } = entry;
    tensors.push({ name: wanted.name, dtype: typeOf(wanted, entry), shape, file, offset, length });
    weightBytes += length;
    parameters += elements;
  }
  const types = new Set(tensors.map(({ dtype }) => dtype));
  const weightType: ModelInfo['weightType'] = types.size > 1 ? 'mixed' : ([...types][0] ?? 'mixed');
  const unused = [...weights.tensors.keys()].filter(
    (name) => !expectedNames.has(name) && !config.family.ignores(name, config),
  );
  const warnings =
    unused.length === 0
      ? []
      : [`Not used of the weight files: ${unused.length} tensor(s), the first is "${unused[0]}"`];
  return { files: weights.files, tensors, weightType, weightBytes, parameters, warnings };
}

function typeOf(wanted: ExpectedTensor, { shape, dtype }: TensorEntry): NativeDType {
  const same = shape.length === wanted.shape.length && wanted.shape.every((n, i) => n === shape[i]);
  if (!same) {
    const message =
      `Expected tensor "${wanted.name}" to have the shape [${wanted.shape.join(', ')}] by ` +
      `config.json, but it has [${shape.join(', ')}]`;
    throw new AnchorError('ERR_MODEL_INVALID', message);
  }
  if (dtype === 'F32' || dtype === 'F16' || dtype === 'BF16') return dtype;
  const message = `Tensor "${wanted.name}" is of the type ${dtype}; supported: F32, F16, BF16`;
  throw new AnchorError('ERR_MODEL_UNSUPPORTED', message);
}
