"""Ids of odd texts are the engine's, anchors included."""

import json
import shutil
from pathlib import Path

import engine
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from anchorcoder_train.vocabulary import Vocabulary

TEXTS = [
    "",
    "\n",
    "\n\n\n",
    "x",
    "def f(x):\n    return x\n",
    "def f(x):\r\n\treturn x\r\n",
    "a\rb\r\r\nc\n\r\nd",
    "\ttab\n\t\ttwo\n    four\n        eight",
    " leading\n trailing \n  \n",
    "no newline at the end",
    "unicode: é ü ß 漢字 🎉🏳️‍🌈 \u200b\ufeff\n\u2028\u2029\x0b\x0c\x85 separators\n",
    "<ANCHOR>\n<|endoftext|> <|fim_suffix|>\n<s></s>",
    "it's we'll I'D 123456 0x1F\n",
    "if x:\n\n\n\n        pass\n}\n\n",
    "\x00\x01\x7f control\n",
    "x = '" + "long " * 3000 + "'\n",
]


@pytest.fixture
def shipped() -> Vocabulary:
    return Vocabulary(engine.SHIPPED)


def folder_with(tokenizer: Path, target: Path) -> Path:
    """A tiny model around a tokenizer, since the engine opens models only."""
    size = Vocabulary(tokenizer).size
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(target)
    for path in tokenizer.glob("*.json"):
        if path.name != "encodings.json":
            shutil.copy(path, target / path.name)
    return target


def test_the_shipped_model(shipped: Vocabulary):
    theirs = engine.token_ids(engine.SHIPPED, TEXTS, {})
    ours = shipped.encode_anchored(TEXTS, shipped.inserted_id(None))
    assert [shipped.first_ids + ids for ids in ours] == theirs


@pytest.mark.parametrize("name", ["newlines", "sentencepiece"])
@pytest.mark.parametrize("insert", [True, False])
@pytest.mark.parametrize("indent", ["none", "tab4"])
def test_other_vocabularies(name: str, insert: bool, indent: str, tmp_path: Path):
    folder = folder_with(engine.ROOT / "test" / "golden" / "tokenizer" / name, tmp_path / "model")
    vocabulary = Vocabulary(folder)
    # Any id can be inserted; one that text does not have shows clearly.
    id = vocabulary.anchor_id if vocabulary.anchor_id is not None else vocabulary.size - 1
    options = {"anchors": {"tokens": [id], "insert": id if insert else None, "indent": indent}}
    theirs = engine.token_ids(folder, TEXTS, options)
    ours = vocabulary.encode_anchored(TEXTS, id if insert else None, indent)
    for text, mine, expected in zip(TEXTS, ours, theirs):
        assert vocabulary.first_ids + mine == expected, text


def test_a_text_with_a_hole(shipped: Vocabulary):
    prefix, suffix = "def f():\n    x = ", "\n    return x\n"
    theirs = engine.hole_ids(engine.SHIPPED, prefix, suffix)
    anchor = shipped.inserted_id(None)
    before = shipped.encode_anchored([prefix], anchor)[0]
    behind = shipped.encode_anchored([suffix], anchor, continued=True)[0]
    parts = {"{prefix}": before, "{suffix}": behind}
    ours = [id for part in shipped.hole_format for id in parts.get(part) or [shipped.id_of(part)]]
    assert shipped.first_ids + ours == theirs


def test_bytes_add_up_to_the_text(shipped: Vocabulary):
    text = TEXTS[10]
    ids = shipped.encode_anchored([text], shipped.inserted_id(None))[0]
    assert b"".join(shipped.bytes_of[id] for id in ids) == text.encode()
    assert shipped.byte_counts[ids].sum() == len(text.encode())


def test_what_is_inserted(shipped: Vocabulary):
    assert shipped.inserted_id(None) == 1
    assert shipped.inserted_id({"tokens": [0, 1]}) == 1
    assert shipped.inserted_id({"tokens": [0]}) is None
    assert shipped.inserted_id({"tokens": "newline"}) is None
    assert shipped.inserted_id({"insert": None}) is None
    assert shipped.inserted_id({"insert": "<|fim_suffix|>"}) == 2
    with pytest.raises(ValueError, match="has no token"):
        shipped.inserted_id({"insert": "<nothing>"})


def test_newline_ids_of_merging_vocabularies(tmp_path: Path):
    source = engine.ROOT / "test" / "golden" / "tokenizer" / "newlines"
    vocabulary = Vocabulary(source)
    assert len(vocabulary.newline_ids) > 1
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    by_id = {id: piece for piece, id in tokenizer["model"]["vocab"].items()}
    # Ċ is how byte-level vocabularies write a newline.
    assert all("Ċ" in by_id[id] for id in vocabulary.newline_ids)
