"""The loss of one batch: next-token, or divergence from a teacher with ordinary attention."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .build import Built
from .recipe import Loss

_ROWS = 2048


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """(N) KL(teacher || student) of rows (N, vocabulary), in float32."""
    p, q = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    # A column that is left out is -inf in both, and counts 0.
    terms = p.exp() * (p - q).masked_fill(p == -torch.inf, 0)
    return terms.sum(-1)


def _next_token(student: Tensor, targets: Tensor) -> Tensor:
    """(N) nats of targets (N) by rows (N, vocabulary), in float32."""
    return nn.functional.cross_entropy(student.float(), targets, reduction="none")


def _by_rows(function, *tensors: Tensor) -> Tensor:
    """`function` on a few rows at a time; what it needs for gradients is computed again, because
    float32 rows of a whole batch would fill the memory."""
    parts = zip(*(tensor.split(_ROWS) for tensor in tensors))
    return torch.cat([checkpoint(function, *part, use_reentrant=False) for part in parts])


def without(ids: Tensor, id: int) -> tuple[Tensor, Tensor]:
    """`ids` (B, T) with one id taken out, padded with 0 on the right to (B, S); and (B, T) the
    place there of every id that stayed, -1 for those that went."""
    stays = ids != id
    places = (stays.cumsum(1) - 1).masked_fill(~stays, -1)
    packed = ids.new_zeros(ids.shape[0], max(1, int(stays.sum(1).max())))
    rows = torch.arange(ids.shape[0], device=ids.device)[:, None].expand_as(ids)
    packed[rows[stays], places[stays]] = ids[stays]
    return packed, places


class Learner(nn.Module):
    """Holds the model, so that what spreads it over devices wraps one module with one forward."""

    def __init__(self, built: Built, loss: Loss) -> None:
        super().__init__()
        self.model = built.model
        self.anchors = built.anchors
        self.insert = built.insert
        self.loss = loss
        # Where FSDP may cut.
        self._no_split_modules = built.model._no_split_modules
        # In a list it is no part of the module: neither trained, nor saved, nor spread.
        self._teacher = [built.teacher]

    def tie_weights(self) -> None:
        """For FSDP, which takes the model apart and asks for this."""
        self.model.tie_weights()

    @contextmanager
    def _as_teacher(self):
        """The model itself with ordinary attention and its adapter off."""
        was_training = self.model.training
        self.model.eval()
        with self.model.disable_adapter(), self.anchors.plain():
            yield
        self.model.train(was_training)

    @torch.no_grad()
    def _teach(self, ids: Tensor) -> Tensor:
        """(B, T, vocabulary) the teacher's logits."""
        other = self._teacher[0]
        if other is not None:
            return other(input_ids=ids).logits
        with self._as_teacher():
            return self.model(input_ids=ids).logits

    def forward(self, ids: Tensor, only_logits: bool = False) -> Tensor | dict[str, Tensor]:
        """`ids` (B, T + 1). Returns scalars: `loss` to be made small, and its parts; or the
        logits (B, T, vocabulary)."""
        targets = ids[:, 1:]
        logits = self.model(input_ids=ids[:, :-1]).logits
        if only_logits:
            return logits
        if self.loss.kind == "next-token":
            nats = _by_rows(_next_token, logits.flatten(0, 1), targets.flatten())
            return {"loss": nats.mean(), "next_token": nats.detach().mean()}
        skips = self.insert is not None and not self.loss.teacher_reads_anchors
        kl, of_anchors = self._aligned(ids, logits) if skips else self._same_ids(ids, logits)
        count = targets.numel()
        loss = (kl.sum() + of_anchors.sum()) / count
        parts = {"kl": kl.detach().mean(), "anchor_nats": of_anchors.detach().mean()}
        if self.loss.next_token > 0:
            nats = _by_rows(_next_token, logits.flatten(0, 1), targets.flatten())
            loss = loss + self.loss.next_token * nats.mean()
            parts["next_token"] = nats.detach().mean()
        return {"loss": loss, **parts}

    def _same_ids(self, ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence at every position, of a teacher that reads the same ids."""
        teacher = self._teach(ids[:, :-1])
        width = min(teacher.shape[-1], logits.shape[-1])
        rows = (logits[..., :width].flatten(0, 1), teacher[..., :width].flatten(0, 1))
        return _by_rows(_divergence, *rows), logits.new_zeros(1)

    def _aligned(self, ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence where the target is text, of a teacher that reads the text without inserted
        anchors; and the next-token loss where the target is an anchor.

        The row behind an anchor stands beside the teacher's row behind the newline before it: both
        give the next line's first token.
        """
        targets = ids[:, 1:]
        bare, places = without(ids, self.insert)
        teacher = self._teach(bare)
        # The teacher's row that gives a target is the one before the target's place.
        before = places[:, 1:] - 1
        of_text = before >= 0
        rows = torch.arange(ids.shape[0], device=ids.device)[:, None].expand_as(before)
        student, taught = logits[of_text], teacher[rows[of_text], before[of_text]]
        width = min(student.shape[-1], taught.shape[-1])
        # The anchor has no part in text, as the engine has it.
        left_out = torch.zeros(width, device=ids.device, dtype=torch.bool)
        if self.insert < width:
            left_out[self.insert] = True
        student, taught = (
            part[:, :width].masked_fill(left_out, -torch.inf) for part in (student, taught)
        )
        of_anchor = targets == self.insert
        nats = _by_rows(_next_token, logits[of_anchor], targets[of_anchor])
        return _by_rows(_divergence, student, taught), nats
