/** Turns a cache policy and a model's anchor settings into what the engine runs. */
import type { AnchorOptions, CachePolicy } from '../types/api.js';
import type { NativePolicy } from '../types/native.js';
import { anchorIds, type ModelAnchors, merge, problemOf } from './anchors.js';
import { AnchorError } from './errors.js';

/** Of AnchorCoder's released models, where nothing else is said. */
const defaultPeriod = 8;
const defaultWindowSinks = 4;

/** A policy without its ids, so that it can be known before a tokenizer is. */
export type Layout = Omit<NativePolicy, 'anchorIds' | 'insertedAnchor'> & {
  /** Whose ids are anchors; `null`: none are. */
  tokens: { of: AnchorOptions['tokens'] } | null;
};

type LayerWise = Pick<Layout, 'sourceLayer' | 'consumersAbove'>;

/** The policy of a session that names none. */
export function defaultPolicy(anchors: ModelAnchors): CachePolicy {
  return anchors.trained ? describe({ kind: 'anchor' }, anchors) : { kind: 'full' };
}

/** The policy with every default filled in, for people to read. */
export function describe(policy: CachePolicy, anchors: ModelAnchors): CachePolicy {
  switch (policy.kind) {
    case 'full':
      return { kind: 'full' };
    case 'window':
      return { denseLayers: [], ...clean(policy), sinks: policy.sinks ?? defaultWindowSinks };
    case 'ansan':
      return clean(policy);
    case 'anchor': {
      const { line, settings } = anchorSettings(policy, anchors);
      const { insert, indent, ...words } = settings;
      const { sourceLayer, consumersAbove } = layerWise(settings, anchors.layers);
      const source = sourceLayer < 0 ? { sourceLayer: null } : { sourceLayer, consumersAbove };
      return { kind: 'anchor', line, ...words, ...source };
    }
  }
}

function clean<T extends object>(value: T): T {
  const given = Object.entries(value).filter(([, part]) => part !== undefined);
  return Object.fromEntries(given) as T;
}

function anchorSettings(
  policy: Extract<CachePolicy, { kind: 'anchor' }>,
  anchors: ModelAnchors,
): { line: boolean; settings: AnchorOptions & { window: number; sinks: number } } {
  const { kind, line = true, ...own } = policy;
  const both = problemOf(own, anchors);
  if (both) throw fail(both);
  const merged = merge(anchors.settings, own);
  const dense = merged.per === undefined && merged.denseLayers === undefined;
  const settings = {
    ...(dense ? { per: defaultPeriod } : {}),
    multiHeadPositions: anchors.trained,
    ...merged,
    window: merged.window ?? 0,
    sinks: merged.sinks ?? 1,
  };
  const problem = problemOf(settings, anchors);
  if (problem) throw fail(problem);
  if (!line && settings.window === 0) {
    throw fail(
      'Expected "window" to be 1 or more where "line" is false: no token would see itself',
    );
  }
  return { line, settings };
}

function fail(problem: string): AnchorError {
  return new AnchorError('ERR_INVALID_ARGUMENT', `${problem} (option "policy")`);
}

/** @throws `ERR_INVALID_ARGUMENT` */
export function layoutOf(policy: CachePolicy, anchors: ModelAnchors): Layout {
  const { layers, settings, trained } = anchors;
  const off: LayerWise = { sourceLayer: -1, consumersAbove: 0 };
  // Weights that were trained with anchor rows and layer-wise attention expect them under any
  // policy that has room for them.
  const kept = trained ? layerWise(settings, layers) : off;
  const common = {
    firstIsAnchor: false,
    anchorSeesAnchors: true,
    line: false,
    window: 0,
    sinks: 0,
    multiHeadPositions: false,
    tokens: null,
  };
  switch (policy.kind) {
    case 'full':
      return {
        ...common,
        ...kept,
        firstIsAnchor: true,
        line: true,
        dense: new Uint8Array(layers).fill(1),
        multiHeadPositions: trained && (settings.multiHeadPositions ?? true),
        tokens: trained || anchors.insertId >= 0 ? { of: settings.tokens } : null,
      };
    case 'window': {
      const { size: window, sinks = defaultWindowSinks, denseLayers = [] } = policy;
      const problem = problemOf({ denseLayers }, anchors);
      if (problem) throw fail(problem);
      return checked({
        ...common,
        ...kept,
        window,
        sinks,
        dense: denseOf({ denseLayers }, layers),
      });
    }
    case 'anchor': {
      const { line, settings: own } = anchorSettings(policy, anchors);
      return checked({
        ...layerWise(own, layers),
        firstIsAnchor: true,
        anchorSeesAnchors: true,
        line,
        window: own.window,
        sinks: own.sinks,
        dense: denseOf(own, layers),
        multiHeadPositions: own.multiHeadPositions ?? false,
        tokens: { of: own.tokens },
      });
    }
    case 'ansan': {
      const problem = problemOf({ tokens: policy.tokens }, anchors);
      if (problem) throw fail(problem);
      return {
        ...common,
        ...off,
        anchorSeesAnchors: false,
        line: true,
        dense: new Uint8Array(layers),
        tokens: { of: policy.tokens ?? settings.tokens },
      };
    }
  }
}

/** What the engine runs. @throws `ERR_INVALID_ARGUMENT`, `ERR_NO_TOKENIZER` */
export function nativePolicy(policy: CachePolicy, anchors: ModelAnchors): NativePolicy {
  const { tokens, ...layout } = layoutOf(policy, anchors);
  let ids = tokens ? anchorIds(tokens.of, anchors) : new Uint32Array();
  if (policy.kind === 'ansan' && !Array.isArray(policy.tokens)) {
    // AnLLM keeps no first token, unless the caller lists it.
    ids = ids.filter((id) => id !== anchors.bosTokenId);
  }
  return { ...layout, anchorIds: ids, insertedAnchor: anchors.insertId };
}

function layerWise(settings: AnchorOptions, layers: number): LayerWise {
  const { sourceLayer, consumersAbove } = settings;
  const above = consumersAbove ?? sourceLayer ?? 0;
  // A bound above all layers is how configs switch the mechanism off.
  if (typeof sourceLayer !== 'number' || above >= layers - 1) {
    return { sourceLayer: -1, consumersAbove: 0 };
  }
  return { sourceLayer, consumersAbove: above };
}

function denseOf({ per, denseLayers }: AnchorOptions, layers: number): Uint8Array {
  const isDense = (layer: number) =>
    denseLayers ? denseLayers.includes(layer) : typeof per === 'number' && layer % per === 0;
  return Uint8Array.from({ length: layers }, (_, layer) => (isDense(layer) ? 1 : 0));
}

// A dense consumer sees rows of the source layer that an anchored source would have dropped.
function checked(layout: Layout): Layout {
  const { sourceLayer, consumersAbove, dense } = layout;
  if (sourceLayer < 0 || dense[sourceLayer]) return layout;
  const consumer = dense.findIndex((isDense, layer) => isDense === 1 && layer > consumersAbove);
  if (consumer < 0) return layout;
  throw fail(
    `Expected the source layer ${sourceLayer} to be dense, since its consumer ${consumer} is`,
  );
}
