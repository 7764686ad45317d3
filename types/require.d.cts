/**
 * The interface for `require()`, under TypeScript's settings that know no `require()` of ESM: every
 * export of lib/index.ts.
 */
import type * as anchorcoder from '../dist/lib/index.js' with { 'resolution-mode': 'import' };

export type * from '../dist/types/api.js' with { 'resolution-mode': 'import' };
export type AnchorError = anchorcoder.AnchorError;
export declare const AnchorError: typeof anchorcoder.AnchorError;
export declare const checkWeights: typeof anchorcoder.checkWeights;
export declare const compare: typeof anchorcoder.compare;
export declare const devices: typeof anchorcoder.devices;
export declare const estimate: typeof anchorcoder.estimate;
export declare const loadModel: typeof anchorcoder.loadModel;
export declare const version: typeof anchorcoder.version;
