"""Every mode learns, and a run that is taken up goes on as if it had not stopped."""

import json
from pathlib import Path
from types import SimpleNamespace

import engine
import pytest
import small
import torch
from accelerate.utils import DistributedType
from peft import PeftModel
from transformers import AutoModelForCausalLM

from anchorcoder_train.attention import attach
from anchorcoder_train.build import build
from anchorcoder_train.learner import Learner, without
from anchorcoder_train.optimizers import ramp_window, rate_factor
from anchorcoder_train.recipe import Loss, Optimizer, Ramp, Recipe, plain, read_recipe
from anchorcoder_train.settings import plain_policy, read_folder, resolve
from anchorcoder_train.shards import Shards
from anchorcoder_train.trainer import Trainer
from anchorcoder_train.vocabulary import Vocabulary


def train(recipe: Recipe, out: Path) -> Trainer:
    trainer = Trainer(recipe, out)
    trainer.run()
    return trainer


def losses(trainer: Trainer) -> list[float]:
    return [float(row["loss"]) for row in trainer.log.rows()]


def fall(trainer: Trainer) -> float:
    """Share of the first losses that the last ones are."""
    found = losses(trainer)
    return sum(found[-3:]) / sum(found[:3])


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_from_scratch(tmp_path: Path, precision: str):
    small.prepare(tmp_path)
    trainer = train(small.recipe(tmp_path, precision=precision), tmp_path / "run")
    assert len(losses(trainer)) == 20 and fall(trainer) < 0.7
    before, measured = trainer.valid.rows()
    assert float(measured["nats_per_byte"]) < 0.7 * float(before["nats_per_byte"])
    # Better than chance, and the anchor is learnt first.
    assert 0 < float(measured["nats_per_byte"]) < 3
    assert float(trainer.log.rows()[-1]["lr"]) > 0
    assert (tmp_path / "run" / "loss.svg").stat().st_size > 0


def test_muon(tmp_path: Path):
    small.prepare(tmp_path)
    settings = {"kind": "muon", "lr": 1e-2, "weight_decay": 0.1}
    assert fall(train(small.recipe(tmp_path, optimizer=settings), tmp_path / "run")) < 0.7


def test_full_tuning_to_a_twin(tmp_path: Path):
    small.prepare(tmp_path)
    base = str(small.base_model(tmp_path / "base"))
    loss = {"kind": "kl", "teacher": base, "teacher_reads_anchors": True}
    recipe = small.recipe(tmp_path, mode="full", base=base, loss=loss, optimizer={"lr": 2e-3})
    trainer = train(recipe, tmp_path / "run")
    assert fall(trainer) < 0.7
    assert all(row["kl"] == row["loss"] for row in trainer.log.rows())


@pytest.mark.parametrize("tied", [True, False])
def test_a_retrofit_with_an_inserted_anchor(tmp_path: Path, tied: bool):
    base, tokenizer = small.without_anchor(tmp_path, tied=tied)
    recipe = small.recipe(
        tmp_path,
        mode="retrofit",
        base=str(base),
        tokenizer=str(tokenizer),
        anchors={"dense_layers": [1], "window": 2},
        loss={"kind": "kl"},
        ramp={"start": 32, "share": 0.3},
        lora={"rank": 8, "alpha": 16},
    )
    before = AutoModelForCausalLM.from_pretrained(base)
    trainer = Trainer(recipe, tmp_path / "run")
    row = trainer.built.insert
    assert row == small.IDS and isinstance(trainer.built.model, PeftModel)
    trainer.run()
    rows = trainer.log.rows()
    assert [int(one["window"]) for one in rows][::3] == [32, 8, 2, 2, 2, 2, 2]
    # Where the window is at its end, the divergence still falls.
    assert float(rows[-1]["kl"]) < 0.8 * float(rows[7]["kl"])
    assert float(rows[-1]["anchor_nats"]) < 0.5 * float(rows[0]["anchor_nats"])
    merged = trainer.built.model.merge_and_unload()
    old, new = before.get_input_embeddings().weight, merged.get_input_embeddings().weight
    assert torch.equal(old, new[: small.IDS])
    newline = trainer.built.vocabulary.newline_ids[0]
    assert not torch.equal(new[row], new[newline])
    assert (merged.get_output_embeddings().weight is new) == tied
    assert not torch.equal(merged.get_output_embeddings().weight[row], old[newline])


