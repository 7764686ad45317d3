"""Makes the small models under models/, their golden logits under logits/, and golden token ids.

    pip install -r test/golden/requirements.txt
    python test/golden/make.py            everything
    python test/golden/make.py --verify   only compares what is there with transformers

README.md beside this file describes what is written.
"""

import argparse
import base64
import json
import math
import re
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

import families
import llama
import reference
import reference_families
import token_ids

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parents[1] / "models" / "anchor-code-23m"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

SHORT, LONG, NEW = 12, 180, 16
# The least distance between the best and the second logit, relative to the largest: far more than
# any float32 engine errs, so that argmax and greedy ids can be compared for equality.
MARGIN = 1e-3
# The same for the logits of experts, in the short prompts.
ROUTING = 0.05

ANCHOR_KEYS = ("per", "anchor_layer", "multilayer", "anchor_token_ids")


MODELS = llama.MODELS | families.MODELS
for name, spec in MODELS.items():
    twin = MODELS[spec["same_as"]] if "same_as" in spec else None
    spec["seed"] = twin["seed"] if twin else zlib.crc32(name.encode())
    if "kind" not in spec:
        spec["config"] = twin["config"] if twin else {**llama.BASE, **spec["config"]}


def write_config(path, config):
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_folder(folder, spec):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    maker = families if "kind" in spec else llama
    model = maker.build(spec)
    maker.fill(model, spec["seed"])
    model.to(DTYPES[spec["dtype"]])
    model.save_pretrained(folder, **({"max_shard_size": spec["shard"]} if "shard" in spec else {}))
    native = json.loads((folder / "config.json").read_text())
    spellings = {"v4": maker.v4_spelling(native, spec), "v5": native}
    for name in spec.get("beside", []):
        write_config(folder / f"config.{name}.json", spellings[name])
    config = spellings[spec.get("spelling", "v5")]
    for key in spec.get("omit", []):
        del config[key]
    if config is spellings["v4"]:
        path = folder / "generation_config.json"
        settings = json.loads(path.read_text())
        keys = ("_from_model_config", "bos_token_id", "eos_token_id")
        kept = {key: settings[key] for key in keys if key in settings}
        write_config(path, {**kept, "transformers_version": config["transformers_version"]})
    write_config(folder / "config.json", config)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)


def load(folder, dtype=torch.float32):
    plainly = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **plainly)
    return model.eval()


@torch.no_grad()
def forward(model, ids):
    return model(torch.tensor([ids])).logits[0].to(torch.float32).numpy()


def greedy(model, ids, stop=False):
    """transformers' own generate with its cache; ends of text are ignored unless `stop`."""
    own = model.generation_config.eos_token_id
    if not stop:
        model.generation_config.eos_token_id = None
    with torch.no_grad():
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=NEW,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
    model.generation_config.eos_token_id = own
    return out[0, len(ids) :].tolist()


def margin(rows):
    best = np.sort(rows, axis=-1)[:, -2:]
    return float((best[:, 1] - best[:, 0]).min() / np.abs(rows).max())


class Routing:
    """The least distance, in a model with experts, of a chosen one from one that is not."""

    def __init__(self, model):
        self.least = math.inf
        routers = [m for m in model.modules() if type(m).__name__.endswith("TopKRouter")]
        self.handles = [router.register_forward_hook(self.look) for router in routers]

    def look(self, router, _, output):
        best = output[0].sort(dim=-1, descending=True).values
        gap = best[:, router.top_k - 1] - best[:, router.top_k]
        self.least = min(self.least, float(gap.min()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def draw(model, random, length, vocabulary, variety=1):
    """Random ids with no near tie of the best logit, nor of experts; the first and the last of all
    ids among them. The continuation has at least `variety` different ids."""
    # Few tokens choose clearly enough for bfloat16 to choose alike; of many some never do.
    clear = ROUTING if length <= SHORT else MARGIN
    for _ in range(20000):
        ends = [0, vocabulary - 1] if length > 1 else []
        more = random.randint(0, vocabulary, length - len(ends))
        ids = random.permutation([*ends, *more]).tolist()
        with Routing(model) as routing:
            rows = forward(model, ids)
        if margin(rows) < MARGIN or routing.least < clear:
            continue
        new = greedy(model, ids)
        if len(set(new)) < variety:
            continue
        with Routing(model) as routing:
            rows = forward(model, ids + new)
        assert rows[length - 1 : -1].argmax(-1).tolist() == new, "cache and whole sequence disagree"
        if margin(rows) >= MARGIN and routing.least >= MARGIN:
            return ids, new
    raise RuntimeError("no prompt without near ties")


def positions_of(length):
    if length <= SHORT:
        return sorted({0, min(3, length - 1), length - 1})
    return [1, 17, 63, 64, 100, 128, length - 1]


def relative(actual, expected):
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def round_up(x):
    return float(f"{x:.2g}")


def golden(folder, spec):
    model, half = load(folder), load(folder, torch.bfloat16)
    random = np.random.RandomState(spec["seed"] ^ 1)
    vocabulary = model.config.get_text_config().vocab_size
    prompts = {}
    lengths = {"one": 1} if "kind" in spec else {}
    lengths |= {"short": SHORT, "long": LONG}
    independent = reference_families if "kind" in spec else reference
    for name, length in lengths.items():
        variety = 4 if "kind" in spec else 1
        ids, new = draw(model, random, length, vocabulary, variety)
        rows = forward(model, ids)
        positions = positions_of(length)
        exact = independent.logits(folder, ids)
        prompts[name] = {
            "ids": ids,
            "positions": positions,
            "logits": base64.b64encode(rows[positions].astype("<f4").tobytes()).decode(),
            "argmax": rows.argmax(-1).tolist(),
            "greedy": new,
            "largest": float(np.abs(rows).max()),
            "noise": {
                "float32": round_up(relative(rows[positions], exact[positions])),
                "bfloat16": round_up(relative(forward(half, ids)[positions], rows[positions])),
            },
        }
        if "context" in spec and length <= SHORT:
            prompts[name]["context"] = spec["context"]
    if "stops" in spec:
        ids, new = prompts["short"]["ids"], prompts["short"]["greedy"]
        path = folder / "generation_config.json"
        settings = json.loads(path.read_text())
        end = next(at for at in range(spec["stops"], NEW) if new[at] not in new[:at])
        settings["eos_token_id"] = [2, new[end]]
        path.write_text(json.dumps(settings, indent=2) + "\n")
        prompts["short"]["stopped"] = greedy(load(folder), ids, stop=True)
        assert prompts["short"]["stopped"] == new[: end + 1]
    return {"model": folder.name, "vocabulary": vocabulary, "prompts": prompts}


def write_golden(path, data):
    """A list of numbers is one line, so that a change can be read."""
    text = re.sub(
        r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]), json.dumps(data, indent=1)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("[ ", "[").replace(" ]", "]") + "\n")


