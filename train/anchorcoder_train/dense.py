"""Chooses which layers stay dense, greedily by KL divergence from the model's own attention."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .attention import Anchors
from .layout import Layout, build_layout
from .settings import Policy


def kl_sum(dense: Tensor, logits: Tensor, rows: int = 512) -> float:
    """Sum over tokens of KL(dense || other) in nats, from two (T, vocabulary) logits."""
    total = 0.0
    for p, q in zip(dense.split(rows), logits.split(rows)):
        p, q = p.float().log_softmax(-1), q.float().log_softmax(-1)
        total += float((p.exp() * (p - q)).sum(dtype=torch.float64))
    return total


@dataclass
class Window:
    """One text: its ids, what the dense model makes of it, and the states to go on from."""

    ids: Tensor  # (1, T)
    dense: Tensor  # (T, vocabulary) logits of ordinary attention
    layout: Layout
    # (layers) the input of each layer, (1, T, hidden), under the layers chosen so far
    inputs: list[Tensor]


@dataclass
class Trial:
    """What a layer gives beside those chosen before."""

    layer: int
    kl: float  # nats per token
    is_whole: bool  # False: it could not win any more, and `kl` is of the first texts alone


class Search:
    """Tries layers one by one on a few texts.

    A layer's change leaves the layers below it as they are, so a trial begins at that layer; and
    since no token's divergence is negative, it ends where its sum exceeds the best one so far.
    """

    def __init__(
        self, model: PreTrainedModel, anchors: Anchors, policy: Policy, texts: Iterable[Tensor]
    ) -> None:
        """`policy`: all but which layers are dense; without layer-wise attention. `texts`: ids
        (1, T) of each."""
        if policy.source_layer >= 0:
            raise ValueError("layers are chosen without layer-wise attention")
        self.model, self.decoder = model, model.get_decoder()
        self.layers = model.config.num_hidden_layers
        self.policy = replace(policy, dense=(False,) * self.layers)
        self.chosen: list[int] = []
        self.windows: list[Window] = []
        heads = model.config.num_key_value_heads
        inverse = self.decoder.rotary_emb.inv_freq
        with torch.no_grad():
            for ids in texts:
                with anchors.plain():
                    dense = model(input_ids=ids).logits[0]
                layout = build_layout(ids, self.policy, heads, inverse)
                self.windows.append(Window(ids, dense, layout, []))
        self.tokens = sum(window.ids.shape[1] for window in self.windows)
        self._keep(0)

    def _policy(self, dense: Iterable[int]) -> Policy:
        return replace(self.policy, dense=tuple(layer in dense for layer in range(self.layers)))

    @torch.no_grad()
    def _states(self, window: Window, dense: Iterable[int], start: int) -> list[Tensor]:
        """(1, T, hidden) inputs of the layers from `start` on, and the output of the last one."""
        layout = window.layout.with_dense(self._policy(dense))
        hidden = window.inputs[start] if start > 0 else self.decoder.embed_tokens(window.ids)
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        turns = self.decoder.rotary_emb(hidden, position_ids=positions)
        states = [hidden]
        for layer in self.decoder.layers[start:]:
            states.append(
                layer(
                    states[-1],
                    attention_mask=None,
                    position_ids=positions,
                    position_embeddings=turns,
                    anchors=layout,
                )
            )
        return states

    @torch.no_grad()
    def _sum(self, window: Window, dense: Iterable[int], start: int) -> float:
        """KL sum of a window, its layers from `start` on computed anew."""
        last = self._states(window, dense, start)[-1]
        return kl_sum(window.dense, self.model.lm_head(self.decoder.norm(last))[0])

    def _keep(self, start: int) -> None:
        """Remembers the inputs of the layers from `start` on, under the layers chosen so far."""
        for window in self.windows:
            window.inputs[start:] = self._states(window, self.chosen, start)[:-1]

    def divergence(self, dense: Iterable[int]) -> float:
        """Nats per token with these layers dense."""
        return sum(self._sum(window, list(dense), 0) for window in self.windows) / self.tokens

    def step(
        self, candidates: Iterable[int], tick: Callable[[], None] = lambda: None
    ) -> list[Trial]:
        """Makes the best one of `candidates` dense. Returns what each gave, best first."""
        trials: list[Trial] = []
        best = math.inf
        for layer in candidates:
            total, tokens = 0.0, 0
            for window in self.windows:
                total += self._sum(window, [*self.chosen, layer], layer)
                tokens += window.ids.shape[1]
                if total > best:
                    break
            trials.append(Trial(layer, total / tokens, tokens == self.tokens))
            best = min(best, total) if tokens == self.tokens else best
            tick()
        # One that was given up lost to a whole one, however its first texts look.
        whole = [trial for trial in trials if trial.is_whole]
        first = min(whole, key=lambda trial: trial.kl).layer
        self.chosen.append(first)
        self._keep(first)
        return sorted(trials, key=lambda trial: (trial.layer != first, trial.kl))
