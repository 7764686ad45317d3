// Saves a session, or restores it and prints logits, on the instruction set of ANCHOR_ISA. One
// argument: { folder, policy, file, ids, rest }; with `rest` it restores and reads that.
import { loadModel } from 'anchorcoder';

const { folder, policy, file, ids, rest } = JSON.parse(process.argv[2]);
const model = await loadModel(folder, { compute: 'exact' });
if (rest) {
  const session = await model.restore(file);
  const logits = await session.append(rest, { logits: 'all' });
  const { instructionSet } = model.info;
  console.log(JSON.stringify({ instructionSet, logits: [...logits] }));
} else {
  const session = model.createSession({ policy });
  await session.append(ids);
  await session.saveSnapshot(file);
}
