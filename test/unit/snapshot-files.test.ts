// Snapshots for which there is no memory.
import { expect, test } from '@jest/globals';
import type { SnapshotWriter } from '../../lib/snapshot/snapshot.js';
import { writeToMemory } from '../../lib/snapshot/snapshot-files.js';

test('a snapshot that no array can hold says so', async () => {
  const writer = { size: 2 ** 50 } as SnapshotWriter;
  await expect(writeToMemory(writer, undefined)).rejects.toMatchObject({
    name: 'AnchorError',
    code: 'ERR_OUT_OF_MEMORY',
    message: expect.stringMatching(/1125899906842624 bytes; save it to a file/),
  });
});
