// Snapshots: a restored session goes on as the saved one does, and nothing else is taken for one.
import { execFile, execFileSync, spawnSync } from 'node:child_process';
import {
  lstatSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import type { CachePolicy, GenerateOptions, Model, Session } from '../../types/api.js';
import type { NativeAddon } from '../../types/native.js';
import { forward } from '../reference/model.js';
import { Random } from '../reference/random.js';
import { settingsOf } from '../reference/settings.js';
import {
  EXACT,
  errorOf,
  firstDifference,
  policies,
  randomIds,
  shapes,
  type TinyModel,
  TinyModels,
  texts,
} from './tiny.js';

const models = new TinyModels();
const sizes = shapes['8 heads on 2'] as NonNullable<(typeof shapes)[string]>;
let tiny: TinyModel;
let model: Model;
let folder: string;
beforeAll(async () => {
  tiny = models.make(sizes);
  model = await loadModel(tiny.folder, { compute: 'exact' });
  folder = await mkdtemp(join(tmpdir(), 'anchorcoder-snapshots-'));
});
afterAll(async () => {
  model.dispose();
  models.remove();
  await rm(folder, { recursive: true });
});

const lively: GenerateOptions = {
  maxTokens: 24,
  temperature: 1,
  seed: 3,
  stopTokens: [],
  logprobs: true,
  repetitionPenalty: 1.2,
};

async function generated(session: Session, options = lively) {
  const chunks: [number, number | undefined][] = [];
  for await (const { id, logprob } of session.generate(options)) chunks.push([id, logprob]);
  return chunks;
}

async function read(policy?: CachePolicy, length = 300, seed = 1): Promise<Session> {
  const session = model.createSession(policy ? { policy } : {});
  await session.append(randomIds(new Random(seed), length, 20));
  return session;
}

describe('goes on as the saved session', () => {
  test.each(Object.entries(policies))('%s', async (_, policy) => {
    using other = await loadModel(tiny.folder, { compute: 'exact', threads: 2 });
    for (const cacheType of ['f32', 'int8'] as const) {
      using session = model.createSession({ policy, cacheType, contextLength: 500 });
      await session.append(randomIds(new Random(7), 333, 20));
      const file = join(folder, 'session.snapshot');
      const bytes = await session.snapshot();
      expect(await session.saveSnapshot(file)).toBe(bytes.length);
      expect(Buffer.compare(readFileSync(file), bytes)).toBe(0);
      using fromBytes = await other.restore(bytes);
      using fromFile = await model.restore(file);
      const { bytes: held, ...stats } = session.stats();
      for (const restored of [fromBytes, fromFile]) {
        const { policy: own, contextLength } = restored;
        expect({ policy: own, cacheType: restored.cacheType, contextLength }).toEqual({
          policy: session.policy,
          cacheType,
          contextLength: 500,
        });
        expect(restored.stats()).toMatchObject(stats);
        expect(restored.stats().bytes).toBeLessThanOrEqual(held);
        expect(restored.ids()).toEqual(session.ids());
      }
      const expected = await generated(session);
      expect(await generated(fromBytes)).toEqual(expected);
      expect(await generated(fromFile)).toEqual(expected);
      const ids = randomIds(new Random(8), 40, 9);
      const logits = await session.append(ids, { logits: 'all' });
      for (const restored of [fromBytes, fromFile]) {
        const own = await restored.append(ids, { logits: 'all' });
        expect(firstDifference(own as Float32Array, logits as Float32Array)).toBe(-1);
      }
    }
  });

  test('with what is pending, and a snapshot of a restored session is the same', async () => {
    using session = await read({ kind: 'full' }, 50);
    await generated(session, { ...lively, maxTokens: 5 });
    expect(session.stats().pending).toBe(1);
    const bytes = await session.snapshot();
    using restored = await model.restore(bytes);
    expect(restored.stats().pending).toBe(1);
    expect(Buffer.compare(await restored.snapshot(), bytes)).toBe(0);
    expect(await generated(restored)).toEqual(await generated(session));
  });

  test('an empty session', async () => {
    using session = model.createSession();
    using restored = await model.restore(await session.snapshot());
    expect(restored.position).toBe(0);
    await restored.append([1, 20, 21]);
  });

  test('a restored session goes back, forks and is saved as any other', async () => {
    using session = await read(policies['per 2'] as CachePolicy);
    using restored = await model.restore(await session.snapshot());
    const ids = session.ids();
    const end = ids.lastIndexOf(3) + 1;
    const rest = [...ids.subarray(end), 25, 26];
    for (const one of [session, restored]) one.truncate(end);
    const logits = await session.append(rest, { logits: 'all' });
    const own = await restored.append(rest, { logits: 'all' });
    expect(firstDifference(own as Float32Array, logits as Float32Array)).toBe(-1);
    using fork = restored.fork();
    expect(await generated(fork)).toEqual(await generated(session));
  });
});

test('the state is that of the call, whatever the session does meanwhile', async () => {
  using session = await read();
  using fork = session.fork();
  const saving = session.snapshot();
  await session.append([20, 21, 22]);
  using restored = await model.restore(await saving);
  expect(restored.ids()).toEqual(fork.ids());
  expect(await generated(restored)).toEqual(await generated(fork));
});

describe('other instruction sets', () => {
  const require = createRequire(import.meta.url);
  const addon = require('../../build/Release/anchorcoder.node') as NativeAddon;
  const script = fileURLToPath(new URL('restore-logits.mjs', import.meta.url));
  const run = (name: string, job: object) =>
    promisify(execFile)(process.execPath, [script, JSON.stringify(job)], {
      env: { ...process.env, ANCHOR_ISA: name },
      maxBuffer: 2 ** 26,
    });
  const sets = addon.instructionSets();
  const best = sets.at(-1) as string;
  const policy = policies['per 2, source 2'] as CachePolicy;
  const ids = Object.values(texts(15)).flat();
  const cut = Math.floor(ids.length / 2);

  test.each(sets.flatMap((name) => [[name, best] as const, [best, name] as const]))(
    'saved on %s, restored on %s',
    async (from, to) => {
      const file = join(folder, `${from}-${to}.snapshot`);
      const job = { folder: tiny.folder, policy, file };
      await run(from, { ...job, ids: ids.slice(0, cut) });
      const { stdout } = await run(to, { ...job, rest: ids.slice(cut) });
      const result = JSON.parse(stdout) as { instructionSet: string; logits: number[] };
      expect(result.instructionSet).toBe(to);
      const expected = forward(tiny.reference, ids, settingsOf(policy, tiny.layers));
      const own = expected.slice(-result.logits.length);
      expect(errorOf(Float32Array.from(result.logits), own)).toBeLessThan(EXACT);
    },
  );
});

/** A promise's error, as `code: message`. */
async function failure(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => new Error('no failure'),
    (reason: Error & { code?: string }) => reason,
  );
  return `${(error as { code?: string }).code}: ${error.message}`;
}

