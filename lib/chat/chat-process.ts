/** The process behind `chat-worker.ts`: takes one job at a time, and ends with its parent. */
import { type ChatJob, renderInTime } from './chat-render.js';

process.on('disconnect', () => process.exit());
process.on('message', (job: ChatJob) => {
  process.send?.(renderInTime(job));
});
process.send?.('ready');
