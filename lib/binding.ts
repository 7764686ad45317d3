/** Finds the native addon: a local build first, then the one that the package carries. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { NativeAddon } from '../types/native.js';
import { AnchorError } from './errors.js';

const require = createRequire(import.meta.url);
// By its own name, since the path to package.json differs between lib/ and dist/lib/.
const manifest = require.resolve('anchorcoder/package.json');

/** The version of this package. */
export const version: string = (require(manifest) as { version: string }).version;

let loaded: NativeAddon | undefined;

/** The addon of this process. @throws `ERR_ADDON` with the cure in its message */
export function loadAddon(): NativeAddon {
  loaded ??= findAddon(dirname(manifest), version);
  return loaded;
}

/** As {@link loadAddon}, for a package at `root`. */
export function findAddon(root: string, expectedVersion: string): NativeAddon {
  const target = `${process.platform}-${process.arch}`;
  const paths = [
    join(root, 'build', 'Release', 'anchorcoder.node'),
    join(root, 'prebuilds', target, 'anchorcoder.node'),
  ];
  const path = paths.find((candidate) => existsSync(candidate));
  const build =
    'build it with: npm install --no-save node-gyp node-addon-api && ' +
    `node ${join(root, 'scripts', 'build-native.mjs')} (needs python3, make and g++ 12)`;
  if (path === undefined) {
    const message = `anchorcoder has no native addon for ${target} at ${paths.join(' or ')}`;
    throw new AnchorError('ERR_ADDON', `${message}; ${build}`);
  }
  const addon = open(path, build);
  if (addon.version !== expectedVersion) {
    const message =
      `${path} is of version ${addon.version}, but the package of ${expectedVersion}; ` +
      `remove it and install the package again, or ${build}`;
    throw new AnchorError('ERR_ADDON', message);
  }
  return addon;
}

function open(path: string, build: string): NativeAddon {
  try {
    return require(path) as NativeAddon;
  } catch (cause) {
    // Mostly a C library that is older than the one the addon was linked with.
    const message = `${path} cannot be loaded (${(cause as Error).message}); ${build}`;
    throw new AnchorError('ERR_ADDON', message, { cause });
  }
}
