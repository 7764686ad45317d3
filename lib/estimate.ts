/** Memory of a model and a session, from the folder's headers alone. */
import type { CacheType, Estimate, EstimateOptions } from '../types/api.js';
import { resolveAnchors } from './anchors.js';
import { readModelFolder } from './folder.js';
import { checkFolder, invalid, parseOptions } from './options.js';
import { defaultPolicy, type Layout, layoutOf } from './policy.js';

/** Anchors per token in TypeScript and Python sources. */
const usualShare = 0.09;
/** Rows that the engine allocates at a time. */
const blockRows = 32;
/** Elements of a value are a multiple of this. */
const valueMultiple = 16;
const elementBytes: Record<CacheType, number> = { f32: 4, bf16: 2, f16: 2, int8: 1 };

/**
 * Computes what a model and one session with `context` tokens would take. Reads no weights and
 * needs neither addon nor tokenizer.
 * @throws `ERR_INVALID_ARGUMENT`, `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_INVALID`,
 * `ERR_MODEL_UNSUPPORTED`
 */
export async function estimate(folder: string, options?: EstimateOptions): Promise<Estimate> {
  const path = checkFolder(folder);
  const parsed = parseOptions.estimate(options);
  const model = await readModelFolder(path, undefined);
  const { config } = model;
  const { context = config.contextLength, anchorShare = usualShare } = parsed;
  if (context > config.contextLength) {
    throw invalid('option "context"', `an integer from 1 to ${config.contextLength}`, context);
  }
  // Which token is inserted needs a tokenizer, and changes nothing here.
  const words = { ...parsed.anchors, insert: null };
  const anchors = resolveAnchors(model.json, words, config, model.bosTokenId, undefined);
  const layout = layoutOf(parsed.policy ?? defaultPolicy(anchors), anchors);
  const { cacheType = model.weightType === 'BF16' ? 'bf16' : 'f32' } = parsed;

  // A key and a value, which is padded; int8 rows have a scale for each.
  const scales = cacheType === 'int8' ? 8 : 0;
  const width = config.headDim + Math.ceil(config.headDim / valueMultiple) * valueMultiple;
  const rowBytes = config.kvHeads * (width * elementBytes[cacheType] + scales);
  const { rows, heldRows, lineEnds } = countRows(layout, config.windows, context, anchorShare);
  const fullRows = config.layers * context;
  return {
    weightBytes: model.weightBytes,
    // The engine keeps a residual row (float32) of each line's end, to go back to it.
    cacheBytes: heldRows * rowBytes + lineEnds * config.hiddenSize * 4,
    fullCacheBytes: config.layers * inBlocks(context) * rowBytes,
    rows,
    fullRows,
    anchorShare: layout.tokens ? anchorShare : 0,
  };
}

function inBlocks(rows: number): number {
  return Math.ceil(rows / blockRows) * blockRows;
}

// Live rows of all layers; rows of all blocks held, the mirror's among them; ends of lines.
function countRows(layout: Layout, windows: readonly number[], context: number, share: number) {
  const anchors = layout.tokens ? Math.ceil(share * context) : 0;
  const kept = Math.min(context, anchors + layout.sinks);
  // The open line at its longest, were all lines of the same length.
  const line = !layout.line ? 0 : anchors > 0 ? Math.ceil(context / anchors) : context;
  let rows = 0;
  let heldRows = 0;
  windows.forEach((ownWindow, layer) => {
    const isDense = layout.dense[layer] === 1;
    const asked = isDense ? context : Math.max(line, layout.window);
    // The model's own window bounds what is not kept.
    const recent = Math.min(context, asked, ownWindow || context);
    const slides = recent < context && (ownWindow > 0 || (!isDense && layout.window > 0));
    rows += isDense ? recent : Math.min(context, kept + recent);
    // A sliding window may begin with the last row of a block.
    heldRows += (isDense ? 0 : inBlocks(kept)) + inBlocks(recent + (slides ? blockRows - 1 : 0));
  });
  const isAnchored = (layer: number) => layout.dense[layer] === 0;
  const { sourceLayer, consumersAbove } = layout;
  const hasMirror =
    sourceLayer >= 0 &&
    layout.dense[sourceLayer] === 1 &&
    windows.some((_, layer) => layer > consumersAbove && isAnchored(layer));
  return {
    rows,
    heldRows: heldRows + (hasMirror ? inBlocks(kept) : 0),
    lineEnds: windows.some((_, layer) => isAnchored(layer)) ? anchors : 0,
  };
}