def test_a_retrofit_at_newlines_by_next_token(tmp_path: Path):
    small.prepare(tmp_path)
    small.write(tmp_path, tmp_path / "tokenizer", None)
    base = str(small.base_model(tmp_path / "base"))
    anchors = {"tokens": "newline", "insert": None, "per": "none"}
    lora = {"targets": "attention", "rank": 8}
    recipe = small.recipe(tmp_path, mode="retrofit", base=base, anchors=anchors, lora=lora)
    trainer = train(recipe, tmp_path / "run")
    assert fall(trainer) < 0.85
    names = [name for name, one in trainer.learner.named_parameters() if one.requires_grad]
    assert len(names) == 2 * 4 * 4 and not any("mlp" in name for name in names)


@pytest.mark.parametrize("mode", ["scratch", "retrofit"])
def test_a_run_goes_on_bit_for_bit(tmp_path: Path, mode: str):
    small.prepare(tmp_path)
    values: dict = {"mode": mode}
    if mode == "retrofit":
        values["base"] = str(small.base_model(tmp_path / "base"))
        values["loss"] = {"kind": "kl", "teacher_reads_anchors": True}
        # Random numbers go on, too.
        values["lora"] = {"rank": 4, "dropout": 0.2}
    values["data"] = {
        "train": str(tmp_path / "train"),
        "length": 64,
        "batch": 2,
        "accumulate": 2,
    }
    whole = train(small.recipe(tmp_path, **values), tmp_path / "whole")
    cut = Trainer(small.recipe(tmp_path, **values), tmp_path / "cut")
    progress = cut.progress
    cut.progress = lambda: progress() if cut.state.step < 9 else 1.0
    cut.run()
    assert len(losses(cut)) == 9
    # What was logged after the last checkpoint is done again.
    cut.log.add({"step": 10, "loss": 1.0})
    again = Trainer(small.recipe(tmp_path, **values), tmp_path / "cut")
    assert again.state.step == 9
    again.run()
    assert losses(again) == losses(whole)
    ours, theirs = (dict(one.learner.named_parameters()) for one in (again, whole))
    assert all(torch.equal(one, theirs[name]) for name, one in ours.items())
    assert len(list((tmp_path / "cut" / "checkpoints").iterdir())) == 2


def test_a_run_of_another_recipe_is_refused(tmp_path: Path):
    small.prepare(tmp_path)
    recipe = small.recipe(tmp_path, budget={"steps": 1})
    train(recipe, tmp_path / "run")
    Trainer(small.recipe(tmp_path, budget={"steps": 2}), tmp_path / "run")
    with pytest.raises(ValueError, match="another recipe: seed differ"):
        Trainer(small.recipe(tmp_path, seed=5), tmp_path / "run")


def test_a_time_budget(tmp_path: Path):
    small.prepare(tmp_path)
    recipe = small.recipe(tmp_path, budget={"minutes": 0.02}, checkpoint={"minutes": 0.005})
    trainer = train(recipe, tmp_path / "run")
    assert trainer.state.seconds >= 1.2 and trainer.state.step >= 1
    rates = [float(row["lr"]) for row in trainer.log.rows()]
    assert rates[-1] < max(rates) or len(rates) < 4


def test_text_without_the_anchors_that_a_recipe_wants(tmp_path: Path):
    small.prepare(tmp_path)
    small.write(tmp_path, tmp_path / "tokenizer", None)
    with pytest.raises(ValueError, match='expected text with "insert" 1'):
        Trainer(small.recipe(tmp_path), tmp_path / "run")


