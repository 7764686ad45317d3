/** Finds the native addon: a named one, a local build, or the one that the package carries. */
import { closeSync, existsSync, openSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { NativeAddon } from '../types/native.js';
import { AnchorError } from './errors.js';

const require = createRequire(import.meta.url);

/** The version of this package. */
export const version: string = '0.1.0'; // a bundle has no package.json to read; a test compares

/** What `npm pack` puts into the package. */
const prebuilt: readonly string[] = ['linux-x64'];
/** The C library that they need, as the oldest supported Node does. */
const glibcFloor = '2.28';

let loaded: NativeAddon | undefined;

/** The addon of this process. @throws `ERR_ADDON` with the cure in its message */
export function loadAddon(): NativeAddon {
  loaded ??= findAddon(packageRoot(), version);
  return loaded;
}

/** What decides which addon is taken. */
export interface Surroundings {
  /** Value of `ANCHOR_ADDON`: the addon's path. */
  addon?: string;
  /** Platform and processor, as in `linux-x64`. */
  target: string;
  /** Whether node runs on musl, the C library of Alpine. */
  musl: boolean;
}

function surroundings(): Surroundings {
  const target = `${process.platform}-${process.arch}`;
  return { addon: process.env.ANCHOR_ADDON, target, musl: runsOnMusl() };
}

// An executable names its loader near its beginning.
function runsOnMusl(): boolean {
  if (process.platform !== 'linux') return false;
  try {
    const file = openSync(process.execPath, 'r');
    const head = Buffer.alloc(4096);
    readSync(file, head, 0, head.length, 0);
    closeSync(file);
    return head.includes('/ld-musl-');
  } catch {
    return false; // replaced while it runs, say
  }
}

/** As {@link loadAddon}, for a package at `root`. */
export function findAddon(
  root: string,
  expectedVersion: string,
  { addon: named, target, musl }: Surroundings = surroundings(),
): NativeAddon {
  const build =
    'build it from source with: npm install --no-save node-gyp node-addon-api && ' +
    `node ${join(root, 'scripts', 'build-native.mjs')} (needs python3, make and g++ 12)`;
  if (named) {
    const path = resolve(named);
    const cure = 'let ANCHOR_ADDON name the addon of this version, or unset it';
    if (existsSync(path)) return open(path, expectedVersion, cure);
    throw new AnchorError('ERR_ADDON', `ANCHOR_ADDON is "${named}", but nothing is there; ${cure}`);
  }
  const local = join(root, 'build', 'Release', 'anchorcoder.node');
  if (existsSync(local)) return open(local, expectedVersion, `remove it, or ${build}`);
  const carried = join(root, 'prebuilds', target, 'anchorcoder.node');
  const refuse = (reason: string) => new AnchorError('ERR_ADDON', `${reason}; ${build}`);
  // Loaded into another C library it could end the process instead of failing.
  if (prebuilt.includes(target) && musl) {
    throw refuse(`anchorcoder has no native addon for ${target} with musl, only with glibc`);
  }
  if (existsSync(carried)) return open(carried, expectedVersion, build);
  if (prebuilt.includes(target)) throw refuse(`anchorcoder has no native addon at ${carried}`);
  throw refuse(`anchorcoder has no native addon for ${target}, only for ${prebuilt.join(', ')}`);
}

function open(path: string, expectedVersion: string, cure: string): NativeAddon {
  let addon: NativeAddon;
  try {
    addon = require(path) as NativeAddon;
  } catch (cause) {
    const message = `${path} cannot be loaded: ${reasonOf(cause as Error)}; ${cure}`;
    throw new AnchorError('ERR_ADDON', message, { cause });
  }
  if (addon.version === expectedVersion) return addon;
  const has = `${path} is of version ${addon.version}, but the package is of ${expectedVersion}`;
  throw new AnchorError('ERR_ADDON', `${has}; install the package again, or ${cure}`);
}

function reasonOf({ message }: Error): string {
  const [first = ''] = message.split('\n');
  if (/version [`']?GLIBC_/.test(first)) {
    return `this system's C library is older than glibc ${glibcFloor} (${first})`;
  }
  if (/different Node\.js version|self-register/.test(message)) {
    return 'it was built for another version of Node';
  }
  return first;
}

// By its own name, since the way up differs between lib/ and dist/lib/. A bundle may lie where
// the package is not installed: then its own folder is as good as any.
function packageRoot(): string {
  try {
    return dirname(require.resolve('anchorcoder/package.json'));
  } catch {
    return dirname(fileURLToPath(import.meta.url));
  }
}
