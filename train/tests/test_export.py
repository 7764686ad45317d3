"""What is exported is what was trained: the engine reads the folder and the adapter, peft too."""

import json
from dataclasses import replace
from pathlib import Path

import engine
import numpy as np
import pytest
import small
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from anchorcoder_train.attention import attach
from anchorcoder_train.export import export_adapter, export_model
from anchorcoder_train.settings import read_folder, resolve
from anchorcoder_train.trainer import Trainer
from anchorcoder_train.vocabulary import Vocabulary

BOUND = 2e-4


@torch.no_grad()
def logits(trainer: Trainer, ids: list[int]) -> np.ndarray:
    trainer.built.model.eval()
    with trainer.built.anchors.using(trainer.built.policy):
        return trainer.built.model(input_ids=torch.tensor([ids])).logits[0].numpy()


def compare(
    expected: np.ndarray, folder: Path, ids: list[int], kind: str = "anchor", **options: str
) -> None:
    """The engine with nothing but the folder, or with an adapter, gives the same logits."""
    (theirs,) = engine.logits(folder, ids, [{"kind": kind}], **options)
    assert np.abs(theirs - expected).max() < BOUND * np.abs(expected).max()


TEXT = "v1 = v2 + 1\n\nv3 = v1\r\n\tv4 = (v3)\nv5"


def test_from_scratch(tmp_path: Path):
    small.prepare(tmp_path)
    recipe = small.recipe(tmp_path, budget={"steps": 3})
    trainer = Trainer(recipe, tmp_path / "run")
    trainer.run()
    vocabulary = trainer.built.vocabulary
    ids = vocabulary.first_ids + vocabulary.encode_anchored([TEXT], 1)[0]
    expected = logits(trainer, ids)
    out = tmp_path / "model"
    export_model(recipe, trainer.built, out, torch.float32)
    assert engine.token_ids(out, [TEXT], {}) == [ids]
    compare(expected, out, ids)
    block = json.loads((out / "config.json").read_text())["anchors"]
    assert block["dense_layers"] == [0] and block["tokens"] == [0, 1] and block["insert"] == 1
    for name in ("config.json", "generation_config.json"):
        config = json.loads((out / name).read_text())
        assert config["bos_token_id"] == config["eos_token_id"] == 0
    # And it is read here as it was trained.
    again = resolve({"kind": "anchor"}, read_folder(out), 4, Vocabulary(out))
    assert again == trainer.built.policy


@pytest.mark.parametrize("anchors", [None, {"dense_layers": [2], "source_layer": 2}])
def test_settings_of_the_base_do_not_stay(anchors: dict | None, tmp_path: Path):
    small.prepare(tmp_path)
    base = small.base_model(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    own = {"per": 2, "anchor_layer": 0, "multilayer": 1, "anchor_token_ids": 1}
    (base / "config.json").write_text(json.dumps({**config, **own, "anchors": {"window": 3}}))
    values = {"mode": "full", "base": str(base), "anchors": anchors, "budget": {"steps": 1}}
    recipe = small.recipe(tmp_path, **values)
    trainer = Trainer(recipe, tmp_path / "run")
    trainer.run()
    ids = trainer.built.vocabulary.encode_anchored([TEXT], 1)[0]
    expected = logits(trainer, ids)
    out = tmp_path / "model"
    export_model(recipe, trainer.built, out, torch.float32)
    words = read_folder(out)
    assert (words is None) == (anchors is None)
    compare(expected, out, ids, kind="full" if anchors is None else "anchor")


def test_anllm(tmp_path: Path):
    small.prepare(tmp_path)
    recipe = small.recipe(tmp_path, policy="ansan", budget={"steps": 3})
    trainer = Trainer(recipe, tmp_path / "run")
    trainer.run()
    vocabulary = trainer.built.vocabulary
    ids = vocabulary.first_ids + vocabulary.encode_anchored([TEXT], 1)[0]
    expected = logits(trainer, ids)
    export_model(recipe, trainer.built, tmp_path / "model", torch.float32)
    compare(expected, tmp_path / "model", ids, "ansan")


def test_a_merged_retrofit_with_an_inserted_anchor(tmp_path: Path):
    base, tokenizer = small.without_anchor(tmp_path)
    recipe = small.recipe(
        tmp_path,
        mode="retrofit",
        base=str(base),
        tokenizer=str(tokenizer),
        anchors={"dense_layers": [1], "window": 3, "multi_head_positions": False},
        budget={"steps": 3},
    )
    trainer = Trainer(recipe, tmp_path / "run")
    trainer.run()
    vocabulary = trainer.built.vocabulary
    ids = vocabulary.first_ids + vocabulary.encode_anchored([TEXT], small.IDS)[0]
    assert small.IDS in ids
    expected = logits(trainer, ids)
    out = tmp_path / "model"
    with pytest.raises(ValueError, match="no row for the inserted anchor"):
        export_adapter(recipe, trainer.built, out)
    export_model(recipe, trainer.built, out, torch.float32)
    assert engine.token_ids(out, [TEXT], {}) == [ids]
    compare(expected, out, ids)


def test_an_adapter(tmp_path: Path):
    small.prepare(tmp_path)
    small.write(tmp_path, tmp_path / "tokenizer", None)
    base = small.base_model(tmp_path / "base")
    for path in (tmp_path / "tokenizer").iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    recipe = small.recipe(
        tmp_path,
        mode="retrofit",
        base=str(base),
        anchors={"tokens": "newline", "insert": None, "dense_layers": [2], "window": 5},
        budget={"steps": 3},
    )
    trainer = Trainer(recipe, tmp_path / "run")
    trainer.run()
    vocabulary = trainer.built.vocabulary
    ids = vocabulary.first_ids + vocabulary.encode([TEXT])[0]
    expected = logits(trainer, ids)
    adapter, merged = tmp_path / "adapter", tmp_path / "model"
    export_adapter(recipe, trainer.built, adapter)

    model = AutoModelForCausalLM.from_pretrained(base)
    words = read_folder(adapter)
    assert words["tokens"] == "newline" and words["insert"] is None
    attach(model, resolve({"kind": "anchor"}, words, 4, Vocabulary(adapter)))
    loaded = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        ours = loaded(input_ids=torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    compare(expected, base, ids, adapter=str(adapter))

    export_model(recipe, trainer.built, merged, torch.float32)
    compare(expected, merged, ids)
    bare = replace(trainer.built, model=model)
    with pytest.raises(ValueError, match="no adapter"):
        export_adapter(recipe, bare, adapter)
