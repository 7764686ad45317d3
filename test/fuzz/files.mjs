// Fuzzes what JavaScript reads of files: snapshots, whose checksums are made right again so that
// the damage gets past them, and headers of weight files.
//   node test/fuzz/files.mjs --seconds N [--seed N] [--save FOLDER]    node test/fuzz/files.mjs FILE
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { crc32 } from 'node:zlib';
import { AnchorError, loadModel } from 'anchorcoder';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(Date.now() % 1e9) },
    save: { type: 'string', default: '.' },
  },
});

const magic = 'anchsnap';
const sliceBytes = 256 * 1024;
const mostBytes = 4 << 20;
const source = fileURLToPath(new URL('../golden/models/tinyllama', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'anchorcoder-fuzz-'));
const weightFolder = join(scratch, 'weights');
cpSync(source, weightFolder, { recursive: true });
const weights = readFileSync(join(source, 'model.safetensors'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));

let state = Number(values.seed) >>> 0;
/** An integer in [0, below). */
function random(below) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
}
const oneOf = (list) => list[random(list.length)];

// --- Damage

const hostile = [
  () => oneOf([0, -1, 1, 0.5, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53, -(2 ** 53), 1e308, -0]),
  () => random(400),
  () => null,
  () => oneOf([true, false]),
  () => oneOf(['', 'anchor', 'f32', 'int8', '\u0000', 'constructor', 'x'.repeat(5000), '\ud800']),
  () => Array.from({ length: random(12) }, () => random(300)),
  () => oneOf([{}, { kind: 'full' }, { kind: 'window', size: 2 ** 31, sinks: 1 }, []]),
  () => JSON.parse('['.repeat(200) + ']'.repeat(200)),
];

/** Every place of a JSON value, as [holder, key]. */
function placesOf(value, places = []) {
  if (typeof value !== 'object' || value === null) return places;
  for (const key of Object.keys(value)) {
    places.push([value, key]);
    placesOf(value[key], places);
  }
  return places;
}

function damageJson(json) {
  for (let i = 1 + random(3); i > 0; --i) {
    const places = placesOf(json);
    if (places.length === 0) return;
    const [holder, key] = oneOf(places);
    const value = holder[key];
    const kind = random(6);
    if (kind === 0 && !Array.isArray(holder)) delete holder[key];
    else if (kind < 3 && typeof value === 'number') holder[key] = value + random(9) - 4;
    else if (kind === 3 && Array.isArray(value)) value.push(oneOf(hostile)());
    else if (kind === 4) holder[oneOf(['__proto__', 'constructor', 'extra', key])] = value;
    else holder[key] = oneOf(hostile)();
  }
}

function damageBytes(bytes, count) {
  for (let i = random(count); i > 0 && bytes.length > 0; --i) {
    bytes[random(bytes.length)] = oneOf([0, 0xff, 0x7f, 0x80, random(256)]);
  }
}

/** The text of a value, now and then broken. */
function textOf(json) {
  const text = Buffer.from(JSON.stringify(json) ?? 'null');
  if (random(8) === 0) damageBytes(text, 5);
  return random(40) === 0 ? text.subarray(0, random(text.length)) : text;
}

// --- Snapshots

function partsOf(bytes) {
  const length = bytes.readUInt32LE(12);
  const header = JSON.parse(bytes.toString('utf8', 16, 16 + length));
  const slices = [];
  for (let at = 20 + length; at < bytes.length; at += sliceBytes + 4) {
    slices.push(bytes.subarray(at, Math.min(at + sliceBytes, bytes.length - 4)));
  }
  return { header, data: Buffer.concat(slices) };
}

function snapshotOf(text, data) {
  const head = Buffer.alloc(20 + text.length);
  head.write(magic, 'latin1');
  head.writeUInt32LE(1, 8);
  head.writeUInt32LE(text.length, 12);
  text.copy(head, 16);
  let checksum = crc32(head.subarray(0, -4));
  head.writeUInt32LE(checksum, head.length - 4);
  const parts = [head];
  for (let at = 0; at < data.length; at += sliceBytes) {
    const slice = data.subarray(at, at + sliceBytes);
    checksum = crc32(slice, checksum);
    const end = Buffer.alloc(4);
    end.writeUInt32LE(checksum);
    parts.push(slice, end);
  }
  return Buffer.concat(parts);
}

