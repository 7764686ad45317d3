"""A small tokenizer, text and recipes, for tests that train."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from anchorcoder_train.bpe import add_anchor, train_tokenizer
from anchorcoder_train.recipe import Recipe, recipe_of
from anchorcoder_train.shards import Writer, write_shards
from anchorcoder_train.texts import Document
from anchorcoder_train.vocabulary import Vocabulary

IDS = 280
SHAPE = {
    "model_type": "llama",
    "vocab_size": IDS,
    "hidden_size": 32,
    "head_dim": 16,  # FlexAttention has no smaller ones on a GPU
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
ANCHORS = {"dense_layers": [0], "source_layer": 0, "consumers_above": 1, "window": 4}


def code(seed: int) -> str:
    random = np.random.default_rng(seed)
    lines = [f"v{random.integers(9)} = v{random.integers(9)} + 1\n" for _ in range(60)]
    return "".join(lines)


def prepare(folder: Path) -> None:
    """`tokenizer`, and packed ids in `train` and `valid`."""
    texts = [code(seed) + "# äöü 'quoted' words, (brackets) and {more}\n" for seed in range(40)]
    train_tokenizer(texts, IDS, folder / "tokenizer", 256)
    write(folder, folder / "tokenizer", 1)


def write(folder: Path, tokenizer: Path, insert: int | None) -> None:
    writer = Writer(Vocabulary(tokenizer), insert, "none", 0.0, 1)
    for name, seeds in (("train", range(30)), ("valid", range(30, 34))):
        documents = [Document("py", "p", str(seed), code(seed)) for seed in seeds]
        write_shards(documents, writer, folder / name)


def base_model(folder: Path, vocab_size: int = IDS, tied: bool = True) -> Path:
    """A random model folder to retrofit."""
    torch.manual_seed(11)
    shape = {key: value for key, value in SHAPE.items() if key != "model_type"}
    shape.update(vocab_size=vocab_size, tie_word_embeddings=tied, initializer_range=0.15)
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    return folder


def without_anchor(folder: Path, **shape: Any) -> tuple[Path, Path]:
    """A base whose tokenizer lacks the anchor, and the tokenizer with it added as a last id."""
    prepare(folder)
    base = base_model(folder / "base", **shape)
    for path in (folder / "tokenizer").iterdir():
        (base / path.name).write_text(path.read_text().replace("<ANCHOR>", "<|other|>"))
    id = add_anchor(base, folder / "added")
    write(folder, folder / "added", id)
    return base, folder / "added"


def recipe(folder: Path, **values: Any) -> Recipe:
    """A recipe of 20 steps on what `prepare` wrote."""
    given = {
        "name": "small",
        "mode": "scratch",
        "tokenizer": str(folder / "tokenizer"),
        "data": {
            "train": str(folder / "train"),
            "valid": str(folder / "valid"),
            "length": 96,
            "batch": 4,
            "valid_windows": 2,
        },
        "budget": {"steps": 20},
        "anchors": ANCHORS,
        "optimizer": {"lr": 1e-2},
        "seed": 4,
    }
    given.update(values)
    if given["mode"] == "scratch":
        given.setdefault("model", SHAPE)
    return recipe_of(given)
