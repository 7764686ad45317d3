"""The same folder read here and by the engine: logits agree within float32's noise."""

import json
from pathlib import Path

import engine
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from anchorcoder_train.attention import attach
from anchorcoder_train.settings import read_folder, resolve

# Of the largest logit, as for the engine's golden logits in exact mode.
BOUND = 2e-4


def camel(policy: dict) -> dict:
    def name(word: str) -> str:
        first, *rest = word.split("_")
        return first + "".join(part.capitalize() for part in rest)

    return {name(word): value for word, value in policy.items()}


@torch.no_grad()
def errors(folder: Path, ids: list[int], policies: list[dict]) -> list[float]:
    """Largest difference from the engine's logits under each policy, relative to the largest."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    layers = model.config.num_hidden_layers
    words = read_folder(folder)
    resolved = [resolve(policy, words, layers) for policy in policies]
    anchors = attach(model, resolved[0])
    expected = engine.logits(folder, ids, [camel(policy) for policy in policies])
    found = []
    for policy, theirs in zip(resolved, expected):
        with anchors.using(policy):
            ours = model(input_ids=torch.tensor([ids])).logits[0].numpy()
        found.append(float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    return found


ANCHORS = {"kind": "anchor", "tokens": [3, 17, 40]}
POLICIES = [
    {"kind": "full"},
    {"kind": "window", "size": 9, "sinks": 3, "dense_layers": [1]},
    {"kind": "ansan", "tokens": [3, 17, 40]},
    {**ANCHORS, "per": "none"},
    {**ANCHORS, "dense_layers": [1], "window": 7, "sinks": 4},
    {**ANCHORS, "per": "none", "line": False, "window": 6},
    {**ANCHORS, "dense_layers": [0], "multi_head_positions": True},
    {**ANCHORS, "dense_layers": [0], "source_layer": 0, "consumers_above": 0},
]


@pytest.mark.parametrize(
    "name",
    ["smollm2", "granite", "llama3", "yarn-mscale", "mistral-window", "qwen2-window", "qwen3"],
)
def test_classes_and_policies(name: str):
    random = np.random.RandomState(5)
    config = json.loads((engine.GOLDEN / name / "config.json").read_text())
    ids = random.randint(0, config["vocab_size"], 160)
    ids[random.rand(160) < 0.12] = 17
    # Two anchors in a row, and one at the end.
    ids[60:62] = ids[-1] = 3
    # The engine refuses layer-wise attention where no layer is above the consumers' bound.
    policies = [p for p in POLICIES if "source_layer" not in p or config["num_hidden_layers"] > 1]
    for policy, error in zip(policies, errors(engine.GOLDEN / name, ids.tolist(), policies)):
        assert error < BOUND, policy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with 8 key heads and every part of the method, settings in its config.json."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("trained")
    LlamaForCausalLM(config).save_pretrained(folder)
    path = folder / "config.json"
    block = {
        "tokens": [2, 5],
        "insert": None,
        "dense_layers": [1, 4],
        "source_layer": 1,
        "consumers_above": 2,
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), "anchors": block}))
    return folder


def test_a_model_with_all_parts(trained: Path):
    random = np.random.RandomState(6)
    ids = random.randint(0, 97, 200)
    ids[random.rand(200) < 0.1] = 5
    ids[100:103] = 2
    policies = [
        {"kind": "anchor"},
        {"kind": "full"},
        {"kind": "window", "size": 12, "dense_layers": [1]},
        {"kind": "anchor", "multi_head_positions": False, "window": 5},
        {"kind": "anchor", "source_layer": None},
    ]
    found = errors(trained, ids.tolist(), policies)
    for policy, error in zip(policies, found):
        assert error < BOUND, policy


def test_each_part_shows(trained: Path):
    """Were a part left out, the comparison above would notice."""
    model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32).eval()
    words = read_folder(trained)
    random = np.random.RandomState(6)
    ids = random.randint(0, 97, 200)
    ids[random.rand(200) < 0.1] = 5
    ids = torch.tensor([ids.tolist()])
    anchors = attach(model, resolve({"kind": "anchor"}, words, 6))

    def rows(**change: object) -> torch.Tensor:
        with torch.no_grad(), anchors.using(resolve({"kind": "anchor", **change}, words, 6)):
            return model(input_ids=ids).logits

    whole = rows()
    for change in (
        {"multi_head_positions": False},
        {"source_layer": None},
        {"dense_layers": [1]},
        {"window": 1 + 12},
        {"tokens": [5]},
    ):
        difference = (rows(**change) - whole).abs().max() / whole.abs().max()
        assert difference > 10 * BOUND, change


def test_the_shipped_model():
    ids = json.loads((engine.SHIPPED / "parity.json").read_text())["ids"][:400]
    for error in errors(engine.SHIPPED, ids, [{"kind": "anchor"}, {"kind": "full"}]):
        assert error < BOUND
