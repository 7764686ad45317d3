/**
 * Runs code-generating language models inside a Node process, with a cache that anchors keep small.
 *
 * @packageDocumentation
 */
import { createRequire } from 'node:module';

// By its own name, since the path to package.json differs between lib/ and dist/lib/.
const own = createRequire(import.meta.url)('anchorcoder/package.json') as { version: string };

/** The version of this package. */
export const version: string = own.version;