function damagedSnapshot(good) {
  const { header, data } = partsOf(good);
  let bytes = Buffer.from(data);
  if (random(4) > 0) damageJson(header);
  damageBytes(bytes, 12);
  const size = 4 * (header.position + header.savedRows) + header.rowBytes;
  // Of the length that the header asks for, so that more than the length is looked at.
  if (random(4) > 0 && Number.isInteger(size) && size >= 0 && size <= mostBytes) {
    const filled = Buffer.alloc(size, oneOf([0, 0xff, 0x7f]));
    bytes.copy(filled);
    bytes = filled;
  }
  const whole = snapshotOf(textOf(header), bytes);
  if (random(12) === 0) damageBytes(whole, 4);
  return random(30) === 0 ? whole.subarray(0, random(whole.length)) : whole;
}

// --- Weight files

function damagedWeights() {
  const length = Number(weights.readBigUInt64LE(0));
  const header = JSON.parse(weights.toString('utf8', 8, 8 + length));
  damageJson(header);
  const text = textOf(header);
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(BigInt(random(20) === 0 ? random(2 ** 31) : text.length));
  const data = Buffer.from(weights.subarray(8 + length));
  damageBytes(data, 12);
  const most = random(20) === 0 ? random(data.length) : data.length;
  return Buffer.concat([start, text, data.subarray(0, most)]);
}

// --- What has to come of it

/** Runs a call from which only errors of this package may come. */
async function typed(call) {
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof AnchorError) || typeof error.code !== 'string') throw error;
    if (error.message.length > 2000) throw new Error(`a message of ${error.message.length}`);
    return undefined;
  }
}

async function useSession(session) {
  await typed(() => session.append([], { logits: 'last' }));
  await typed(() => session.append([3, 4, 5], { logits: 'last' }));
  await typed(async () => {
    const options = { maxTokens: 4, stopTokens: [], temperature: 1, seed: 1, logprobs: 2 };
    for await (const _ of session.generate(options));
  });
  await typed(() => session.snapshot());
  await typed(() => session.truncate(random(session.position + 1)));
  session.stats();
  session.dispose();
}

const model = await loadModel(source, { compute: 'exact', prefixCache: { bytes: 1 << 20 } });

async function runSnapshot(bytes) {
  const session = await typed(() => model.restore(bytes));
  if (session) await useSession(session);
  const { sessions } = model.memory();
  if (sessions !== 0) throw new Error(`${sessions} sessions are left`);
  return session !== undefined;
}

async function runWeights(bytes) {
  writeFileSync(join(weightFolder, 'model.safetensors'), bytes);
  const loaded = await typed(() => loadModel(weightFolder, { threads: 1 }));
  if (!loaded) return false;
  await useSession(loaded.createSession());
  loaded.dispose();
  return true;
}

const run = (bytes) =>
  bytes.toString('latin1', 0, magic.length) === magic ? runSnapshot(bytes) : runWeights(bytes);

for (const file of positionals) {
  await run(readFileSync(file));
  console.log(`${file}: fine`);
}
if (positionals.length > 0) process.exit(0);

const policies = [
  undefined,
  { kind: 'full' },
  { kind: 'window', size: 40, sinks: 3 },
  { kind: 'anchor', tokens: [3], per: 2 },
  { kind: 'anchor', tokens: [3, 7], per: 2, window: 9 },
];
const good = [];
for (const policy of policies) {
  for (const cacheType of ['f32', 'int8']) {
    const session = model.createSession({ cacheType, ...(policy && { policy }) });
    await session.append(Array.from({ length: 20 + random(200) }, () => 3 + random(60)));
    good.push(Buffer.from(await session.snapshot()));
    session.dispose();
  }
}

console.log(`files: seed ${values.seed}`);
const end = Date.now() + Number(values.seconds) * 1000;
let inputs = 0;
let taken = 0;
while (inputs === 0 || Date.now() < end) {
  const bytes = random(3) > 0 ? damagedSnapshot(oneOf(good)) : damagedWeights();
  try {
    if (await run(bytes)) ++taken;
  } catch (error) {
    mkdirSync(values.save, { recursive: true });
    const path = join(values.save, `files-${values.seed}-${inputs}`);
    writeFileSync(path, bytes);
    console.error(`the input that failed is ${path}`);
    throw error;
  }
  ++inputs;
}
console.log(`files: ${inputs} inputs, ${taken} of them taken, none failed`);
model.dispose();
