"""Attention on a GPU, which is FlexAttention there, against plain masks on the CPU: logits and
gradients. Without a GPU these are skipped. The tests of training use the GPU where there is one."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from anchorcoder_train.attention import attach
from anchorcoder_train.settings import resolve

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

LAYERS = 4
ANCHOR = {"kind": "anchor", "tokens": [3, 4]}
POLICIES = {
    "dense and anchored layers": {**ANCHOR, "per": 2, "source_layer": None},
    "window and sinks": {"kind": "window", "size": 40, "sinks": 4},
    "AnLLM's mask": {"kind": "ansan", "tokens": [3, 4]},
    "layer-wise attention and multi-head positions": {
        **ANCHOR,
        "dense_layers": [0, 1],
        "source_layer": 1,
        "consumers_above": 1,
        "multi_head_positions": True,
        "window": 5,
    },
}


def read(device: str, policy: dict, groups: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and gradients of a small random model, on the CPU."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=2 * groups * 64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=2 * groups,
        num_key_value_heads=2,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config).to(device)
    attach(model, resolve(policy, None, LAYERS))
    # No multiple of a tile, and two texts whose anchors differ.
    ids = torch.randint(0, 64, (2, 301), generator=torch.Generator().manual_seed(5)).to(device)
    logits = model(input_ids=ids[:, :-1]).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    gradients = {name: one.grad.cpu() for name, one in model.named_parameters()}
    return logits.detach().cpu(), gradients


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_logits_and_gradients_are_those_of_plain_masks(policy: dict, groups: int):
    expected, expected_gradients = read("cpu", policy, groups)
    logits, gradients = read("cuda", policy, groups)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        known = expected_gradients[name]
        largest = float(known.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(gradient, known, rtol=0, atol=2e-3 * largest, msg=name)
