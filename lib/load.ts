/** Opens a model folder: headers first, then the tokenizer, then the addon maps the weights. */
import type { LoadOptions, Model, ModelInfo } from '../types/api.js';
import type { NativeAddon, NativeModel, NativeModelSpec } from '../types/native.js';
import { anchorIds, type ModelAnchors, resolveAnchors } from './anchors.js';
import { loadAddon } from './binding.js';
import { nativeConfig } from './engine.js';
import { AnchorError, abortReason, fromNative, throwIfAborted } from './errors.js';
import { fimOrder } from './fill-in-the-middle.js';
import { type ModelFolder, readModelFolder } from './folder.js';
import { ModelHandle } from './model.js';
import { checkFolder, type Parsed, parseOptions } from './options.js';
import { defaultPolicy, layoutOf } from './policy.js';
import { identityOf } from './snapshot/identity.js';
import { openTokenizer } from './tokenizer/tokenizer.js';

/**
 * Loads the model in a folder of the Hugging Face layout (`config.json`, `*.safetensors`,
 * `tokenizer.json`). Weights are mapped, not read, so the files have to stay as they are.
 * @throws `ERR_INVALID_ARGUMENT`, `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_INVALID`,
 * `ERR_MODEL_UNSUPPORTED`, `ERR_OUT_OF_MEMORY`, `ERR_DEVICE`, `ERR_ADDON`; the signal's reason
 */
export async function loadModel(folder: string, options?: LoadOptions): Promise<Model> {
  return openModel(folder, options, loadAddon);
}

/** As {@link loadModel}, with the addon from elsewhere. */
export async function openModel(
  folder: string,
  options: LoadOptions | undefined,
  addon: () => NativeAddon,
): Promise<Model> {
  const path = checkFolder(folder);
  const parsed = parseOptions.load(options);
  const { signal } = parsed;
  throwIfAborted(signal);
  const model = await readModelFolder(path, signal, parsed.adapter);
  throwIfAborted(signal);
  const { config, json } = model;
  const tokenizer = await openTokenizer(model.path, config.vocabSize);
  try {
    throwIfAborted(signal);
    const anchors = resolveAnchors(json, parsed.anchors, config, model.bosTokenId, tokenizer);
    checkDefault(anchors);
    const native = addon();
    const spec = nativeSpec(model, parsed, native);
    const identity = await identityOf(model);
    throwIfAborted(signal);
    const loaded = await loadNative(native, spec, signal);
    try {
      const info = infoOf(model, parsed, spec, loaded, anchors);
      return new ModelHandle(loaded, info, anchors, identity);
    } catch (error) {
      loaded.dispose();
      throw error;
    }
  } catch (error) {
    tokenizer?.dispose();
    throw error;
  }
}

/** What `loadModel` would make of a folder. */
export interface Inspection {
  info: ModelInfo;
  anchors: ModelAnchors;
  /** Ids that are anchors by default; undefined where nothing says which. */
  anchorIds: number[] | undefined;
  files: NativeModelSpec['files'];
}

/** Headers and tokenizer as {@link loadModel} reads them, without touching the weights. */
export async function inspectFolder(
  folder: string,
  options?: LoadOptions,
  addon: () => NativeAddon = loadAddon,
): Promise<Inspection> {
  const parsed = parseOptions.load(options);
  const model = await readModelFolder(checkFolder(folder), parsed.signal, parsed.adapter);
  const { config, json, bosTokenId } = model;
  const tokenizer = await openTokenizer(model.path, config.vocabSize);
  try {
    const anchors = resolveAnchors(json, parsed.anchors, config, bosTokenId, tokenizer);
    checkDefault(anchors);
    const native = addon();
    const spec = nativeSpec(model, parsed, native);
    const engine = {
      instructionSet: spec.instructionSet || (native.instructionSets().at(-1) as string),
      threads: spec.threads || native.defaultThreads(),
    };
    const named = anchors.settings.tokens !== undefined || tokenizer !== undefined;
    return {
      info: infoOf(model, parsed, spec, engine, anchors),
      anchors,
      anchorIds: named ? [...anchorIds(anchors.settings.tokens, anchors)] : undefined,
      files: model.files,
    };
  } finally {
    tokenizer?.dispose();
  }
}

