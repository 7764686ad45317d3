// Saves a session into a file that may not become as long: node save-limited.mjs FOLDER FILE
import { loadModel } from 'anchorcoder';

const [folder, file] = process.argv.slice(2);
const model = await loadModel(folder, { compute: 'exact' });
const session = model.createSession({ policy: { kind: 'full' } });
await session.append(Array.from({ length: 1000 }, (_, i) => 11 + (i % 50)));
await session.saveSnapshot(file).catch((error) => console.log(`${error.code}: ${error.message}`));
