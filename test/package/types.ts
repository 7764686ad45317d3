// The package's types, as a program in TypeScript sees them. Compiled, never run.

import type { AnchorError, CachePolicy } from 'anchorcoder';
import { type Chunk, loadModel, type Model, version } from 'anchorcoder';

const policy: CachePolicy = { kind: 'window', size: 64 };

export async function complete(folder: string): Promise<string> {
  const model: Model = await loadModel(folder, { compute: 'exact' });
  const chunks: Chunk[] = [];
  const session = model.createSession({ policy });
  for await (const chunk of session.generate({ maxTokens: 1 })) chunks.push(chunk);
  return version + chunks.map(({ text }) => text).join('');
}

export const codeOf = (error: AnchorError): string => error.code;

// @ts-expect-error there is no such option: the types are there, not `any`
export const wrong = () => loadModel('', { banana: 1 });