def test_gradients_reach_the_source_layer_and_survive_checkpointing(tmp_path: Path):
    small.prepare(tmp_path)
    ids = torch.randint(4, small.IDS, (2, 65))
    ids[:, ::9] = 1
    found = []
    for checkpointing in (False, True):
        built = build(small.recipe(tmp_path, gradient_checkpointing=checkpointing))
        learner = Learner(built, Loss()).train()
        learner(ids)["loss"].backward()
        keys = built.model.model.layers[0].self_attn.k_proj.weight.grad
        found.append((keys, built.model.model.embed_tokens.weight.grad))
    for usual, checkpointed in zip(*found):
        torch.testing.assert_close(usual, checkpointed)
    assert found[0][0].abs().max() > 0


def test_the_teacher_reads_the_text_without_anchors(tmp_path: Path):
    base, tokenizer = small.without_anchor(tmp_path)
    recipe = small.recipe(
        tmp_path,
        mode="retrofit",
        base=str(base),
        tokenizer=str(tokenizer),
        anchors={"dense_layers": [1]},
        loss={"kind": "kl"},
    )
    built = build(recipe)
    anchor = built.insert
    learner = Learner(built, recipe.loss).eval()
    row = [5, 9, anchor, 7, 8, 9, anchor, anchor, 6, 5]
    bare = [5, 9, 7, 8, 9, 6, 5]
    with torch.no_grad():
        parts = learner(torch.tensor([row]))
        student = built.model(input_ids=torch.tensor([row])).logits[0, :, :anchor]
        teacher = AutoModelForCausalLM.from_pretrained(base)
        taught = teacher(input_ids=torch.tensor([bare])).logits[0]
        student, taught = student.log_softmax(-1), taught.log_softmax(-1)
        kl = (taught.exp()[:, None] * (taught[:, None] - student[None])).sum(-1)
    # Teacher's row, student's row: both give the same token of text.
    pairs = [(0, 0), (1, 2), (2, 3), (3, 4), (4, 7), (5, 8)]
    expected = torch.stack([kl[pair] for pair in pairs]).mean()
    torch.testing.assert_close(parts["kl"], expected, rtol=1e-4, atol=1e-6)


def test_taking_an_id_out():
    ids = torch.tensor([[1, 9, 2, 3], [9, 9, 4, 9]])
    packed, places = without(ids, 9)
    assert packed.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert places.tolist() == [[0, -1, 1, 2], [-1, -1, 0, -1]]


def test_the_plain_policy_is_ordinary_attention(tmp_path: Path):
    base = small.base_model(tmp_path / "base")
    ids = torch.randint(0, small.IDS, (2, 40))
    ordinary = AutoModelForCausalLM.from_pretrained(base)
    ours = AutoModelForCausalLM.from_pretrained(base)
    attach(ours, plain_policy(4))
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=ids).logits, ordinary(input_ids=ids).logits)


