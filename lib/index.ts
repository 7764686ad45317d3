/**
 * Runs code-generating language models inside a Node process, with a cache that anchors keep small.
 *
 * @packageDocumentation
 */
export type * from '../types/api.js';
export { version } from './binding.js';
export { checkWeights } from './check-weights.js';
export { compare } from './compare/compare.js';
export { devices } from './devices.js';
export { AnchorError } from './errors.js';
export { estimate } from './estimate.js';
export { loadModel } from './load.js';
