/**
 * Reads a LoRA adapter (arXiv 2106.09685) as PEFT saves it: `adapter_config.json`,
 * `adapter_model.safetensors` and, for anchors that were trained with it, `anchors.json` with the
 * words of config.json's block. The addon merges it into copies of the matrices that it changes.
 */
import { join, resolve } from 'node:path';
import type { NativeLora, NativeTensor } from '../types/native.js';
import { AnchorError } from './errors.js';
import type { ExpectedTensor } from './families/family.js';
import { Fields } from './fields.js';
import { readJson, requireFolder } from './files.js';
import { isJson, type Json } from './json.js';
import { adapterName, readWeightFile, type TensorEntry } from './safetensors.js';
import { brief, quote, show } from './show.js';
import { placeTensor } from './tensors.js';

const weightsName = 'adapter_model.safetensors';
const anchorsName = 'anchors.json';
/** What PEFT puts before the names of modules. */
const prefix = 'base_model.model.';
const maxRank = 65_536;

/** Settings that change more than two matrices beside a third; PEFT's words, off or absent here. */
const otherSettings = [
  'use_dora',
  'use_qalora',
  'lora_bias',
  'fan_in_fan_out',
  'modules_to_save',
  'trainable_token_indices',
  'layer_replication',
  'target_parameters',
  'alora_invocation_tokens',
  'use_bdlora',
  'arrow_config',
  'corda_config',
  'kasa_config',
  'monteclora_config',
  'velora_config',
] as const;

type Factor = 'lora_A' | 'lora_B';

/** An adapter's files, checked against themselves. */
export class Adapter {
  readonly #used = new Set<string>();

  private constructor(
    /** Absolute. */
    readonly path: string,
    readonly file: { path: string; size: number },
    /** The block of anchor settings, undefined without one. */
    readonly anchors: Json | undefined,
    private readonly fields: Fields,
    private readonly tensors: ReadonlyMap<string, TensorEntry>,
  ) {}

  /** @throws `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED` */
  static async read(folder: string): Promise<Adapter> {
    const path = resolve(folder);
    await requireFolder(path);
    const json = await readJson(path, adapterName);
    if (!json) {
      const message = `"${path}" has no ${adapterName}, so it is no adapter`;
      throw new AnchorError('ERR_MODEL_NOT_FOUND', message);
    }
    const fields = new Fields(json, adapterName);
    checkKind(fields);
    const weights = await readWeightFile(path, weightsName);
    if (!weights) {
      const message = `"${path}" holds no ${weightsName}; adapters are read from safetensors only`;
      throw new AnchorError('ERR_MODEL_NOT_FOUND', message);
    }
    const anchors = await readJson(path, anchorsName);
    const file = { path: join(path, weightsName), size: weights.size };
    return new Adapter(path, file, anchors, fields, weights.tensors);
  }

  /**
   * Its change of a tensor that the model's files have under `name`, undefined for none. `file`:
   * the number of the adapter's file.
   * @throws `ERR_MODEL_INVALID`, `ERR_MODEL_UNSUPPORTED`
   */
  loraOf(wanted: ExpectedTensor, name: string, file: number): NativeLora | undefined {
    if (!name.endsWith('.weight')) return undefined;
    const module = name.slice(0, -'.weight'.length);
    const a = this.#take(module, 'lora_A');
    const b = this.#take(module, 'lora_B');
    if (!a && !b) return undefined;
    const [rows, cols] = wanted.source?.shape ?? wanted.shape;
    if (!a || !b || wanted.shape.length !== 2 || rows === undefined || cols === undefined) {
      throw this.#broken(`expected both factors of a matrix for ${quote(module)}`);
    }
    const rank = this.#setting(module, 'r', 'rank_pattern', 8);
    const scale = this.#scale(module, rank);
    const place = (factor: Factor, shape: number[], entry: TensorEntry): NativeTensor => {
      const inFile = `${prefix}${module}.${factor}.weight`;
      // The rows of b are those of the matrix, wherever a family takes them from.
      const own = factor === 'lora_B' && wanted.source?.rows;
      const source = own ? { name: inFile, shape, rows: own } : { name: inFile };
      const [count = 0] = factor === 'lora_B' ? wanted.shape : shape;
      const part = { name: inFile, shape: [count, shape[1] as number], source };
      return placeTensor(part, { ...entry, file }, `${adapterName} and the model`);
    };
    return {
      a: place('lora_A', [rank, cols], a),
      b: place('lora_B', [rows, rank], b),
      scale,
    };
  }