/** The snapshot with another header, its checksums made right again. */
function withHeader(bytes: Uint8Array, change: (header: Record<string, unknown>) => void) {
  const buffer = Buffer.from(bytes);
  const length = buffer.readUInt32LE(12);
  const header = JSON.parse(buffer.subarray(16, 16 + length).toString()) as object;
  change(header as Record<string, unknown>);
  const json = Buffer.from(JSON.stringify(header));
  const head = Buffer.concat([buffer.subarray(0, 16), json, Buffer.alloc(4)]);
  head.writeUInt32LE(json.length, 12);
  let checksum = crc32(head.subarray(0, -4));
  head.writeUInt32LE(checksum, head.length - 4);
  const parts = [head];
  for (let at = 20 + length; at < buffer.length; at += 262148) {
    const slice = buffer.subarray(at, Math.min(at + 262144, buffer.length - 4));
    checksum = crc32(slice, checksum);
    const end = Buffer.alloc(4);
    end.writeUInt32LE(checksum);
    parts.push(slice, end);
  }
  return Buffer.concat(parts);
}

describe('refuses', () => {
  let bytes: Uint8Array;
  const memory = () => model.memory();
  beforeAll(async () => {
    using session = await read(policies['per 2'] as CachePolicy);
    bytes = await session.snapshot();
  });

  test('every cut, and every flipped bit', async () => {
    const held = memory();
    const random = new Random(5);
    const cuts = [0, 1, 7, 8, 15, 16, 100, bytes.length - 1];
    for (let i = 0; i < 40; ++i) cuts.push(random.integer(0, bytes.length - 1));
    for (const cut of cuts) {
      expect(await failure(model.restore(bytes.subarray(0, cut)))).toMatch(
        /^ERR_SNAPSHOT_INVALID: .*(no snapshot|cut off)/,
      );
    }
    for (let i = 0; i < 200; ++i) {
      const damaged = bytes.slice();
      // Half of them in the header, where there are most kinds of damage.
      const at = random.integer(0, i % 2 ? bytes.length - 1 : 1000);
      damaged[at] = (damaged[at] as number) ^ (1 << random.integer(0, 7));
      expect(await failure(model.restore(damaged))).toMatch(/^ERR_SNAPSHOT_INVALID: /);
    }
    const longer = Buffer.concat([bytes, Buffer.from([0])]);
    expect(await failure(model.restore(longer))).toMatch(/has something behind its end/);
    expect(memory()).toEqual(held);
  });

  test('slices in another order', async () => {
    using session = await read({ kind: 'full' }, 2000);
    const long = await session.snapshot();
    const start = 20 + Buffer.from(long).readUInt32LE(12);
    expect(long.length).toBeGreaterThan(start + 2 * 262148);
    const swapped = long.slice();
    swapped.set(long.subarray(start, start + 262148), start + 262148);
    swapped.set(long.subarray(start + 262148, start + 2 * 262148), start);
    expect(await failure(model.restore(swapped))).toMatch(/checksum of bytes .* is wrong/);
  });

  test.each<[string, (header: Record<string, unknown>) => void, RegExp]>([
    ['another model', (h) => Object.assign(h, { identity: 'x' }), /of another model, or other w/],
    [
      'another class',
      (h) => Object.assign(h, { identity: 'x', architecture: 'Other' }),
      /of another model, a Other$/,
    ],
    ['another mode', (h) => Object.assign(h, { compute: 'bf16' }), /of compute mode "bf16", but/],
    ['another policy', (h) => Object.assign(h, { policyHash: 'x' }), /means something else/],
    ['a wrong policy', (h) => Object.assign(h, { policy: { kind: 'x' } }), /"policy/],
    [
      'layers that there are not',
      (h) => Object.assign(h, { policy: { kind: 'anchor', denseLayers: [99] } }),
      /denseLayers/,
    ],
    ['no position', (h) => Object.assign(h, { position: -1 }), /"position" to be an integer/],
    [
      'too long a text',
      (h) => Object.assign(h, { position: 2 ** 31 - 1 }),
      /contradicts itself or/,
    ],
    ['more than is there', (h) => Object.assign(h, { cached: 299 }), /contradicts itself/],
    ['more rows saved than cached', (h) => Object.assign(h, { savedRows: 301 }), /301 saved rows/],
    ['a context beyond the model', (h) => Object.assign(h, { contextLength: 1e6 }), /model's is/],
    ['a context too long', (h) => Object.assign(h, { contextLength: 2 ** 40 }), /contextLength/],
    ['too few layers', (h) => Object.assign(h, { released: [0] }), /to have 6 layers, not 1/],
    ['rows that left', (h) => Object.assign(h, { released: [9, 9, 9, 9, 9, 9] }), /contradicts/],
    ['no bytes', (h) => Object.assign(h, { rowBytes: 0 }), /something behind its end/],
    ['a fraction', (h) => Object.assign(h, { rowBytes: 0.5 }), /"rowBytes" to be an integer/],
    ['nothing', (h) => Object.assign(h, { identity: undefined }), /"identity"/],
  ])('%s', async (_, change, message) => {
    const text = await failure(model.restore(withHeader(bytes, change)));
    expect(text).toMatch(/^ERR_SNAPSHOT_INVALID: /);
    expect(text).toMatch(message);
  });

  test('a snapshot whose header is written anew is taken', async () => {
    using restored = await model.restore(withHeader(bytes, () => {}));
    expect(restored.position).toBe(300);
  });

  test('other weights of the same shape, and another format', async () => {
    const changed = models.make(sizes);
    const weights = join(changed.folder, 'model.safetensors');
    const content = readFileSync(weights);
    content.fill(0, content.length - 4096);
    writeFileSync(weights, content);
    using other = await loadModel(changed.folder, { compute: 'exact' });
    expect(await failure(other.restore(bytes))).toMatch(/another model, or other weights/);
    const format = bytes.slice();
    format[8] = 2;
    expect(await failure(model.restore(format))).toMatch(/has format 2, this version reads 1/);
  });

  test('other anchors than those of its model', async () => {
    const anchored = models.make(sizes, { per: 2, anchor_token_ids: [1, 3] });
    using own = await loadModel(anchored.folder, { compute: 'exact' });
    using session = own.createSession();
    await session.append([1, 20, 21]);
    const snapshot = await session.snapshot();
    using same = await own.restore(snapshot);
    expect(same.position).toBe(3);
    using other = await loadModel(anchored.folder, { compute: 'exact', anchors: { tokens: [4] } });
    // The policy that the session had is in the snapshot, word by word.
    using again = await other.restore(snapshot);
    expect(again.policy).toEqual(session.policy);
  });

  test('what is no snapshot at all', async () => {
    expect(await failure(model.restore(5 as never))).toMatch(
      'ERR_INVALID_ARGUMENT: Expected the snapshot to be a Uint8Array or the path of a file',
    );
    expect(await failure(model.restore(join(folder, 'none')))).toMatch(/^ERR_FILE: .*ENOENT/);
    expect(await failure(model.restore(folder))).toMatch(/^ERR_FILE: /);
    expect(await failure(model.restore(new Uint8Array(20)))).toMatch(/do not begin with/);
  });

  test('memory that is transferred away, before the call or after it', async () => {
    const away = (view: ArrayBufferView) =>
      structuredClone(view.buffer, { transfer: [view.buffer as ArrayBuffer] });
    const early = bytes.slice();
    away(early);
    expect(await failure(model.restore(early))).toMatch(
      /^ERR_INVALID_ARGUMENT: .*transferred away/,
    );
    const late = bytes.slice();
    const restoring = model.restore(late);
    away(late);
    expect(await failure(restoring)).toMatch(/^ERR_SNAPSHOT_INVALID: .*became shorter/);
  });
});

describe('files', () => {
  const temporary = () => readdirSync(folder).filter((name) => name.endsWith('.tmp'));

  test('the old file survives a full disk', async () => {
    const file = join(folder, 'kept.snapshot');
    writeFileSync(file, 'old');
    const script = fileURLToPath(new URL('save-limited.mjs', import.meta.url));
    // The limit on a file's size stands in for a disk without room: both fail in mid-write.
    const command = `trap '' XFSZ; ulimit -f 64; exec "$0" "$1" "$2" "$3"`;
    const { stdout } = await promisify(execFile)('bash', [
      '-c',
      command,
      process.execPath,
      script,
      tiny.folder,
      file,
    ]);
    expect(stdout).toMatch(/^ERR_FILE: ".*kept.snapshot" cannot be written: E(FBIG|NOSPC)/);
    expect(readFileSync(file, 'utf8')).toBe('old');
    expect(temporary()).toEqual([]);
  });

  // In a namespace of its own, where anybody may mount.
  const unshare = ['--user', '--map-root-user', '--mount'];
  const mounts = spawnSync('unshare', [...unshare, 'true']).status === 0;
  (mounts ? test : test.skip)('a disk that is full for real', async () => {
    const script = fileURLToPath(new URL('save-limited.mjs', import.meta.url));
    const command = `mount -t tmpfs -o size=128k none "$1" && printf old > "$1/kept.snapshot" &&
      "$0" "$2" "$3" "$1/kept.snapshot"; cat "$1/kept.snapshot"; echo; ls -A "$1"`;
    const names = [process.execPath, folder, script, tiny.folder];
    const args = [...unshare, 'sh', '-c', command, ...names];
    const { stdout } = await promisify(execFile)('unshare', args);
    expect(stdout).toMatch(/^ERR_FILE: ".*" cannot be written: ENOSPC.*\nold\nkept.snapshot\n$/);
  });

  test('an abort leaves nothing, and gives its reason', async () => {
    using session = await read({ kind: 'full' }, 2000);
    const file = join(folder, 'aborted.snapshot');
    const reason = new Error('enough');
    const early = session.saveSnapshot(file, { signal: AbortSignal.abort(reason) });
    await expect(early).rejects.toBe(reason);
    const controller = new AbortController();
    const saving = session.saveSnapshot(file, { signal: controller.signal });
    setImmediate(() => controller.abort(reason));
    await expect(saving).rejects.toBe(reason);
    expect(readdirSync(folder)).not.toContain('aborted.snapshot');
    expect(temporary()).toEqual([]);
    const bytes = await session.snapshot();
    await expect(model.restore(bytes, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const held = model.memory();
    const late = new AbortController();
    const restoring = model.restore(bytes, { signal: late.signal });
    setTimeout(() => late.abort(reason), 1);
    await restoring.then(
      (restored) => restored.dispose(),
      (error) => expect(error).toBe(reason),
    );
    expect(model.memory()).toEqual(held);
  });

  test('a folder that is none, a name that is none', async () => {
    using session = await read();
    const missing = session.saveSnapshot(join(folder, 'none', 'x'));
    expect(await failure(missing)).toMatch(/^ERR_FILE: ".*x" cannot be written: ENOENT/);
    expect(await failure(session.saveSnapshot(''))).toMatch(/^ERR_INVALID_ARGUMENT: /);
    expect(await failure(session.saveSnapshot(folder))).toMatch(/^ERR_FILE: /);
    expect(statSync(folder).isDirectory()).toBe(true);
  });

  test('what is no regular file is left alone, and a link stays one', async () => {
    using session = await read();
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const refusal = /^ERR_FILE: ".*pipe" is not a regular file$/;
    expect(await failure(session.saveSnapshot(pipe))).toMatch(refusal);
    expect(await failure(model.restore(pipe))).toMatch(refusal);
    expect(statSync(pipe).isFIFO()).toBe(true);
    const [file, link] = [join(folder, 'target.snapshot'), join(folder, 'link')];
    writeFileSync(file, 'old', { mode: 0o600 });
    symlinkSync(file, link);
    await session.saveSnapshot(link);
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    using restored = await model.restore(file);
    expect(restored.position).toBe(session.position);
    expect(temporary()).toEqual([]);
  });

  test('a file that becomes shorter while it is read', async () => {
    using session = await read({ kind: 'full' }, 2000);
    const file = join(folder, 'shrinks.snapshot');
    await session.saveSnapshot(file);
    const restoring = model.restore(file);
    truncateSync(file, 5000);
    expect(await failure(restoring)).toMatch(/^ERR_SNAPSHOT_INVALID: .*(shorter|cut off)/);
  });
});

test('a busy session is not saved, a disposed one neither; the model may go meanwhile', async () => {
  const session = await read();
  const reading = session.append([20, 21]);
  expect(await failure(session.snapshot())).toMatch(/^ERR_BUSY: /);
  await reading;
  const bytes = await session.snapshot();
  session.dispose();
  expect(await failure(session.snapshot())).toMatch(/^ERR_DISPOSED: /);
  const short = await loadModel(tiny.folder, { compute: 'exact' });
  const restoring = short.restore(bytes);
  short.dispose();
  expect(await failure(restoring)).toMatch(/^ERR_DISPOSED: /);
  const other = await loadModel(tiny.folder, { compute: 'exact' });
  using restored = await other.restore(bytes);
  const saving = restored.snapshot();
  other.dispose();
  expect(await failure(saving)).toMatch(/^ERR_DISPOSED: /);
});
