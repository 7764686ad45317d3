/**
 * Snapshots of sessions. Integers are little-endian.
 *
 *     "anchsnap"                     8 bytes
 *     format version, header length  uint32 each
 *     header                         JSON, {@link Header}
 *     checksum                       uint32: CRC-32 of everything before
 *     slices                         of 256 KiB, the last one shorter, each followed by the CRC-32
 *                                    of all slices up to it, begun with the checksum before
 *
 * The slices together are the ids (uint32 each), the positions of the saved residual rows (uint32
 * each) and the rows as native/core/snapshot.h streams them. Checksums find damage, not intent: a
 * snapshot decides what its model believes to have read, so take none from where you would take no
 * prompt. Whatever it holds, memory stays safe.
 */
import { createHash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { z } from 'zod';
import type { CachePolicy, CacheType, ComputeMode } from '../../types/api.js';
import type {
  NativeModel,
  NativePolicy,
  NativeRestore,
  NativeSession,
  NativeSnapshot,
} from '../../types/native.js';
import { AnchorError, fromNative, throwIfAborted } from '../errors.js';
import { cacheType, policySchema } from '../options.js';
import { show } from '../show.js';
import { check, integer, oneOf, type Scope } from '../validate.js';

const magic = 'anchsnap';
const formatVersion = 1;
const fixedBytes = 16;
const checksumBytes = 4;
const sliceBytes = 256 * 1024;
const maxCount = 2 ** 31 - 1;
const maxHeaderBytes = 16 * 1024 * 1024;

/** What a snapshot's model and this one must have in common. */
export interface SnapshotModel {
  /** See lib/snapshot/identity.ts. */
  readonly identity: string;
  readonly architecture: string;
  readonly compute: ComputeMode;
  readonly layers: number;
  readonly contextLength: number;
}

export interface SnapshotSettings {
  readonly contextLength: number;
  readonly policy: CachePolicy;
  readonly cacheType: CacheType;
}

const headerSchema = z.object({
  identity: z.string(),
  architecture: z.string(),
  compute: oneOf('exact', 'bf16'),
  /** The policy as users see it, and a hash of what the engine made of it. */
  policy: policySchema,
  policyHash: z.string(),
  cacheType,
  contextLength: integer(1, maxCount),
  position: integer(0, maxCount),
  cached: integer(0, maxCount),
  /** (layers) lowest row that each layer still holds. */
  released: z.array(integer(0, maxCount), { error: 'a list of positions' }),
  savedRows: integer(0, maxCount),
  rowBytes: integer(0),
});

type Header = Omit<z.output<typeof headerSchema>, 'policy'> & { policy: CachePolicy };

const headerScope: Scope = {
  thing: "the snapshot's",
  whole: "the snapshot's header",
  code: 'ERR_SNAPSHOT_INVALID',
};

/** Bytes that can be read from any place. */
export interface Source {
  readonly size: number;
  /** Fills `bytes` from `position` on. */
  read(bytes: Uint8Array, position: number): Promise<void>;
}

function invalid(message: string): AnchorError {
  return new AnchorError('ERR_SNAPSHOT_INVALID', message);
}

/** Hash of what the engine makes of a policy: options of the model are in it, not only words. */
export function hashPolicy(policy: NativePolicy): string {
  const plain = { ...policy, anchorIds: [...policy.anchorIds], dense: [...policy.dense] };
  return createHash('sha256').update(JSON.stringify(plain)).digest('hex');
}

/** A snapshot on its way out. */
export class SnapshotWriter {
  /** Bytes of the whole snapshot. */
  readonly size: number;
  readonly #head: Uint8Array;
  readonly #native: NativeSnapshot;

  constructor(
    native: NativeSnapshot,
    model: SnapshotModel,
    settings: SnapshotSettings,
    policyHash: string,
  ) {
    const { identity, architecture, compute } = model;
    const { policy, cacheType, contextLength } = settings;
    const { ids, cached, released, saved, rowBytes } = native;
    const header: Header = {
      ...{ identity, architecture, compute, policy, policyHash, cacheType, contextLength },
      ...{ position: ids.length, cached, released: [...released] },
      ...{ savedRows: saved.length, rowBytes },
    };
    this.#native = native;
    this.#head = encodeHead(header);
    this.size = this.#head.length + framedBytes(header);
  }

  /** The snapshot piece by piece; each piece is used up before the next is asked for. */
  async *pieces(signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    yield this.#head;
    const { ids, saved } = this.#native;
    const fronts = [bytesOf(ids), bytesOf(saved)];
    let checksum = checksumAt(this.#head, this.#head.length - checksumBytes);
    const piece = new Uint8Array(sliceBytes + checksumBytes);
    for (;;) {
      throwIfAborted(signal);
      const filled = this.#fill(fronts, piece.subarray(0, sliceBytes));
      if (filled === 0) return;
      checksum = crc32(piece.subarray(0, filled), checksum);
      const whole = piece.subarray(0, filled + checksumBytes);
      view(whole).setUint32(filled, checksum, true);
      yield whole;
      await setImmediate(); // others have their turn
    }
  }

  dispose(): void {
    this.#native.dispose();
  }

  #fill(fronts: Uint8Array[], slice: Uint8Array): number {
    let filled = 0;
    for (const [i, front] of fronts.entries()) {
      const part = front.subarray(0, slice.length - filled);
      slice.set(part, filled);
      filled += part.length;
      fronts[i] = front.subarray(part.length);
    }
    try {
      return filled + this.#native.read(slice.subarray(filled));
    } catch (error) {
      throw fromNative(error);
    }
  }
}

/** What {@link readSnapshot} needs of a model. */
export interface RestoreHost {
  readonly model: SnapshotModel;
  readonly native: Pick<NativeModel, 'restore'>;
  nativePolicy(policy: CachePolicy): NativePolicy;
}

/** Makes a session of a snapshot. @throws `ERR_SNAPSHOT_INVALID`, `ERR_OUT_OF_MEMORY` */
export async function readSnapshot(
  source: Source,
  host: RestoreHost,
  signal: AbortSignal | undefined,
): Promise<{ native: NativeSession; settings: SnapshotSettings }> {
  const { header, headBytes, checksum } = await readHead(source);
  const policy = checkHeader(header, host);
  const expectedSize = headBytes + framedBytes(header);
  if (source.size !== expectedSize) {
    const problem = source.size < expectedSize ? 'is cut off' : 'has something behind its end';
    throw invalid(`The snapshot ${problem}: it has ${source.size} bytes, not ${expectedSize}`);
  }
  const slices = new SliceReader(source, headBytes, checksum);
  const ids = new Uint32Array(header.position);
  const saved = new Uint32Array(header.savedRows);
  await slices.fill(bytesOf(ids), signal);
  await slices.fill(bytesOf(saved), signal);
  const { cached, rowBytes, contextLength, cacheType } = header;
  const released = Uint32Array.from(header.released);
  const state = { ids, cached, released, saved, rowBytes };
  let restore: NativeRestore | undefined;
  try {
    const spec = { ...state, policy, contextLength, cacheType };
    restore = await host.native.restore(spec).catch((error: unknown) => {
      throw refusal(error);
    });
    for (let left = rowBytes; left > 0; ) {
      const slice = await slices.next(left, signal);
      restore.write(slice);
      left -= slice.length;
    }
    throwIfAborted(signal);
    const native = restore.finish();
    return { native, settings: { contextLength, cacheType, policy: header.policy } };
  } catch (error) {
    restore?.dispose();
    throw fromNative(error);
  }
}

// The header is whole, so its writer meant what the engine refuses.
function refusal(error: unknown): unknown {
  const { code, message } = error as { code?: string; message: string };
  const ofState = code === 'ERR_INVALID_ARGUMENT' || code === 'ERR_CONTEXT_LENGTH';
  return ofState ? invalid(`The snapshot contradicts itself. ${message}`) : error;
}

async function readHead(source: Source) {
  const fixed = new Uint8Array(fixedBytes);
  if (source.size < fixedBytes) throw invalid('The bytes are no snapshot: they are too few');
  await source.read(fixed, 0);
  if (Buffer.from(fixed.subarray(0, magic.length)).toString('latin1') !== magic) {
    throw invalid(`The bytes are no snapshot: they do not begin with "${magic}"`);
  }
  const version = view(fixed).getUint32(8, true);
  if (version !== formatVersion) {
    const message = `The snapshot has format ${version}, this version reads ${formatVersion}`;
    throw invalid(message);
  }
  const length = view(fixed).getUint32(12, true);
  const headBytes = fixedBytes + length + checksumBytes;
  if (length > maxHeaderBytes || source.size < headBytes) {
    throw invalid(`The snapshot is cut off or damaged: its header has ${length} bytes`);
  }
  const head = new Uint8Array(headBytes);
  await source.read(head, 0);
  const checksum = checksumAt(head, headBytes - checksumBytes);
  if (crc32(head.subarray(0, headBytes - checksumBytes)) !== checksum) {
    throw invalid("The snapshot is damaged: its header's checksum is wrong");
  }
  const json = Buffer.from(head.subarray(fixedBytes, headBytes - checksumBytes)).toString();
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (cause) {
    const message = `The snapshot's header is no JSON: ${(cause as Error).message}`;
    throw new AnchorError('ERR_SNAPSHOT_INVALID', message, { cause });
  }
  return { header: check(headerSchema, value, headerScope), headBytes, checksum };
}

// Says what differs; what only the engine can tell is its business.
function checkHeader(header: Header, host: RestoreHost): NativePolicy {
  const { model } = host;
  if (header.identity !== model.identity) {
    const other =
      header.architecture === model.architecture
        ? 'another model, or other weights, tokenizer or config of this one'
        : `another model, a ${header.architecture}`;
    throw invalid(`The snapshot is of ${other}`);
  }
  if (header.compute !== model.compute) {
    const message = `of compute mode "${header.compute}", but the model runs in`;
    throw invalid(`The snapshot is ${message} "${model.compute}"`);
  }
  if (header.released.length !== model.layers) {
    throw invalid(
      `Expected the snapshot to have ${model.layers} layers, not ${header.released.length}`,
    );
  }
  // Before memory is taken for them.
  const { savedRows, cached, position, contextLength } = header;
  const ascending = [savedRows, cached, position, contextLength, model.contextLength];
  if (ascending.some((count, i) => count > (ascending[i + 1] ?? count))) {
    const lengths = `${savedRows} saved rows, ${cached} cached tokens, ${position} tokens`;
    const contexts = `in a context of ${contextLength}, and the model's is ${model.contextLength}`;
    throw invalid(`The snapshot contradicts itself or its model: ${lengths} ${contexts}`);
  }
  const policy = resolvePolicy(header, host);
  if (hashPolicy(policy) === header.policyHash) return policy;
  const shown = show(header.policy);
  throw invalid(
    `The snapshot's policy, ${shown}, means something else with the anchor settings that this ` +
      'model was loaded with',
  );
}

function resolvePolicy({ policy }: Header, host: RestoreHost): NativePolicy {
  try {
    return host.nativePolicy(policy);
  } catch (cause) {
    const message = `The snapshot's policy does not fit the model. ${(cause as Error).message}`;
    throw new AnchorError('ERR_SNAPSHOT_INVALID', message, { cause });
  }
}

function encodeHead(header: Header): Uint8Array {
  const json = Buffer.from(JSON.stringify(header));
  const head = new Uint8Array(fixedBytes + json.length + checksumBytes);
  head.set(Buffer.from(magic, 'latin1'));
  view(head).setUint32(8, formatVersion, true);
  view(head).setUint32(12, json.length, true);
  head.set(json, fixedBytes);
  const end = fixedBytes + json.length;
  view(head).setUint32(end, crc32(head.subarray(0, end)), true);
  return head;
}

/** Bytes of ids, saved positions and rows, with the checksum of every slice. */
function framedBytes({ position, savedRows, rowBytes }: Header): number {
  const bytes = 4 * (position + savedRows) + rowBytes;
  return bytes + Math.ceil(bytes / sliceBytes) * checksumBytes;
}

/** Reads slices in order and checks each before it is used. */
class SliceReader {
  readonly #piece = new Uint8Array(sliceBytes + checksumBytes);
  #slice = new Uint8Array();

  constructor(
    private readonly source: Source,
    private position: number,
    private checksum: number,
  ) {}

  /** Up to `most` of the next bytes. */
  async next(most: number, signal: AbortSignal | undefined): Promise<Uint8Array> {
    if (this.#slice.length === 0) await this.#load(signal);
    const part = this.#slice.subarray(0, most);
    this.#slice = this.#slice.subarray(part.length);
    return part;
  }

  async fill(target: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    for (let at = 0; at < target.length; ) {
      const part = await this.next(target.length - at, signal);
      target.set(part, at);
      at += part.length;
    }
  }

  async #load(signal: AbortSignal | undefined): Promise<void> {
    throwIfAborted(signal);
    await setImmediate(); // others have their turn
    const left = this.source.size - this.position;
    const piece = this.#piece.subarray(0, Math.min(left, this.#piece.length));
    await this.source.read(piece, this.position);
    const end = piece.length - checksumBytes;
    const slice = piece.subarray(0, end);
    this.checksum = crc32(slice, this.checksum);
    if (this.checksum !== checksumAt(piece, end)) {
      const where = `${this.position} to ${this.position + end - 1}`;
      throw invalid(`The snapshot is damaged: the checksum of bytes ${where} is wrong`);
    }
    this.position += piece.length;
    this.#slice = slice;
  }
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function checksumAt(bytes: Uint8Array, offset: number): number {
  return view(bytes).getUint32(offset, true);
}

// Of the machine's own order, which is little-endian wherever this package runs.
function bytesOf(values: Uint32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
