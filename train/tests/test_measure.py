"""Losses are those of the engine's logits, and count text, bytes and anchors as they should."""

import engine
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from anchorcoder_train.attention import attach
from anchorcoder_train.measure import measure, text_ids
from anchorcoder_train.settings import read_folder, resolve
from anchorcoder_train.vocabulary import Vocabulary

TEXTS = ["def f(x):\r\n\treturn 'é'\r\n\r\n", "let a = 1;\nlet b = a;\n", ""]


def test_losses_of_the_shipped_model():
    vocabulary, words = Vocabulary(engine.SHIPPED), read_folder(engine.SHIPPED)
    model = AutoModelForCausalLM.from_pretrained(engine.SHIPPED, dtype=torch.float32).eval()
    attach(model, resolve({"kind": "anchor"}, words, 16, vocabulary))
    found = measure(model, TEXTS, vocabulary, words, 2048)
    nats, anchor_nats = 0.0, 0.0
    for text in TEXTS[:2]:
        ids = text_ids(vocabulary, text, words)
        (logits,) = engine.logits(engine.SHIPPED, ids, [{"kind": "anchor"}])
        wide = logits[:-1].astype(np.float64)
        rows = np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1)) + wide.max(1)
        losses = rows - wide[np.arange(len(ids) - 1), ids[1:]]
        is_anchor = np.array(ids[1:]) == 1
        nats += losses[~is_anchor].sum()
        anchor_nats += losses[is_anchor].sum()
    assert found.nats == pytest.approx(nats, rel=1e-4)
    assert found.anchor_nats == pytest.approx(anchor_nats, rel=1e-3, abs=1e-6)
    assert found.anchor_targets == 5
    assert found.byte_count == sum(len(text.encode()) for text in TEXTS)
    assert found.report()["nats_per_byte"] == pytest.approx(nats / found.byte_count, rel=1e-4)


def test_texts_are_cut():
    vocabulary, words = Vocabulary(engine.SHIPPED), read_folder(engine.SHIPPED)
    model = AutoModelForCausalLM.from_pretrained(engine.SHIPPED, dtype=torch.float32).eval()
    attach(model, resolve({"kind": "full"}, words, 16, vocabulary))
    ids = text_ids(vocabulary, TEXTS[0], words)
    found = measure(model, TEXTS[:1], vocabulary, words, 4)
    assert found.targets + found.anchor_targets == 4
    # The last target is the id behind the last one that is read.
    assert found.byte_count == vocabulary.byte_counts[ids[1:5]].sum()
