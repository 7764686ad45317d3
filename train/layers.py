"""Finds the layers of a model that should stay dense: greedy by KL divergence from its own logits.

    python train/layers.py MODEL --texts valid.jsonl.xz --out layers \\
        --number 4 --window 64 --compare 17,18,20,23

Writes OUT/layers.json and OUT/layers.svg, prints a table. `--compare` measures other sets beside
the one found, on texts that the search did not see.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from anchorcoder_train.attention import attach
from anchorcoder_train.dense import Search, Trial
from anchorcoder_train.measure import text_ids
from anchorcoder_train.plots import figure, save
from anchorcoder_train.settings import read_folder, resolve
from anchorcoder_train.texts import read_lines
from anchorcoder_train.vocabulary import Vocabulary


def windows(
    vocabulary: Vocabulary, options: argparse.Namespace, words: dict | None
) -> Iterator[torch.Tensor]:
    """(1, length) first ids of each text that is long enough, in random order: neighbours in a
    corpus are alike."""
    documents = list(read_lines(options.texts))
    for number in np.random.default_rng(options.seed).permutation(len(documents)):
        document = documents[number]
        ids = text_ids(vocabulary, document.text, words)[: options.length]
        if len(ids) == options.length:
            yield torch.tensor(ids, device=options.device)[None]


def evenly(layers: int, number: int) -> list[int]:
    """As many layers as were found, every so many: AnchorCoder's layout."""
    return [index * layers // number for index in range(number)]


def table(rounds: list[list[Trial]], layers: int) -> str:
    """Nats per token by layer and round; empty where a layer was not tried, with a tilde where it
    was given up before the last text."""
    lines = ["layer " + "".join(f"{number + 1:>9} dense" for number in range(len(rounds)))]
    for layer in range(layers):
        cells = ""
        for trials in rounds:
            shown = [
                f"{'' if one.is_whole else '~'}{one.kl:.4f}" for one in trials if one.layer == layer
            ]
            cells += f"{''.join(shown):>15}"
        lines.append(f"{layer:5} {cells}".rstrip())
    return "\n".join(lines)


def draw(rounds: list[list[Trial]], path: Path) -> None:
    drawn, axes = figure("Divergence by the layer that becomes dense", "layer", "nats per token")
    for number, trials in enumerate(rounds):
        tried = sorted((trial.layer, trial.kl) for trial in trials)
        axes.plot(*zip(*tried), marker="o", markersize=3, label=f"{number + 1} dense")
    axes.legend()
    save(drawn, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="Hugging Face folder")
    parser.add_argument("--texts", type=Path, required=True, help="documents as JSON lines")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--number", type=int, default=4, help="dense layers to find")
    parser.add_argument("--candidates", type=int, help="layers tried after the first round")
    parser.add_argument(
        "--window", type=int, default=64, help="neighbours that anchored layers see"
    )
    parser.add_argument("--sinks", type=int, default=1)
    parser.add_argument("--tokens", type=json.loads, help="anchor ids as JSON; newlines without it")
    parser.add_argument("--length", type=int, default=2048, help="ids of a text")
    parser.add_argument("--search", type=int, default=3, help="texts to search with")
    parser.add_argument("--fresh", type=int, default=3, help="other texts to compare sets on")
    parser.add_argument("--seed", type=int, default=0, help="which texts")
    parser.add_argument("--compare", action="append", default=[], help="layers, such as 0,8,16")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    words = read_folder(options.model)
    vocabulary = Vocabulary(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype)
    model = model.eval().to(options.device)
    layers = model.config.num_hidden_layers
    policy = {
        "kind": "anchor",
        "tokens": options.tokens or (words or {}).get("tokens", "newline"),
        "per": "none",
        "source_layer": None,
        "window": options.window,
        "sinks": options.sinks,
    }
    resolved = resolve(policy, words, layers, vocabulary)
    anchors = attach(model, resolved)
    texts = windows(vocabulary, options, words)
    taken = list(islice(texts, options.search))
    if not taken:
        raise SystemExit(f"{options.texts} has no text of {options.length} ids")
    search = Search(model, anchors, resolved, taken)

    rounds: list[list[Trial]] = []
    # Layers above the middle tend to win, and the sooner one does, the sooner others are given up.
    order = sorted(range(layers), key=lambda layer: abs(layer - 0.6 * layers))
    for number in range(options.number):
        bar = tqdm(order, desc=f"{number + 1} dense", unit="layer", file=sys.stderr)
        trials = search.step(order, bar.update)
        bar.close()
        rounds.append(trials)
        order = [trial.layer for trial in trials[1:]][: options.candidates]
        print(f"{sorted(search.chosen)}: {trials[0].kl:.4f}", flush=True)

    print(table(rounds, layers))
    chosen = sorted(search.chosen)
    sets = [chosen, [], evenly(layers, len(chosen)), *map(_layers, options.compare)]
    fresh = list(islice(texts, options.fresh))
    compared = []
    if fresh:
        test = Search(model, anchors, resolved, fresh)
        compared = [{"dense": dense, "kl": test.divergence(dense)} for dense in sets]
        for entry in compared:
            print(f"fresh text, {entry['dense']}: {entry['kl']:.4f}")

    options.out.mkdir(parents=True, exist_ok=True)
    report = {
        "model": options.model.name,
        "policy": policy,
        "tokens": search.tokens,
        "length": options.length,
        "seed": options.seed,
        "dense_layers": chosen,
        "rounds": [[vars(trial) for trial in trials] for trials in rounds],
        "fresh": compared,
    }
    (options.out / "layers.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(rounds, options.out / "layers.svg")


def _layers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
