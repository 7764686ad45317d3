"""Masks and key positions: worked cases of the specification, and FlexAttention's mask."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from anchorcoder_train.attention import _flex, attach
from anchorcoder_train.layout import build_layout
from anchorcoder_train.positions import heads_per_position, shift_table
from anchorcoder_train.settings import plain_policy, read_words, resolve


def mask_of(ids: list[int], policy: dict, layers: int = 2, **options) -> list[str]:
    resolved = resolve(policy, None, layers)
    layout = build_layout(torch.tensor([ids]), resolved, 1, None)
    rows = layout.mask(False, options.get("window"), False)[0, 0].int().tolist()
    return ["".join(map(str, row)) for row in rows]


ANCHORED = {"kind": "anchor", "tokens": [9], "per": "none"}


def test_the_masks_of_the_specification():
    ids = [9, 1, 1, 1, 9, 1, 1, 1, 9, 1]
    expected = "1000000000 1100000000 1110000000 1111000000 1111100000 "
    expected += "1000110000 1000111000 1000111100 1000111110 1000100011"
    assert mask_of(ids, ANCHORED) == expected.split()
    # Position 0 counts without being one.
    assert mask_of([1, *ids[1:]], ANCHORED) == expected.split()


def test_anllm_masks_anchors_from_anchors():
    # Of the anchors 1 and 3 the second sees its own line alone, the token behind it both.
    seen = mask_of([1, 9, 1, 9, 1], {"kind": "ansan", "tokens": [9]})
    assert seen == ["10000", "11000", "01100", "00110", "01011"]


def test_window_and_sinks():
    policy = {"kind": "window", "size": 2, "sinks": 1}
    assert mask_of([1] * 4, policy) == ["1000", "1100", "1110", "1011"]
    policy = {**ANCHORED, "line": False, "window": 1, "sinks": 2}
    assert mask_of([1, 1, 1, 9, 1], policy) == ["10000", "11000", "11100", "11010", "11011"]


def test_a_sliding_window_of_the_model_leaves_kept_rows():
    assert mask_of([9, 1, 1, 1], ANCHORED, window=2) == ["1000", "1100", "1110", "1011"]


@pytest.mark.parametrize(
    ("m", "n", "heads"),
    [
        (1, 32, "32"),
        (2, 32, "4 28"),
        (4, 32, "0 3 9 20"),
        (5, 32, "0 1 4 9 18"),
        (10, 32, "0 0 0 1 1 2 4 5 8 11"),
        (4, 5, "0 1 1 3"),
        (8, 5, "0 0 0 0 1 1 1 2"),
        (16, 32, "0 0 0 0 0 0 1 1 1 2 2 3 4 5 6 7"),
    ],
)
def test_heads_of_a_line(m: int, n: int, heads: str):
    assert heads_per_position(m, n).tolist() == [int(head) for head in heads.split()]


def test_very_long_lines_do_not_overflow():
    counts = heads_per_position(30_000, 128)
    assert counts.sum() == 128 and counts.min() == 0 and np.all(np.diff(np.flatnonzero(counts)) > 0)


def test_keys_turn_to_places_in_their_line():
    assert shift_table(4, 5)[4].tolist() == [-3, -2, -1, -1, -1]
    assert shift_table(4, 5)[0].tolist() == [0] * 5


def test_flex_attention_sees_what_plain_masks_show():
    torch.manual_seed(1)
    ids = torch.randint(0, 12, (2, 150))
    policy = resolve(
        {"kind": "anchor", "tokens": [3, 4], "dense_layers": [0], "window": 5, "sinks": 2}, None, 2
    )
    layout = build_layout(ids, policy, 2, None)
    query, key, value = (torch.randn(2, heads, 150, 16) for heads in (4, 4, 4))
    for dense in (False, True):
        for window in (None, 40):
            for doubled in (False, True):
                keys, values = (torch.cat([x] * 2, 2) if doubled else x for x in (key, value))
                plain = torch.nn.functional.scaled_dot_product_attention(
                    query, keys, values, attn_mask=layout.mask(dense, window, doubled)
                )
                block = layout.block_mask(dense, window, doubled)
                torch.testing.assert_close(
                    flex_attention(query, keys, values, block_mask=block), plain
                )


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_compiled_flex_attention(groups: int):
    """Forward alone, and by the CPU's kernel: the GPU's was not run."""
    torch.manual_seed(1)
    ids = torch.randint(0, 12, (2, 256))
    policy = resolve({"kind": "anchor", "tokens": [3, 4], "per": "none", "window": 5}, None, 2)
    layout = build_layout(ids, policy, 2, None)
    query, key, value = (torch.randn(2, heads, 256, 16) for heads in (2 * groups, 2, 2))
    keys, values = (torch.cat([x] * 2, 2) for x in (key, value))
    with torch.no_grad():
        ours = _flex(query, keys, values, layout.block_mask(False, None, True), 0.25, 0.0)
        plain = torch.nn.functional.scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=layout.mask(False, None, True),
            scale=0.25,
            enable_gqa=groups > 1,
        )
    torch.testing.assert_close(ours, plain)


def test_settings_are_read_in_both_spellings():
    config = {"per": 8, "anchor_layer": 8, "multilayer": 9, "anchor_token_ids": 3}
    block = {"dense_layers": [1], "window": 4}
    assert read_words({}) is None
    words = read_words({**config, "anchors": block})
    assert words == {
        "dense_layers": [1],
        "window": 4,
        "source_layer": 8,
        "consumers_above": 9,
        "tokens": [3],
    }


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"windw": 3}, "unknown word"),
        ({"sinks": 0}, '"sinks" to be an integer, 1 or more'),
        ({"window": -1}, '"window" to be an integer'),
        ({"tokens": "lines"}, '"tokens" to be'),
        ({"per": True}, '"per" to be'),
    ],
)
def test_wrong_words_are_refused(block: dict, message: str):
    with pytest.raises(ValueError, match=message):
        read_words({"anchors": block})


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"kind": "anchor", "per": 2, "dense_layers": [1], "tokens": [0]}, "but got both"),
        ({"kind": "anchor", "dense_layers": [4], "tokens": [0]}, "different layers from 0 to 3"),
        ({"kind": "anchor", "line": False, "tokens": [0]}, '"window" to be 1 or more'),
        ({"kind": "window", "size": 0}, '"size" to be'),
        ({"kind": "window", "size": 1, "sinks": -1}, '"sinks" to be'),
        ({"kind": "none"}, '"kind" to be one of'),
        ({"kind": "anchor", "per": 8}, "no tokenizer"),
    ],
)
def test_policies_that_cannot_be(policy: dict, message: str):
    with pytest.raises(ValueError, match=message):
        resolve(policy, None, 4)


def test_classes_and_scalings_that_are_not_known():
    with pytest.raises(ValueError, match="expected a model of the class"):
        attach(SimpleNamespace(config=SimpleNamespace(model_type="gpt2")), plain_policy(1))
    rope = {"rope_type": "dynamic"}
    config = SimpleNamespace(model_type="llama", rope_parameters=rope)
    with pytest.raises(ValueError, match="rotary positions"):
        attach(SimpleNamespace(config=config), plain_policy(1))
