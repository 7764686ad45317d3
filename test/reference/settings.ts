/** What the reference needs to know of a policy, and how the public words translate to it. */
import type { AnchorOptions, CachePolicy } from '../../types/api.js';

export interface Settings {
  anchorIds: readonly number[];
  /** Position 0 is an anchor of the mask whatever its id. */
  firstIsAnchor: boolean;
  /** False (AnLLM): an anchor sees its own line only. */
  anchorSeesAnchors: boolean;
  line: boolean;
  /** Last tokens that are visible, the token itself included; 0: none. */
  window: number;
  sinks: number;
  /** (layers) */
  dense: readonly boolean[];
  sourceLayer: number | null;
  /** Consumers of the source layer are the layers above this one. */
  consumersAbove: number;
  multiHeadPositions: boolean;
}

/** Every layer dense, no anchors at all: an ordinary transformer. */
export function plainSettings(layers: number): Settings {
  return {
    anchorIds: [],
    firstIsAnchor: false,
    anchorSeesAnchors: true,
    line: false,
    window: 0,
    sinks: 0,
    dense: Array.from({ length: layers }, () => true),
    sourceLayer: null,
    consumersAbove: 0,
    multiHeadPositions: false,
  };
}

function listed(tokens: AnchorOptions['tokens']): readonly number[] {
  if (tokens === 'newline') throw new Error('the reference has no tokenizer: list the ids');
  return tokens ?? [];
}

/** Which layers are dense: a list, or every `per`-th. */
export function denseLayers(layers: number, options: AnchorOptions): boolean[] {
  const { per, denseLayers: list } = options;
  return Array.from({ length: layers }, (_, l) => {
    if (list) return list.includes(l);
    return typeof per === 'number' && l % per === 0;
  });
}

function anchorSettings(layers: number, options: AnchorOptions, line: boolean): Settings {
  return {
    anchorIds: listed(options.tokens),
    firstIsAnchor: true,
    anchorSeesAnchors: true,
    line,
    window: options.window ?? 0,
    sinks: options.sinks ?? 1,
    dense: denseLayers(layers, options),
    sourceLayer: options.sourceLayer ?? null,
    consumersAbove: options.consumersAbove ?? 0,
    multiHeadPositions: options.multiHeadPositions ?? true,
  };
}

/** A public policy on a model that was trained with `trained` anchors (undefined: with none). */
export function settingsOf(policy: CachePolicy, layers: number, trained?: AnchorOptions): Settings {
  const plain = plainSettings(layers);
  switch (policy.kind) {
    case 'full':
      // Only the mask changes: keys of anchors turn as trained and consumers read two layers.
      return trained ? { ...anchorSettings(layers, trained, true), dense: plain.dense } : plain;
    case 'window': {
      const { size, sinks = 4 } = policy;
      return { ...plain, window: size, sinks, dense: denseLayers(layers, policy) };
    }
    case 'anchor': {
      const { kind: _, line = true, ...own } = policy;
      const { per, denseLayers: list, ...rest } = trained ?? {};
      // The two spellings of the dense layers replace each other.
      const spelled = own.per !== undefined || own.denseLayers !== undefined;
      const layout = spelled ? {} : { per, denseLayers: list };
      return anchorSettings(layers, { ...rest, ...layout, ...own }, line);
    }
    case 'ansan': {
      const anchorIds = listed(policy.tokens ?? trained?.tokens);
      const dense = denseLayers(layers, { per: 'none' });
      return { ...plain, anchorIds, anchorSeesAnchors: false, line: true, dense };
    }
  }
}
