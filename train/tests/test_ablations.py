"""Variants of a recipe: what their changes make of it, and that each is tuned and exported."""

import json
import subprocess
import sys
from pathlib import Path

import engine
import pytest
import small
import yaml
from transformers import AutoConfig

from anchorcoder_train.ablations import changed, read_ablations, recipe_of_variant, with_dense
from anchorcoder_train.recipe import read_recipe
from anchorcoder_train.records import Table
from anchorcoder_train.settings import resolve
from anchorcoder_train.trainer import LOG
from anchorcoder_train.vocabulary import Vocabulary

TRAIN = Path(__file__).resolve().parents[1]
FILES = sorted((TRAIN / "recipes" / "ablations").glob("*.yaml"))


def shared(folder: Path) -> dict:
    small.prepare(folder)
    return {
        "name": "all",
        "mode": "full",
        "base": str(small.base_model(folder / "base")),
        "tokenizer": str(folder / "tokenizer"),
        "data": {"train": str(folder / "train"), "length": 96, "batch": 2},
        "anchors": {"per": 2, "source_layer": 2, "consumers_above": 2},
        "budget": {"steps": 3},
    }


def test_changes_go_into_what_is_there():
    values = {"anchors": {"per": 8, "window": 0}, "data": {"train": "a", "batch": 4}, "seed": 1}
    changes = {"anchors": {"dense_layers": [1]}, "data": {"train": "b"}}
    assert changed(values, changes) == {
        "anchors": {"dense_layers": [1], "window": 0},
        "data": {"train": "b", "batch": 4},
        "seed": 1,
    }
    assert changed(values, {"anchors": None})["anchors"] is None
    assert values["anchors"] == {"per": 8, "window": 0}


def test_dense_layers_found_take_the_source_layer_along():
    values = {"anchors": {"per": 8, "source_layer": 8, "consumers_above": 8}}
    found = with_dense(values, [3, 10, 15], 16)["anchors"]
    assert found == {"dense_layers": [3, 10, 15], "source_layer": 10, "consumers_above": 10}
    found = with_dense(values, [1], 16)["anchors"]
    assert found == {"dense_layers": [1], "source_layer": 1, "consumers_above": 8}
    values["anchors"]["source_layer"] = None
    assert with_dense(values, [1], 16)["anchors"]["source_layer"] is None


def test_dense_layers_are_searched_for_in_the_base(tmp_path: Path):
    recipe = recipe_of_variant(shared(tmp_path), "found", {"greedy": 2}, 1)
    dense = recipe.anchors["dense_layers"]
    assert len(dense) == 2 and dense == sorted(set(dense)) and dense[-1] < 4
    assert recipe.anchors["source_layer"] in dense and "per" not in recipe.anchors
    again = recipe_of_variant(shared(tmp_path), "found", {"greedy": 2}, 1)
    assert again == recipe


def test_every_variant_is_tuned_on_the_same_windows_and_exported(tmp_path: Path):
    variants = {"full": {"anchors": None}, "anchored": None, "near": {"anchors": {"window": 4}}}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"recipe": shared(tmp_path), "variants": variants}))
    command = [sys.executable, TRAIN / "ablations.py", path, "--out", tmp_path / "runs"]
    done = subprocess.run([*command, "--seed", "7"], capture_output=True, text=True, check=True)
    assert "done" in done.stdout
    for name, changes in variants.items():
        run = tmp_path / "runs" / f"{name}-7"
        rows = Table(run / "log.csv", LOG).rows()
        assert [int(row["ids"]) for row in rows] == [192, 384, 576]
        block = getattr(AutoConfig.from_pretrained(run / "model"), "anchors", None)
        assert (block is None) == (name == "full")
        if block is not None:
            assert block["window"] == (4 if changes else 0)
        assert not (run / "unfinished").exists() and not (run / "checkpoints").exists()
        assert json.loads((run / "model" / "config.json").read_text())["num_hidden_layers"] == 4
    # Done before, so nothing is trained again.
    before = (tmp_path / "runs" / "near-7" / "log.csv").read_bytes()
    subprocess.run([*command, "--seed", "7", "--only", "near"], check=True, capture_output=True)
    assert (tmp_path / "runs" / "near-7" / "log.csv").read_bytes() == before
    # Another base's runs are no results of this one.
    other = [*command, "--seed", "7", "--base", tmp_path / "runs" / "full-7" / "model"]
    refused = subprocess.run([*other, "--only", "near"], capture_output=True, text=True)
    assert refused.returncode != 0 and "a run of another recipe: base" in refused.stderr
    refused = subprocess.run([*command, "--only", "far"], capture_output=True, text=True)
    assert refused.returncode != 0 and 'unknown variant "far"' in refused.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_ablations_of_the_package(path: Path):
    values, variants = read_ablations(path)
    base = read_recipe(TRAIN / "recipes" / path.name)
    layers = base.model["num_hidden_layers"]
    ids = Vocabulary(engine.SHIPPED)
    budgets = set()
    for name, changes in variants.items():
        if "greedy" in changes:
            continue
        recipe = recipe_of_variant(values, name, changes, 1)
        budgets.add((recipe.budget.steps, recipe.data.batch, recipe.data.length))
        if recipe.anchors is not None:
            dense = resolve({"kind": "anchor"}, recipe.anchors, layers, ids).dense
            assert recipe.anchors["source_layer"] in (None, *range(layers))
            assert all(dense) == (name == "full-bare")
    assert len(budgets) == 1
