/** Looks for weights that are no numbers. */
import type { CheckWeightsOptions, WeightCheck } from '../types/check.js';
import type { NativeAddon } from '../types/native.js';
import { loadAddon } from './binding.js';
import { fromNative, throwIfAborted } from './errors.js';
import { readModelFolder } from './folder.js';
import { checkFolder, parseOptions } from './options.js';

/**
 * Reads all weights of a model folder and counts those that are NaN or infinite. A model with such
 * weights loads and runs; what it generates means little. Takes as long as reading the files does,
 * beside the JavaScript thread; an abort ends it between two tensors.
 * @throws `ERR_INVALID_ARGUMENT`, `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_INVALID`,
 * `ERR_MODEL_UNSUPPORTED`, `ERR_ADDON`; the signal's reason
 */
export async function checkWeights(
  folder: string,
  options?: CheckWeightsOptions,
): Promise<WeightCheck> {
  const path = checkFolder(folder);
  const { signal } = parseOptions.checkWeights(options);
  throwIfAborted(signal);
  const { files, tensors, parameters } = await readModelFolder(path, signal);
  const addon = loadAddon();
  const result: WeightCheck = { tensors: tensors.length, elements: parameters, nonFinite: [] };
  for (const { name, dtype, file: number, offset, length, parts } of tensors) {
    let [nan, infinite] = [0, 0];
    for (const part of parts ?? [{ offset, length }]) {
      throwIfAborted(signal);
      const file = files[number] as (typeof files)[number];
      const found = await count(addon, { ...file, dtype, ...part });
      nan += found.nan;
      infinite += found.infinite;
    }
    if (nan + infinite > 0) result.nonFinite.push({ name, nan, infinite });
  }
  return result;
}

async function count(addon: NativeAddon, spec: Parameters<NativeAddon['countNonFinite']>[0]) {
  try {
    return await addon.countNonFinite(spec);
  } catch (error) {
    throw fromNative(error);
  }
}