  /** @throws `ERR_MODEL_INVALID` unless everything in the file was asked for */
  checkUsed(): void {
    // Copies of the model's own matrices, which PEFT saves where an embedding or head is changed.
    const isCopy = (name: string) => name.endsWith('.base_layer.weight');
    const left = [...this.tensors.keys()].find((name) => !this.#used.has(name) && !isCopy(name));
    if (left === undefined) return;
    const kinds = /lora_(magnitude|embedding)/.test(left) ? 'of a kind that is not merged' : '';
    throw this.#broken(
      `expected every tensor to change a matrix of the model, but ${quote(left)} is ` +
        (kinds || 'of none that this model has'),
    );
  }

  #take(module: string, factor: Factor): TensorEntry | undefined {
    const name = `${prefix}${module}.${factor}.weight`;
    const entry = this.tensors.get(name);
    if (entry) this.#used.add(name);
    return entry;
  }

  #scale(module: string, rank: number): number {
    const alpha = this.#setting(module, 'lora_alpha', 'alpha_pattern', 8);
    return alpha / (this.fields.boolean('use_rslora', false) ? Math.sqrt(rank) : rank);
  }

  /** A number that a pattern may replace for some modules. */
  #setting(module: string, key: string, patterns: string, otherwise: number): number {
    const general = new Fields({ [key]: this.fields.json[key] ?? otherwise }, adapterName);
    const own = Object.entries(this.fields.child(patterns).json).find(([name]) => {
      if (!/^[\w.]+$/.test(name)) {
        const problem = `has the pattern ${brief(name)}; only plain names of modules are read`;
        throw new AnchorError('ERR_MODEL_UNSUPPORTED', `${adapterName} ${problem}`);
      }
      return module === name || module.endsWith(`.${name}`);
    });
    const fields = own ? new Fields({ [key]: own[1] }, adapterName, `${patterns}.`) : general;
    return key === 'r' ? fields.integer(key, 1, maxRank) : fields.positive(key);
  }

  #broken(problem: string): AnchorError {
    return new AnchorError('ERR_MODEL_INVALID', `${weightsName}: ${problem}`);
  }
}

// Everything else would silently be another model.
function checkKind(fields: Fields): void {
  const unsupported = (key: string, expectation: string) => {
    const value = show(fields.json[key]);
    const message = `${adapterName}: "${key}" is ${value}; supported: ${expectation}`;
    return new AnchorError('ERR_MODEL_UNSUPPORTED', message);
  };
  if (fields.json.peft_type !== 'LORA') throw unsupported('peft_type', '"LORA"');
  if ((fields.json.bias ?? 'none') !== 'none') throw unsupported('bias', '"none"');
  for (const key of otherSettings) {
    const value = fields.json[key] ?? false;
    const isEmpty = Array.isArray(value) ? value.length === 0 : isJson(value) && noKeys(value);
    if (value !== false && !isEmpty) throw unsupported(key, 'off');
  }
  // These change the model's own weights too, unless they were turned into plain LoRA when saved.
  const start = fields.json.init_lora_weights ?? true;
  if (typeof start === 'string' && /^(pissa|olora|corda|loftq|lora_ga)/i.test(start)) {
    throw unsupported('init_lora_weights', 'true, false, "gaussian" and the like');
  }
}

function noKeys(value: Json): boolean {
  return Object.keys(value).length === 0;
}
