"""What each token of a batch sees under a policy, derived from the ids alone.

The masks are the engine's: a token sees every row from `start` on, and kept rows before it.
"""

from copy import copy

import torch
from torch import Tensor

from .positions import shift_table
from .settings import Policy


class Layout:
    """Masks and key turns of one batch of B texts with T tokens, for one forward pass.

    All layers share one. It is no dataclass, because what FSDP hands to a layer is a copy of those,
    with other types of numbers.
    """

    def __init__(self, policy: Policy, start: Tensor, kept: Tensor, sees_kept: Tensor) -> None:
        self.policy = policy
        self.start = start  # (B, T) first position from which a token of an anchored layer sees all
        self.kept = kept  # (B, T) whether a position's row is kept for good
        # (B, T) whether a token sees kept rows before `start`; AnLLM's anchors don't
        self.sees_kept = sees_kept
        # (B, key heads, T, head size) by which keys of anchors turn further; None: they don't
        self.cos: Tensor | None = None
        self.sin: Tensor | None = None
        # Keys and values of the source layer, (B, key heads, T, head size), once it has run.
        self.source: tuple[Tensor, Tensor] | None = None
        self.masks: dict = {}

    def with_dense(self, policy: Policy) -> "Layout":
        """The same under a policy that differs in its dense layers only; masks are shared."""
        other = copy(self)
        other.policy, other.source = policy, None
        return other

    def starts(self, dense: bool, window: int | None) -> Tensor:
        """(B, T) `start` in one kind of layer; `window` is the model's own sliding window."""
        start = torch.zeros_like(self.start) if dense else self.start
        if window:
            positions = torch.arange(start.shape[1], device=start.device)
            start = start.maximum(positions - window + 1)
        return start

    def mask(self, dense: bool, window: int | None, doubled: bool) -> Tensor:
        """(B, 1, T, T) what is seen, or (B, 1, T, 2T) with the source layer's rows behind."""
        key = ("plain", dense, window, doubled)
        if key not in self.masks:
            if doubled:
                once = self.mask(dense, window, False)
                self.masks[key] = torch.cat([once, once], dim=-1)
            else:
                positions = torch.arange(self.start.shape[1], device=self.start.device)
                seen = positions >= self.starts(dense, window)[:, :, None]
                if not dense:
                    seen = seen | (self.kept[:, None, :] & self.sees_kept[:, :, None])
                seen = seen & (positions <= positions[:, None])
                self.masks[key] = seen[:, None]
        return self.masks[key]

    def bias(
        self, dense: bool, window: int | None, doubled: bool, dtype: torch.dtype
    ) -> Tensor | None:
        """The same as what is added to scores, 0 or -inf, written once for all layers of a kind;
        None where only the future is hidden, which attention does faster by itself."""
        if dense and not window and not doubled:
            return None
        key = ("bias", dense, window, doubled, dtype)
        if key not in self.masks:
            hidden = ~self.mask(dense, window, doubled)
            self.masks[key] = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            self.masks[key].masked_fill_(hidden, -torch.inf)
        return self.masks[key]

    def block_mask(self, dense: bool, window: int | None, doubled: bool):
        """The same as a FlexAttention BlockMask, which is never written out token by token."""
        from torch.nn.attention.flex_attention import create_block_mask

        key = ("flex", dense, window, doubled)
        if key not in self.masks:
            start, kept, sees_kept = self.starts(dense, window), self.kept, self.sees_kept
            batch, length = start.shape

            def sees(b, head, q, kv):
                at = torch.where(kv >= length, kv - length, kv)
                seen = at >= start[b, q]
                if not dense:
                    seen = seen | (kept[b, at] & sees_kept[b, q])
                return seen & (at <= q)

            keys = 2 * length if doubled else length
            device = start.device
            self.masks[key] = create_block_mask(
                sees, batch, None, length, keys, device=device, _compile=device.type == "cuda"
            )
        return self.masks[key]


def _before(marked: Tensor, positions: Tensor) -> Tensor:
    """(B, T) the last marked position strictly before each one, -1 where there is none."""
    last = torch.where(marked, positions, -1).cummax(dim=1).values
    return torch.nn.functional.pad(last[:, :-1], (1, 0), value=-1)


def build_layout(ids: Tensor, policy: Policy, heads: int, inverse: Tensor | None) -> Layout:
    """The layout of `ids` (B, T), on their device. `heads`: key heads; `inverse` (head size / 2):
    the model's inverse rotary frequencies, None where no key turns."""
    length = ids.shape[1]
    positions = torch.arange(length, device=ids.device).expand_as(ids)
    listed = torch.tensor(policy.anchor_ids, dtype=ids.dtype, device=ids.device)
    is_listed = torch.isin(ids, listed)
    anchors = is_listed | (positions == 0) if policy.first_is_anchor else is_listed

    start = positions
    if policy.line:
        start = start.minimum(_before(anchors, positions) + 1)
    if policy.window > 0:
        start = start.minimum((positions - policy.window + 1).clamp(min=0))
    layout = Layout(
        policy=policy,
        start=start,
        kept=anchors | (positions < policy.sinks),
        sees_kept=torch.ones_like(anchors) if policy.anchor_sees_anchors else ~anchors,
    )
    if policy.multi_head_positions and inverse is not None:
        # Position 0 begins the first line, unless it holds an anchor by its id.
        line = positions - _before(is_listed, positions) - 1
        table = torch.from_numpy(shift_table(length, heads)).to(ids.device)
        shift = torch.where(is_listed[:, :, None], table[line], 0)  # (B, T, heads)
        angle = shift.transpose(1, 2)[..., None].float() * inverse.float()
        layout.cos = torch.cat([angle.cos()] * 2, dim=-1)
        layout.sin = torch.cat([angle.sin()] * 2, dim=-1)
    return layout
