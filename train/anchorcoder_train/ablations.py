"""Variants of one recipe, tuned from one base on equal ids.

A file of ablations has a `recipe`, in the words of `recipe.py`, and `variants`: changes to it by
name. A change replaces a value, or goes into the object that is there. One word is not of recipes:
`greedy: 2` stands for two dense layers that are searched for in the base.
"""

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM

from .attention import attach
from .dense import Search
from .recipe import Recipe, recipe_of
from .settings import merge, resolve
from .shards import Shards, Windows
from .vocabulary import Vocabulary

_SEARCH_WINDOWS = 4


def read_ablations(path: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The recipe that all share, and each variant's changes. Raises ValueError."""
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict) or set(values) != {"recipe", "variants"}:
        raise ValueError(f'{path}: expected "recipe" and "variants", and nothing else')
    return values["recipe"], {name: one or {} for name, one in values["variants"].items()}


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with changes, which go into the objects that are there."""
    result = dict(values)
    for key, value in changes.items():
        inner = result.get(key)
        if not (isinstance(inner, dict) and isinstance(value, dict)):
            result[key] = value
        else:
            result[key] = merge(inner, value) if key == "anchors" else changed(inner, value)
    return result


def search_dense(recipe: Recipe, number: int) -> list[int]:
    """Dense layers of the base, greedily by divergence from its own full attention, in a few
    windows of the training text."""
    vocabulary = Vocabulary(recipe.tokenizer)
    model = AutoModelForCausalLM.from_pretrained(recipe.base, dtype=torch.float32).eval()
    layers = model.config.num_hidden_layers
    words = {"kind": "anchor", "source_layer": None, "per": "none"}
    policy = resolve(words, recipe.anchors, layers, vocabulary)
    windows = Windows(Shards(recipe.data.train), recipe.data.length, recipe.seed)
    texts = [torch.from_numpy(windows.window(turn)[:-1])[None] for turn in range(_SEARCH_WINDOWS)]
    search = Search(model, attach(model, policy), policy, texts)
    for _ in range(number):
        search.step([layer for layer in range(layers) if layer not in search.chosen])
    return sorted(search.chosen)


def with_dense(values: dict[str, Any], dense: list[int], layers: int) -> dict[str, Any]:
    """The recipe with these dense layers. The one nearest to the middle becomes the source layer,
    where there is layer-wise attention at all."""
    words: dict[str, Any] = {"dense_layers": dense}
    if values["anchors"].get("source_layer") is not None:
        source = min(dense, key=lambda layer: abs(layer - layers // 2))
        above = max(source, values["anchors"].get("consumers_above", source))
        words.update(source_layer=source, consumers_above=above)
    return changed(values, {"anchors": words})


def recipe_of_variant(
    shared: dict[str, Any],
    name: str,
    changes: dict[str, Any],
    seed: int,
    found: list[int] | None = None,
) -> Recipe:
    """The variant's recipe; a greedy one is searched for, which takes a minute or more, unless the
    dense layers were `found` before."""
    own = dict(changes)
    number = own.pop("greedy", None)
    values = changed(shared, {"name": name, "seed": seed, **own})
    recipe = recipe_of(values)
    if number is None:
        return recipe
    layers = AutoModelForCausalLM.from_pretrained(recipe.base).config.num_hidden_layers
    return recipe_of(with_dense(values, found or search_dense(recipe, number), layers))
