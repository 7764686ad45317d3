"""The peer of peer.mjs: transformers on PyTorch, on the CPU.

    python peer.py FOLDER THREADS     then one JSON object a line on stdin, each a measurement:

    {"type": "float32" or "bfloat16", "ids": [[...], ...], "tokens": N}

reads all rows of ids as one batch, generates N tokens after each (greedy, with the library's own
cache), and answers {"prefill": seconds, "decode": seconds, "ids": [[...], ...]}. Decoding begins
when the first tokens are known. The loop is a plain one, since generate() adds work of its own.
"""

import json
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

folder, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
models = {
    name: AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, name)).eval()
    for name in ("float32", "bfloat16")
}


@torch.inference_mode()
def measure(model, ids, tokens):
    cache = DynamicCache(config=model.config)
    chosen = []
    ids = torch.tensor(ids)
    start = time.perf_counter()
    first = start
    for step in range(tokens):
        output = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids = output.logits[:, -1].argmax(-1, keepdim=True)
        chosen.append(ids)
        if step == 0:
            first = time.perf_counter()
    end = time.perf_counter()
    return {
        "prefill": first - start,
        "decode": end - first,
        "ids": torch.cat(chosen, 1).tolist(),
    }


print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    print(json.dumps(measure(models[job["type"]], job["ids"], job["tokens"])), flush=True)