def test_rates_and_windows_over_a_run():
    settings = Optimizer(warmup=0.1, decay_from=0.5, floor=0.2)
    rates = [rate_factor(progress, settings) for progress in (0.0, 0.05, 0.1, 0.5, 0.75, 1.0)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 0.6, 0.2])
    assert rate_factor(0.55, Optimizer(decay="cosine", warmup=0.1)) == pytest.approx(0.5)
    ramp = Ramp(start=512, share=0.5)
    assert [ramp_window(p, ramp, 32) for p in (0, 0.25, 0.49, 0.5, 1)] == [512, 128, 34, 32, 32]
    assert ramp_window(0.25, ramp, 0) == 23 and ramp_window(0.5, ramp, 0) == 0
    assert ramp_window(0, None, 7) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 3}, 'unknown key "steps"'),
        ({"mode": "half"}, "expected one of retrofit, full, scratch"),
        ({"budget": {}}, '"steps" or "minutes"'),
        ({"data": {"length": 4}}, 'data: expected the key "train"'),
        ({"base": "x"}, 'expected "base" for retrofit'),
        ({"loss": {"kind": "kl"}}, '"loss.teacher" to be a folder'),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr: expected float"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas: expected 2 numbers"),
        ({"anchors": {"windw": 3}}, 'unknown word "windw"'),
        ({"anchors": None, "ramp": {"start": 9}}, 'expected "anchors"'),
        ({"seed": True}, "seed: expected int"),
    ],
)
def test_recipes_that_cannot_be(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        small.recipe(Path("folder"), **change)


def test_recipes_are_changed_by_key(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: x\nmode: scratch\ntokenizer: t\nmodel: {model_type: llama}\n"
        "data: {train: d}\nbudget: {minutes: 3}\n"
    )
    recipe = read_recipe(path, ["budget.steps=5", "loss.next_token=0.5", "data.valid=v"])
    assert recipe.budget.steps == 5 and recipe.budget.minutes == 3.0
    assert recipe.loss.next_token == 0.5 and recipe.data.valid == Path("v")
    # YAML 1.1 takes a number without a point for text.
    assert read_recipe(path, ["optimizer.lr=4e-3"]).optimizer.lr == 0.004
    with pytest.raises(ValueError, match='expected "key=value"'):
        read_recipe(path, ["budget.steps"])


RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_the_package(path: Path):
    recipe = read_recipe(path)
    layers = (recipe.model or {}).get("num_hidden_layers", 30)
    ids = Vocabulary(engine.SHIPPED)
    policy = resolve({"kind": "anchor"}, recipe.anchors, layers, ids)
    assert 0 < sum(policy.dense) < layers


def test_the_recipe_of_the_shipped_model_has_its_shape_and_layout():
    (path,) = (path for path in RECIPES if path.stem == "anchor-code-23m")
    recipe = read_recipe(path)
    config = json.loads((engine.SHIPPED / "config.json").read_text())
    assert {key: config[key] for key in recipe.model} == recipe.model
    ours, theirs = (
        resolve({"kind": "anchor"}, words, 16, Vocabulary(engine.SHIPPED))
        for words in (recipe.anchors, read_folder(engine.SHIPPED))
    )
    assert ours == theirs


def test_validation_text_is_checked(tmp_path: Path):
    small.prepare(tmp_path)
    values = small.recipe(tmp_path).data
    ids = len(Shards(values.valid))
    with pytest.raises(ValueError, match="less than one window"):
        Trainer(small.recipe(tmp_path, data={**plain(values), "length": ids}), tmp_path / "long")
    small.write(tmp_path, tmp_path / "tokenizer", None)
    (tmp_path / "valid").rename(tmp_path / "bare")
    small.write(tmp_path, tmp_path / "tokenizer", 1)
    data = {**plain(values), "valid": str(tmp_path / "bare")}
    with pytest.raises(ValueError, match=r'"insert" 1, but .*bare was written with None'):
        Trainer(small.recipe(tmp_path, data=data), tmp_path / "bare-run")


def test_a_run_that_is_done_stays_as_it_is(tmp_path: Path):
    small.prepare(tmp_path)
    recipe = small.recipe(tmp_path, budget={"steps": 2})
    out = tmp_path / "run"
    Trainer(recipe, out).run()
    before = [(out / name).read_bytes() for name in ("log.csv", "valid.csv")]
    # Looked at, such as for export, and started once more.
    trainer = Trainer(recipe, out)
    assert [(out / name).read_bytes() for name in ("log.csv", "valid.csv")] == before
    trainer.run()
    assert [(out / name).read_bytes() for name in ("log.csv", "valid.csv")] == before


def test_what_fsdp_cannot_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small.prepare(tmp_path)
    out = tmp_path / "run"
    recipe = small.recipe(tmp_path, budget={"steps": 1})
    Trainer(recipe, out).run()
    # A checkpoint written under FSDP lacks this file.
    (found,) = out.glob("checkpoints/*/trained.bin")
    found.unlink()
    with pytest.raises(ValueError, match="can only be taken up under it"):
        Trainer(recipe, out)

    under = SimpleNamespace(distributed_type=DistributedType.FSDP)
    monkeypatch.setattr("anchorcoder_train.trainer.Accelerator", lambda **_: under)
    muon = small.recipe(tmp_path, optimizer={"kind": "muon", "lr": 1e-2})
    with pytest.raises(ValueError, match="expected adamw with FSDP"):
        Trainer(muon, tmp_path / "other")
    assert not (tmp_path / "other").exists()
