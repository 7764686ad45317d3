// The package's outside: its name resolves to the build, and the addon loads.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { describe, expect, test } from '@jest/globals';
import * as all from 'anchorcoder';
import { version as sourceVersion } from '../../lib/index.js';

const require = createRequire(import.meta.url);

const { version } = all;

describe('the package', () => {
  test('tells its version, built and from source', () => {
    const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
    const { version: expected } = JSON.parse(text) as { version: string };
    expect(version).toBe(expected);
    expect(sourceVersion).toBe(expected);
  });

  test('has an addon of the same version that loads', () => {
    const addon = require('../../build/Release/anchorcoder.node') as { version: string };
    expect(addon.version).toBe(version);
  });

  test('tells the types of all that require() gives', () => {
    const text = readFileSync(new URL('../../types/require.d.cts', import.meta.url), 'utf8');
    const declared = [...text.matchAll(/export declare const (\w+)/g)].map(([, name]) => name);
    expect(declared.sort()).toEqual(Object.keys(all).sort());
  });

  test('can be used with `using` under the test runner', () => {
    let closed = 0;
    {
      using resource = { [Symbol.dispose]: () => void closed++ };
      expect(resource).toBeDefined();
    }
    expect(closed).toBe(1);
  });
});