def stored_rows(prompt):
    return np.frombuffer(base64.b64decode(prompt["logits"]), "<f4").reshape(
        len(prompt["positions"]), -1
    )


def verify_folder(folder, data):
    """The largest error against the stored logits, relative to the largest of them."""
    model = load(folder)
    worst = 0.0
    for prompt in data["prompts"].values():
        rows = forward(model, prompt["ids"])
        worst = max(worst, relative(rows[prompt["positions"]], stored_rows(prompt)))
        assert rows.argmax(-1).tolist() == prompt["argmax"]
        assert greedy(model, prompt["ids"]) == prompt["greedy"]
        if "stopped" in prompt:
            assert greedy(model, prompt["ids"], stop=True) == prompt["stopped"]
    assert worst < 2e-5, f"{folder.name}: {worst}"
    return worst


def verify(out, scratch):
    """Every folder under every spelling of its config."""
    for path in sorted((out / "logits").glob("*.json")):
        data = json.loads(path.read_text())
        folder = out / "models" / data["model"]
        for config in ["config.json", *sorted(p.name for p in folder.glob("config.v*.json"))]:
            copy = scratch / data["model"]
            shutil.copytree(folder, copy)
            shutil.copy(folder / config, copy / "config.json")
            print(f"{data['model']:16} {config:16} error {verify_folder(copy, data):.1e}")
            shutil.rmtree(copy)


def top_five(folder, parity, about):
    """The five best ids and logits at every position of a text, for a model of real size."""
    ids = json.loads(parity.read_text())["ids"]
    rows = forward(load(folder), ids)
    best = np.argsort(-rows, axis=-1, kind="stable")[:, :5]
    logits = np.take_along_axis(rows, best, -1).astype("<f4")
    return {
        "about": about,
        "ids": ids,
        "top": best.tolist(),
        "logits": base64.b64encode(logits.tobytes()).decode(),
        "largest": float(np.abs(rows).max()),
    }


def make(options, scratch):
    for name in options.only or MODELS:
        folder = options.out / "models" / name
        make_folder(folder, MODELS[name])
        data = golden(folder, MODELS[name])
        write_golden(options.out / "logits" / f"{name}.json", data)
        for kind, prompt in data["prompts"].items():
            print(f"{name:16} {kind:6} largest {prompt['largest']:.2f} noise {prompt['noise']}")
    if options.only:
        return
    token_ids.make(options.out / "tokenizer", options.shipped)
    parity = options.shipped / "parity.json"
    if not parity.exists():
        print(
            f"no parity.json in {options.shipped}: nothing made for the shipped model",
            file=sys.stderr,
        )
        return
    plain_llama = scratch / "plain"
    plain_llama.mkdir()
    config = json.loads((options.shipped / "config.json").read_text())
    for key in ANCHOR_KEYS:
        config.pop(key, None)
    write_config(plain_llama / "config.json", config)
    (plain_llama / "model.safetensors").symlink_to(
        (options.shipped / "model.safetensors").resolve()
    )
    about = (
        "the shipped model as a plain Llama model: a causal mask in every layer, no anchor settings"
    )
    write_golden(options.out / "shipped.json", top_five(plain_llama, parity, about))
    if options.twin:
        about = "the shipped model's dense twin, whose weights are not in the repository"
        write_golden(options.out / "twin.json", top_five(options.twin, parity, about))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=HERE, help="where to write (default: beside this script)"
    )
    parser.add_argument("--only", nargs="*", choices=MODELS, help="only these models, nothing else")
    parser.add_argument(
        "--verify", action="store_true", help="write nothing, compare with what is there"
    )
    parser.add_argument(
        "--shipped", type=Path, default=SHIPPED, help="the model folder that the repository carries"
    )
    parser.add_argument(
        "--twin", type=Path, help="the shipped model's dense twin (not in the repository)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        if options.verify:
            verify(options.out, Path(scratch))
        else:
            make(options, Path(scratch))


if __name__ == "__main__":
    main()