// Now rather than at the first session: settings that nothing can run with are the folder's fault.
function checkDefault(anchors: ModelAnchors): void {
  layoutOf(defaultPolicy(anchors), anchors);
}

function nativeSpec(
  { config, files, tensors, weightType }: ModelFolder,
  { compute, threads = 0, maxMemory = 0, prefixCache }: Parsed<'load'>,
  addon: NativeAddon,
): NativeModelSpec {
  const mode = compute ?? (weightType === 'BF16' ? 'bf16' : 'exact');
  return {
    files,
    tensors,
    config: nativeConfig(config, mode),
    compute: mode,
    threads,
    instructionSet: instructionSet(addon),
    maxMemory,
    prefixCacheBytes: prefixCache?.bytes ?? 0,
  };
}

// For tests of every instruction set.
function instructionSet(addon: NativeAddon): string {
  const wanted = process.env.ANCHOR_ISA ?? '';
  const known = addon.instructionSets();
  if (wanted === '' || known.includes(wanted)) return wanted;
  const message = `ANCHOR_ISA is "${wanted}", but this machine runs ${known.join(', ')}`;
  throw new AnchorError('ERR_DEVICE', message);
}

// The addon cannot be stopped while it maps and prepares; what comes too late is given back.
function loadNative(
  addon: NativeAddon,
  spec: NativeModelSpec,
  signal: AbortSignal | undefined,
): Promise<NativeModel> {
  return new Promise((resolve, reject) => {
    let aborted = false;
    const abort = () => {
      aborted = true;
      if (signal) reject(abortReason(signal));
    };
    signal?.addEventListener('abort', abort, { once: true });
    const load = async () => addon.loadModel(spec); // refuses a bad spec at once
    load()
      .then(
        (model) => (aborted ? model.dispose() : resolve(model)),
        (error: unknown) => reject(fromNative(error)),
      )
      .finally(() => signal?.removeEventListener('abort', abort));
  });
}

function infoOf(
  model: ModelFolder,
  { generationConfig }: Parsed<'load'>,
  spec: NativeModelSpec,
  native: Pick<NativeModel, 'instructionSet' | 'threads'>,
  anchors: ModelAnchors,
): ModelInfo {
  const { config } = model;
  const ignores = generationConfig === 'ignore';
  return {
    folder: model.path,
    adapter: model.adapter,
    architecture: config.architecture,
    parameters: model.parameters,
    layers: config.layers,
    hiddenSize: config.hiddenSize,
    intermediateSize: config.intermediateSize,
    heads: config.heads,
    kvHeads: config.kvHeads,
    headDim: config.headDim,
    vocabSize: config.vocabSize,
    contextLength: config.contextLength,
    weightType: model.weightType,
    weightBytes: model.weightBytes,
    compute: spec.compute,
    device: 'cpu',
    instructionSet: native.instructionSet,
    threads: native.threads,
    eosTokenIds: model.eosTokenIds,
    bosTokenId: model.bosTokenId,
    generationDefaults: ignores ? {} : model.generationDefaults,
    hasTokenizer: anchors.tokenizer !== undefined,
    chatTemplates: [...(anchors.tokenizer?.chatFiles().templates.keys() ?? [])],
    fillInTheMiddle: fimOrder(anchors),
    trainedForAnchors: anchors.trained,
    defaultPolicy: defaultPolicy(anchors),
    warnings: [
      ...model.warnings,
      ...(ignores ? [] : model.generationWarnings),
      ...anchorWarnings(anchors),
    ],
  };
}

function anchorWarnings(anchors: ModelAnchors): string[] {
  const warnings: string[] = [];
  if (!anchors.trained && anchors.asked) {
    warnings.push(
      'This model was not trained for anchors: sessions keep every row unless their policy says ' +
        'otherwise, and { kind: "anchor" } is an approximation',
    );
  }
  if (anchors.insertId >= 0 && !anchors.tokenizer) {
    warnings.push('Without a tokenizer anchors are not forced after newlines, but sampled');
  }
  return warnings;
}
