// Limits that the system sets on memory: loading is refused, and the process lives on.
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { loadModel } from 'anchorcoder';
import { goldenModel } from '../golden/load.js';

const library = new URL('../../dist/lib/index.js', import.meta.url).href;
const golden = goldenModel('tinyllama');
const large = mkdtempSync(join(tmpdir(), 'anchorcoder-limits-'));
const megabyte = 2 ** 20;

/** A model whose 400 MB of weights are a hole in a file: they are mapped, and hardly read. */
function writeLarge(folder: string): void {
  const [vocabulary, hidden, inner, heads] = [100_000, 1024, 16, 64];
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_act: 'silu',
    hidden_size: hidden,
    intermediate_size: inner,
    max_position_embeddings: 64,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    head_dim: heads / 4,
    num_hidden_layers: 1,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: true,
    vocab_size: vocabulary,
  };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  const layer = 'model.layers.0.';
  const shapes: Record<string, number[]> = {
    'model.embed_tokens.weight': [vocabulary, hidden],
    'model.norm.weight': [hidden],
    [`${layer}input_layernorm.weight`]: [hidden],
    [`${layer}post_attention_layernorm.weight`]: [hidden],
    [`${layer}self_attn.q_proj.weight`]: [heads, hidden],
    [`${layer}self_attn.k_proj.weight`]: [heads, hidden],
    [`${layer}self_attn.v_proj.weight`]: [heads, hidden],
    [`${layer}self_attn.o_proj.weight`]: [hidden, heads],
    [`${layer}mlp.gate_proj.weight`]: [inner, hidden],
    [`${layer}mlp.up_proj.weight`]: [inner, hidden],
    [`${layer}mlp.down_proj.weight`]: [hidden, inner],
  };
  let end = 0;
  const header = Object.entries(shapes).map(([name, shape]) => {
    const start = end;
    end += 4 * shape.reduce((product, size) => product * size);
    return [name, { dtype: 'F32', shape, data_offsets: [start, end] }];
  });
  const text = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const file = openSync(join(folder, 'model.safetensors'), 'w');
  writeSync(file, Buffer.concat([length, text]));
  ftruncateSync(file, length.length + text.length + end);
  closeSync(file);
}

/** What the program prints as JSON, in a process that a shell command may confine first. */
function run(body: string, confine = ''): unknown {
  const program = `
    import { spawnSync } from 'node:child_process';
    import { readFileSync } from 'node:fs';
    import { loadModel } from ${JSON.stringify(library)};
    const large = ${JSON.stringify(large)};
    const tiny = await loadModel(${JSON.stringify(golden.folder)}, { compute: 'exact' });
    const attempt = async (options) => {
      try {
        const model = await loadModel(large, options);
        model.dispose();
        return model.info.weightBytes;
      } catch ({ name, code, message }) {
        return { name, code, message };
      }
    };
    const greedy = async () => {
      const session = tiny.createSession();
      await session.append(${JSON.stringify([...golden.prompts.short.ids])});
      const ids = [];
      for await (const { id } of session.generate({ maxTokens: 8, stopTokens: [] })) ids.push(id);
      return ids;
    };
    ${body}`;
  const command = `${confine} exec "$0" --input-type=module -e "$1"`;
  const { stdout, stderr, status } = spawnSync('sh', ['-c', command, process.execPath, program], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
  return JSON.parse(stdout);
}

/** A memory cgroup with a limit; undefined where this process may not make one. */
function makeGroup(limit: number): string | undefined {
  const groups = readFileSync('/proc/self/cgroup', 'utf8');
  const v1 = /^\d+:(?:\S+,)?memory(?:,\S+)?:(.*)$/m.exec(groups);
  const parent = v1 ? `/sys/fs/cgroup/memory${v1[1]}` : '/sys/fs/cgroup';
  const folder = join(parent, `anchorcoder-test-${process.pid}`);
  try {
    mkdirSync(folder);
  } catch {
    return undefined;
  }
  try {
    writeFileSync(join(folder, v1 ? 'memory.limit_in_bytes' : 'memory.max'), String(limit));
    return folder;
  } catch {
    rmdirSync(folder);
    return undefined;
  }
}

const group = makeGroup(300 * megabyte);
const inGroup = group ? test : test.skip;

beforeAll(() => writeLarge(large));

afterAll(() => {
  rmSync(large, { recursive: true, force: true });
  if (group) rmdirSync(group);
});

test('an address space without room for the weights is an error, not an end', () => {
  const result = run(`
    const limit = (bytes) => spawnSync('prlimit', ['--pid', process.pid, '--as=' + bytes + ':']);
    const held = /^VmSize:\\s+(\\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))[1];
    limit(held * 1024 + ${200 * megabyte});
    const refused = await attempt();
    const ids = await greedy();
    limit('unlimited');
    console.log(JSON.stringify({ refused, ids, bytes: await attempt() }));
  `);
  expect(result).toEqual({
    refused: {
      name: 'AnchorError',
      code: 'ERR_OUT_OF_MEMORY',
      message: expect.stringMatching(/^Cannot map .*model\.safetensors: /),
    },
    ids: [...golden.prompts.short.greedy].slice(0, 8),
    bytes: expect.any(Number),
  });
});

inGroup("a cgroup's limit is that of memory, unless the caller names another", () => {
  const result = run(
    `console.log(JSON.stringify({
      refused: await attempt(),
      ids: await greedy(),
      bytes: await attempt({ maxMemory: ${1024 * megabyte} }),
    }));`,
    `echo $$ > ${group}/cgroup.procs &&`,
  );
  expect(result).toEqual({
    refused: {
      name: 'AnchorError',
      code: 'ERR_OUT_OF_MEMORY',
      message: expect.stringMatching(/to fit what the cgroup's limit leaves \(\d+ bytes\), but /),
    },
    ids: [...golden.prompts.short.greedy].slice(0, 8),
    bytes: expect.any(Number),
  });
});

test('logits count on the device and beside it', async () => {
  const model = await loadModel(golden.folder);
  const { ids } = golden.prompts.short;
  await model.createSession().append(ids, { logits: 'last' });
  const before = model.memory().weights;
  await model.createSession().append(ids, { logits: 'all' });
  const row = 4 * golden.vocabulary;
  expect(model.memory().weights - before).toBe(2 * (ids.length - 1) * row);
  model.dispose();
});
