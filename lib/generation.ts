/**
 * Reads `generation_config.json`. Only ids are taken from it: sampling is greedy unless the caller
 * says otherwise, whatever defaults the file recommends.
 */
import type { ModelConfig } from './config.js';
import { Fields } from './fields.js';
import type { Json } from './files.js';

/** Ids that begin and end a text; the file's win over `config.json`'s. */
export function readGenerationIds(
  json: Json | undefined,
  config: ModelConfig,
): { bosTokenId: number | undefined; eosTokenIds: number[] } {
  const fields = new Fields(json ?? {}, 'generation_config.json');
  const eos = fields.ids('eos_token_id', config.vocabSize);
  const [bos = config.bosTokenId] = fields.ids('bos_token_id', config.vocabSize);
  return { bosTokenId: bos, eosTokenIds: eos.length > 0 ? eos : config.eosTokenIds };
}
