/** Reads everything of a model folder but its weights and its tokenizer. */
import { join, resolve } from 'node:path';
import type { ModelInfo } from '../types/api.js';
import type { NativeTensor } from '../types/native.js';
import { Adapter } from './adapter.js';
import { type ModelConfig, parseConfig } from './config.js';
import { AnchorError, throwIfAborted } from './errors.js';
import { readJson, requireFolder, sizeOf } from './files.js';
import { type GenerationSettings, readGeneration } from './generation.js';
import { isJson, type Json } from './json.js';
import { adapterName, adapterProblem, readWeightFiles, type WeightFiles } from './safetensors.js';
import { matchTensors } from './tensors.js';
import { defined } from './validate.js';

/** A model folder, checked against itself. */
export interface ModelFolder extends GenerationSettings {
  /** Absolute. */
  path: string;
  /** `config.json` as it is, with the anchor settings of an adapter. */
  json: Json;
  config: ModelConfig;
  files: WeightFiles['files'];
  tensors: NativeTensor[];
  weightType: ModelInfo['weightType'];
  weightBytes: number;
  parameters: number;
  warnings: string[];
  /** Folder of the adapter that is merged in. */
  adapter: string | undefined;
}

/** @throws `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED` */
export async function readModelFolder(
  folder: string,
  signal: AbortSignal | undefined,
  adapterFolder?: string,
): Promise<ModelFolder> {
  const path = resolve(folder);
  await requireFolder(path);
  const json = await readJson(path, 'config.json');
  const hasAdapter = (await sizeOf(join(path, adapterName))) !== undefined;
  if (!json && hasAdapter) throw new AnchorError('ERR_MODEL_UNSUPPORTED', adapterProblem(path));
  if (!json) {
    const message = `"${path}" has no config.json, so it is no model folder`;
    throw new AnchorError('ERR_MODEL_NOT_FOUND', message);
  }
  const config = parseConfig(json);
  const generation = readGeneration(await readJson(path, 'generation_config.json'), config);
  throwIfAborted(signal);
  const weights = await readWeightFiles(path);
  const adapter = adapterFolder === undefined ? undefined : await Adapter.read(adapterFolder);
  const matched = matchTensors(config, weights, adapter);
  if (hasAdapter) matched.warnings.push(`Not used: the adapter that ${adapterName} describes`);
  return {
    path,
    json: adapter?.anchors ? withAnchors(json, adapter.anchors) : json,
    config,
    ...generation,
    ...matched,
    adapter: adapter?.path,
  };
}

// The adapter was trained for its own anchors, key by key; the two ways to name dense layers
// replace each other.
function withAnchors(json: Json, anchors: Json): Json {
  const { per, dense_layers, ...others } = isJson(json.anchors) ? json.anchors : {};
  const namesLayers = anchors.per !== undefined || anchors.dense_layers !== undefined;
  const layers = namesLayers ? {} : { per, dense_layers };
  return { ...json, anchors: defined({ ...layers, ...others, ...anchors }) };
}
