"""Anchor attention for models of transformers, through its own attention interface.

    model = AutoModelForCausalLM.from_pretrained(folder)
    anchors = attach(model, policy)
    logits = model(input_ids=ids).logits        # under the policy
    with anchors.using(plain_policy(layers)):
        dense = model(input_ids=ids).logits     # ordinary attention, same weights

Whole texts are read from their beginning, as training does; there is no cache to go on from.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from .layout import Layout, build_layout
from .settings import Policy, plain_policy

NAME = "anchors"
CLASSES = ("llama", "mistral", "qwen2", "qwen3")
# Others change their frequencies with the text's length.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")

# FlexAttention's default forward tile is slow with masks that read a buffer per token.
KERNEL_OPTIONS = {
    "fwd_BLOCK_M": 64,
    "fwd_BLOCK_N": 64,
    "fwd_num_warps": 4,
    "fwd_num_stages": 3,
}


def _rotate(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns keys (B, heads, T, size), rotated already, by further angles; in float32."""
    wide = keys.float()
    low, high = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat([-high, low], dim=-1) * sin).to(keys.dtype)


def anchor_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    attention_mask: Tensor | None = None,
    **_: object,
) -> None:
    """Stands where transformers makes masks: ours depend on ids, which are not known there."""
    if q_length != kv_length:
        raise ValueError("anchor attention reads whole texts: expected use_cache=False")
    if attention_mask is not None and not bool(attention_mask[:, 0].all()):
        raise ValueError(
            "anchor attention expects texts that begin at position 0: pad on the right"
        )


def anchor_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    anchors: Layout | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of one layer: query (B, heads, T, size), key and value (B, key heads, T, size).
    Returns (B, T, heads, size)."""
    if anchors is None:
        raise RuntimeError("expected attach(model, policy) to have been called on this model")
    policy, layer = anchors.policy, module.layer_idx
    if anchors.cos is not None:
        key = _rotate(key, anchors.cos, anchors.sin)
    # Under autocast the turned ones are wider than the values.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if layer == policy.source_layer:
        anchors.source = (key, value)
    doubled = policy.is_consumer(layer)
    if doubled:
        key, value = (torch.cat(pair, dim=2) for pair in zip((key, value), anchors.source))
    seen = (policy.dense[layer], sliding_window, doubled)
    grouped = query.shape[1] != key.shape[1]
    if query.is_cuda:
        mixed = _flex(query, key, value, anchors.block_mask(*seen), scaling, dropout)
    else:
        mask = anchors.bias(*seen, query.dtype)
        mixed = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=grouped,
        )
    return mixed.transpose(1, 2).contiguous(), None


_compiled = None


def _flex(query: Tensor, key: Tensor, value: Tensor, mask, scaling: float | None, dropout: float):
    """FlexAttention, compiled at the first call (a minute or two)."""
    from torch.nn.attention.flex_attention import flex_attention

    global _compiled
    if dropout > 0:
        raise ValueError("FlexAttention has no dropout: expected attention_dropout 0")
    if _compiled is None:
        _compiled = torch.compile(flex_attention)
    groups = query.shape[1] // key.shape[1]
    if groups & (groups - 1):
        # Its kernels want a power of two.
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        groups = 1
    return _compiled(
        query,
        key,
        value,
        block_mask=mask,
        scale=scaling,
        enable_gqa=groups > 1,
        kernel_options=KERNEL_OPTIONS,
    )


AttentionInterface.register(NAME, anchor_attention)
AttentionMaskInterface.register(NAME, anchor_mask)


class Anchors:
    """A model's anchor attention; `policy` may change between passes."""

    def __init__(self, model: PreTrainedModel, policy: Policy) -> None:
        config = model.config
        self.layers = config.num_hidden_layers
        self.policy = policy
        self._decoder = model.get_decoder()
        self._heads = config.num_key_value_heads
        self._hook = self._decoder.register_forward_pre_hook(self._add_layout, with_kwargs=True)

    @property
    def policy(self) -> Policy:
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        if len(policy.dense) != self.layers:
            given = len(policy.dense)
            raise ValueError(f"expected a policy for {self.layers} layers, but got one for {given}")
        self._policy = policy

    @contextmanager
    def using(self, policy: Policy) -> Iterator[None]:
        """Another policy for a while."""
        before, self.policy = self._policy, policy
        try:
            yield
        finally:
            self.policy = before

    def plain(self):
        """Ordinary causal attention for a while."""
        return self.using(plain_policy(self.layers))

    def detach(self) -> None:
        self._hook.remove()

    def _add_layout(self, decoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None:
            raise ValueError("anchor attention needs input_ids, which say where anchors are")
        kwargs["use_cache"] = False
        inverse = decoder.rotary_emb.inv_freq
        kwargs["anchors"] = build_layout(ids, self._policy, self._heads, inverse)
        return args, kwargs


def attach(model: PreTrainedModel, policy: Policy) -> Anchors:
    """Gives `model` (a causal model of transformers, before peft wraps it) anchor attention.

    Raises ValueError for a class or a rotary scaling that it does not know.
    """
    config = model.config
    if config.model_type not in CLASSES:
        known = ", ".join(CLASSES)
        raise ValueError(f"expected a model of the class {known}, but got {config.model_type}")
    rope = config.rope_parameters
    if rope["rope_type"] not in ROPE_TYPES or rope.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"expected rotary positions of type {', '.join(ROPE_TYPES)}, got {rope}")
    model.set_attn_implementation(NAME)
    return Anchors(model, policy)
