"""The greedy search finds what trying all pairs finds, and reports what a plain pass gives."""

import json
import subprocess
import sys
from pathlib import Path

import engine
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from anchorcoder_train.attention import attach
from anchorcoder_train.dense import Search, kl_sum
from anchorcoder_train.settings import resolve
from anchorcoder_train.texts import Document, write_lines


@pytest.fixture
def search() -> Search:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    policy = resolve({"kind": "anchor", "tokens": [3], "per": "none", "window": 4}, None, 5)
    texts = [torch.randint(0, 61, (1, 90)) for _ in range(3)]
    return Search(model, attach(model, policy), policy, texts)


def test_a_trial_equals_a_whole_pass(search: Search):
    anchors = attach(search.model, search.policy)
    for dense in ([], [2], [4, 0]):
        total = 0.0
        with torch.no_grad(), anchors.using(search._policy(dense)):
            for window in search.windows:
                total += kl_sum(window.dense, search.model(input_ids=window.ids).logits[0])
        assert search.divergence(dense) == pytest.approx(total / search.tokens, rel=1e-4)
    assert search.divergence(range(5)) == pytest.approx(0, abs=1e-6)


def test_every_round_takes_the_best_layer(search: Search):
    for _ in range(3):
        before = list(search.chosen)
        left = [layer for layer in range(5) if layer not in before]
        expected = {layer: search.divergence([*before, layer]) for layer in left}
        found = search.step(left)
        best = min(expected, key=expected.__getitem__)
        assert search.chosen == [*before, best]
        assert found[0].layer == best and found[0].is_whole
        assert sorted(trial.layer for trial in found) == left
        for trial in found:
            if trial.is_whole:
                assert trial.kl == pytest.approx(expected[trial.layer], rel=1e-4)
            else:
                assert expected[trial.layer] > expected[best]


def test_kl_of_equal_and_of_other_logits():
    logits = torch.randn(7, 11)
    assert kl_sum(logits, logits + 3) == pytest.approx(0, abs=1e-6)
    other = torch.randn(7, 11)
    p, q = logits.softmax(-1), other.softmax(-1)
    assert kl_sum(logits, other, rows=3) == pytest.approx(
        float((p * (p / q).log()).sum()), rel=1e-5
    )


def test_the_command(tmp_path: Path):
    texts = [Document("py", "p", str(n), f"x{n} = 1\ny = x{n} + 2\n" * 40) for n in range(3)]
    write_lines(tmp_path / "texts.jsonl", texts)
    command = [sys.executable, "train/layers.py", str(engine.SHIPPED)]
    command += ["--texts", str(tmp_path / "texts.jsonl"), "--out", str(tmp_path), "--number", "2"]
    command += ["--length", "120", "--search", "1", "--fresh", "1", "--candidates", "3"]
    done = subprocess.run(command, cwd=engine.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 2 + 1 + 16 + 3
    report = json.loads((tmp_path / "layers.json").read_text())
    assert len(report["dense_layers"]) == 2 and len(report["rounds"]) == 2
    assert [entry["dense"] for entry in report["fresh"]] == [report["dense_layers"], [], [0, 8]]
    assert len(report["rounds"][0]) == 16 and len(report["rounds"][1]) == 3
    assert (tmp_path / "layers.svg").stat().st_size > 0
