// Which addon is taken, and what is said where none can be.
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { findAddon, type Surroundings, version } from '../../lib/binding.js';

const built = fileURLToPath(new URL('../../build/Release/anchorcoder.node', import.meta.url));
const target = `${process.platform}-${process.arch}`;
const here: Surroundings = { target, musl: false };

let root: string;
const local = () => join(root, 'build', 'Release', 'anchorcoder.node');
const carried = () => join(root, 'prebuilds', target, 'anchorcoder.node');

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'anchorcoder-binding-'));
});

afterEach(() => {
  rmSync(root, { recursive: true, force: true });
});

function put(path: string, content: Buffer | string = readFileSync(built)): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return path;
}

// The sentence that is thrown; every one names a cure.
function refusal(surroundings: Surroundings | undefined, expectedVersion = version): string {
  try {
    findAddon(root, expectedVersion, surroundings);
  } catch (error) {
    expect(error).toMatchObject({ name: 'AnchorError', code: 'ERR_ADDON' });
    const { message } = error as Error;
    expect(message).toMatch(/build-native\.mjs|ANCHOR_ADDON/);
    expect(message).not.toContain('\n');
    return message;
  }
  throw new Error('An addon was found');
}

describe('the addon', () => {
  test('is the one of the package where there is no other', () => {
    put(carried());
    expect(findAddon(root, version, here).version).toBe(version);
    expect(findAddon(root, version).version).toBe(version);
  });

  test('that was built here comes first', () => {
    put(carried(), 'none');
    put(local());
    expect(findAddon(root, version, here).version).toBe(version);
  });

  test('that is named comes before both', () => {
    put(carried(), 'none');
    put(local(), 'none');
    const addon = join(root, 'elsewhere.node');
    copyFileSync(built, addon);
    for (const path of [addon, relative('', addon)]) {
      expect(findAddon(root, version, { ...here, addon: path }).version).toBe(version);
    }
  });

  test('that is named must be there', () => {
    put(carried());
    const message = refusal({ ...here, addon: 'gone.node' });
    expect(message).toContain('ANCHOR_ADDON is "gone.node", but nothing is there');
  });

  test('is not named by an empty variable', () => {
    put(carried());
    expect(findAddon(root, version, { ...here, addon: '' }).version).toBe(version);
  });

  test('is not guessed on musl, unless it was built there', () => {
    put(carried());
    expect(refusal({ target: 'linux-x64', musl: true })).toContain('linux-x64 with musl');
    put(local());
    expect(findAddon(root, version, { ...here, musl: true }).version).toBe(version);
  });

  test.each(['linux-arm64', 'darwin-arm64', 'win32-x64'])('is not there for %s', (other) => {
    const message = refusal({ target: other, musl: false });
    expect(message).toContain(`no native addon for ${other}, only for linux-x64`);
  });

  test('that is missing from the package is named', () => {
    expect(refusal({ target: 'linux-x64', musl: false })).toContain(
      join('prebuilds', 'linux-x64', 'anchorcoder.node'),
    );
  });
});

describe('an addon that cannot be loaded', () => {
  test('is named, with the reason', () => {
    put(local(), 'none');
    expect(refusal(here)).toContain(`${local()} cannot be loaded`);
    expect(refusal(here)).toContain('remove it, or build it from source');
  });

  test('on an old C library says so', () => {
    // The loader finds no such version, as an old C library has none of the real one.
    const bytes = readFileSync(built);
    const at = bytes.indexOf('GLIBC_2.27\0');
    expect(at).toBeGreaterThan(0);
    bytes.write('GLIBC_9.27', at);
    put(carried(), bytes);
    const message = refusal(here);
    expect(message).toContain("this system's C library is older than glibc 2.28");
    expect(message).toContain('GLIBC_9.27');
  });

  test('of another version is named', () => {
    put(carried());
    expect(refusal(here, '9.9.9')).toContain(
      `is of version ${version}, but the package is of 9.9.9; install the package again`,
    );
    const named = refusal({ ...here, addon: built }, '9.9.9');
    expect(named).toContain('let ANCHOR_ADDON name the addon of this version');
  });
});
