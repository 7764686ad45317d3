// A valid weight file, cut at every place that means something and with bytes of its header changed
// at random: a typed error, or the same results.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { Random } from '../reference/random.js';
import { HostileFolders, inTime, type Outcome, weights } from './hostile.js';

const folders = new HostileFolders();
afterAll(() => folders.remove());

const bytes = readFileSync(join(folders.make(), weights));
const headerEnd = 8 + Number(bytes.readBigUInt64LE(0));

function folderOf(changed: Uint8Array): string {
  const folder = folders.make();
  writeFileSync(join(folder, weights), changed);
  return folder;
}

function expectTyped(outcome: Outcome, what: unknown): void {
  const { name, code, message = '' } = outcome;
  expect([what, name, inTime(outcome)]).toEqual([what, 'AnchorError', true]);
  expect([what, code]).toEqual([what, expect.stringMatching(/^ERR_MODEL_(INVALID|UNSUPPORTED)$/)]);
  expect(message).toMatch(/^.{10,1000}$/);
}

test('cut anywhere is refused', async () => {
  const header = JSON.parse(bytes.toString('utf8', 8, headerEnd)) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  const around = (at: number) => [at - 1, at, at + 1];
  const ends = Object.values(header).flatMap(({ data_offsets }) => data_offsets);
  const marks = [...bytes.subarray(8, headerEnd).entries()].filter(([, byte]) =>
    '{}[]:,"'.includes(String.fromCharCode(byte)),
  );
  const places = [
    ...Array.from({ length: 10 }, (_, i) => i),
    ...marks.filter((_, i) => i % 2 === 0).map(([at]) => 8 + at),
    ...around(headerEnd),
    ...ends.flatMap((at) => around(headerEnd + at)),
  ].filter((at) => at >= 0 && at < bytes.length);
  const cuts = [...new Set(places)];
  expect(cuts.length).toBeGreaterThan(180);
  const outcomes = await folders.load(cuts.map((at) => folderOf(bytes.subarray(0, at))));
  cuts.forEach((at, i) => {
    expectTyped(outcomes[i] as Outcome, at);
  });
});

test('with bytes of its header changed is refused, or is the same model', async () => {
  const random = new Random(7);
  const changes = Array.from({ length: 400 }, (_, round) => {
    const changed = Buffer.from(bytes);
    const count = 1 + (round % 3);
    const places: [at: number, byte: number][] = [];
    for (let i = 0; i < count; ++i) {
      // The length's own bytes as often as all others of the header.
      const at = round % 8 === 0 ? random.integer(0, 8) : random.integer(8, headerEnd);
      const byte = round % 2 === 0 ? random.integer(0, 256) : (changed[at] as number) ^ 1;
      changed[at] = byte;
      places.push([at, byte]);
    }
    return { changed, places };
  });
  const [plain, ...outcomes] = await folders.load([
    folderOf(bytes),
    ...changes.map(({ changed }) => folderOf(changed)),
  ]);
  expect(plain?.logits).toHaveLength(64);
  changes.forEach(({ places }, i) => {
    const outcome = outcomes[i] as Outcome;
    if (outcome.message === undefined) expect(outcome.logits).toEqual(plain?.logits);
    else expectTyped(outcome, places);
  });
  const refused = outcomes.filter(({ message }) => message !== undefined);
  expect(refused.length).toBeGreaterThan(changes.length / 2);
});
