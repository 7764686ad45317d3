"""Measures the loss of a model folder on texts, under its own attention or another policy.

    python train/evaluate.py models/anchor-code-23m --texts valid.jsonl.xz --files 100
    python train/evaluate.py TWIN --tokenizer models/anchor-code-23m --texts valid.jsonl.xz
    python train/evaluate.py MODEL --texts valid.jsonl.xz --policy '{"kind": "window", "size": 256}'

Prints a JSON object: nats per byte of text, targets, bytes, and the inserted anchor's own nats.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from anchorcoder_train.attention import attach
from anchorcoder_train.measure import measure
from anchorcoder_train.settings import read_folder, resolve
from anchorcoder_train.texts import read_lines
from anchorcoder_train.vocabulary import Vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="Hugging Face folder")
    parser.add_argument("--texts", type=Path, required=True, help="documents as JSON lines")
    parser.add_argument("--files", type=int, default=100, help="first documents to read")
    parser.add_argument("--length", type=int, default=2048, help="ids of each text")
    parser.add_argument(
        "--tokenizer", type=Path, help="folder whose tokenizer and anchors' ids are used"
    )
    parser.add_argument("--policy", type=json.loads, help="policy in snake case, as JSON")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    words = read_folder(options.model)
    ids_from = options.tokenizer or options.model
    vocabulary = Vocabulary(ids_from)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype)
    model = model.eval().to(options.device)
    layers = model.config.num_hidden_layers
    wanted = options.policy or {"kind": "anchor" if words else "full"}
    attach(model, resolve(wanted, words, layers, vocabulary))
    documents = read_lines(options.texts, options.files)
    texts = (one.text for one in tqdm(documents, total=options.files, unit="file", file=sys.stderr))
    losses = measure(model, texts, vocabulary, read_folder(ids_from), options.length)
    print(json.dumps({"model": str(options.model), "policy": wanted, **losses.report()}, indent=1))


if __name__ == "__main__":
    main()
