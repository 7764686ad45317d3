/** The worker thread behind `compare.ts`: a pass over a vocabulary takes too long elsewhere. */
import { parentPort } from 'node:worker_threads';
import type { Reply } from '../worker-client.js';
import { type LogitPair, type Scores, score, summarise } from './divergence.js';

/** What the worker is asked: `Scores` of a chunk, the `Summary` of all. */
export type CompareRequest =
  | { kind: 'score'; pair: LogitPair }
  | { kind: 'summarise'; scores: Pick<Scores, 'kl' | 'nats' | 'agrees'> };

parentPort?.on('message', ({ number, ...request }: CompareRequest & { number: number }) => {
  const value = request.kind === 'score' ? score(request.pair) : summarise(request.scores);
  parentPort?.postMessage({ number, value } satisfies Reply);
});
