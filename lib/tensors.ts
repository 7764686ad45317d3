/** Finds the tensors that a model class expects in the weight files. */
import type { ModelInfo } from '../types/api.js';
import type { NativeDType, NativeTensor } from '../types/native.js';
import type { Adapter } from './adapter.js';
import type { ModelConfig } from './config.js';
import { AnchorError } from './errors.js';
import type { ExpectedTensor } from './families/family.js';
import type { TensorEntry, WeightFiles } from './safetensors.js';
import { quote } from './show.js';

type Entry = TensorEntry & { file: number };

/**
 * Checks the tensors of the files against those that the model class expects.
 * @throws `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED`
 */
export function matchTensors(config: ModelConfig, weights: WeightFiles, adapter?: Adapter) {
  const tensors: NativeTensor[] = [];
  const used = new Set<string>();
  let weightBytes = 0;
  let parameters = 0;
  for (const wanted of config.family.tensors(config, (name) => weights.tensors.has(name))) {
    const name = fileName(wanted);
    const entry = weights.tensors.get(name);
    if (!entry) {
      const message = `The weight files hold no tensor "${name}", which config.json implies`;
      throw new AnchorError('ERR_MODEL_INVALID', message);
    }
    used.add(name);
    const tensor = placeTensor(wanted, entry);
    const lora = adapter?.loraOf(wanted, name, weights.files.length);
    if (lora) tensor.lora = lora;
    tensors.push(tensor);
    weightBytes += tensor.length;
    parameters += wanted.shape.reduce((product, size) => product * size, 1);
  }
  adapter?.checkUsed();
  const files = adapter ? [...weights.files, adapter.file] : weights.files;
  const types = new Set(tensors.map(({ dtype }) => dtype));
  const weightType: ModelInfo['weightType'] = types.size > 1 ? 'mixed' : ([...types][0] ?? 'mixed');
  const unused = [...weights.tensors.keys()].filter(
    (name) => !used.has(name) && !config.family.ignores(name, config),
  );
  const warnings = [...weights.warnings];
  if (unused.length > 0) {
    const first = quote(unused[0] as string);
    warnings.push(
      `Not used of the weight files: ${unused.length} tensor(s), the first is ${first}`,
    );
  }
  return { files, tensors, weightType, weightBytes, parameters, warnings };
}

function fileName({ name, source }: ExpectedTensor): string {
  return source?.name ?? name;
}

/**
 * Where the rows lie in the file. `by` names in sentences what implies the shape.
 * @throws `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED`
 */
export function placeTensor(
  wanted: ExpectedTensor,
  entry: Entry,
  by = 'config.json',
): NativeTensor {
  const { name, source } = wanted;
  const shape = [...wanted.shape];
  const common = { name, dtype: typeOf(wanted, entry, by), shape, file: entry.file };
  if (!source?.rows) return { ...common, offset: entry.offset, length: entry.length };
  const rowCount = entry.shape.slice(0, Math.max(1, entry.shape.length - 1));
  const rowBytes = entry.length / rowCount.reduce((product, size) => product * size, 1);
  const parts = source.rows.map(([first, count]) => ({
    offset: entry.offset + first * rowBytes,
    length: count * rowBytes,
  }));
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const { offset } = parts[0] as (typeof parts)[number];
  return parts.length > 1 ? { ...common, offset, length, parts } : { ...common, offset, length };
}

function typeOf(wanted: ExpectedTensor, { shape, dtype }: TensorEntry, by: string): NativeDType {
  const name = fileName(wanted);
  const expected = wanted.source?.shape ?? wanted.shape;
  const same = shape.length === expected.length && expected.every((n, i) => n === shape[i]);
  if (!same) {
    const message =
      `Expected tensor "${name}" to have the shape [${expected.join(', ')}] by ` +
      `${by}, but it has [${shape.join(', ')}]`;
    throw new AnchorError('ERR_MODEL_INVALID', message);
  }
  if (dtype === 'F32' || dtype === 'F16' || dtype === 'BF16') return dtype;
  const message = `Tensor "${name}" is of the type ${dtype}; supported: F32, F16, BF16`;
  throw new AnchorError('ERR_MODEL_UNSUPPORTED', message);
}
