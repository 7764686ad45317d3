/** Sliding windows: which layers have one. */
import { AnchorError } from '../errors.js';
import type { Fields } from '../fields.js';
import { quote } from '../show.js';

/** As in the contract: a token sees this many last ones, itself included; 0: all. */
const longest = 1 << 28;

/** The window of config.json, 0 where it is null. */
export function readWindow(fields: Fields): number {
  return fields.has('sliding_window') ? fields.integer('sliding_window', 1, longest) : 0;
}

/** One window for all layers. */
export function everyLayer(window: number, layers: number): number[] {
  return new Array<number>(layers).fill(window);
}

/**
 * Windows by `layer_types`, which newer configs list; by `slides` where there is no list.
 * @throws `ERR_MODEL_UNSUPPORTED` for other types, `ERR_MODEL_INVALID`
 */
export function byLayer(
  fields: Fields,
  layers: number,
  window: number,
  slides: (layer: number) => boolean,
): number[] {
  return slidingLayers(fields, layers, slides).map((sliding) => {
    if (!sliding) return 0;
    if (window === 0) throw fields.fail('sliding_window', 'an integer, since layers slide');
    return window;
  });
}

/** (layers) whether a layer has the window */
export function slidingLayers(
  fields: Fields,
  layers: number,
  slides: (layer: number) => boolean,
): boolean[] {
  if (!fields.has('layer_types')) return Array.from({ length: layers }, (_, i) => slides(i));
  const types = fields.texts('layer_types', layers);
  return types.map((type) => {
    if (type === 'sliding_attention') return true;
    if (type === 'full_attention') return false;
    const message = `config.json has layers of the type ${quote(type)}`;
    const cure = 'supported: full_attention, sliding_attention';
    throw new AnchorError('ERR_MODEL_UNSUPPORTED', `${message}; ${cure}`);
  });
}
