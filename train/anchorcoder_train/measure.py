"""Loss of a model on texts, in nats per byte: anchors' own targets are left out and given apart."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from .settings import Words
from .vocabulary import Vocabulary


@dataclass
class Losses:
    """Sums over the targets of any number of texts."""

    nats: float = 0.0
    targets: int = 0
    byte_count: int = 0
    anchor_nats: float = 0.0
    anchor_targets: int = 0
    by_file: list[float] = field(default_factory=list)

    def report(self) -> dict[str, float]:
        """What is printed and stored."""
        return {
            "nats_per_byte": self.nats / max(1, self.byte_count),
            "nats_per_target": self.nats / max(1, self.targets),
            "targets": self.targets,
            "bytes": self.byte_count,
            "anchor_nats": self.anchor_nats / max(1, self.anchor_targets),
            "anchor_targets": self.anchor_targets,
        }


def text_ids(vocabulary: Vocabulary, text: str, words: Words | None) -> list[int]:
    """Ids of a whole text as the engine reads it: the tokenizer's first ids, anchors inserted."""
    insert = vocabulary.inserted_id(words)
    indent = (words or {}).get("indent", "none")
    return vocabulary.first_ids + vocabulary.encode_anchored([text], insert, indent)[0]


def token_losses(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """(B, T - 1) nats of each next token of `ids` (B, T)."""
    logits = model(input_ids=ids[:, :-1]).logits.float()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    return losses.view(ids.shape[0], -1)


@torch.no_grad()
def measure(
    model: PreTrainedModel,
    texts: Iterable[str],
    vocabulary: Vocabulary,
    words: Words | None,
    length: int,
) -> Losses:
    """Losses on each text by itself, its first `length` ids as input. Control tokens are no text:
    of those only the inserted anchor is counted, apart."""
    device = next(model.parameters()).device
    byte_counts = vocabulary.byte_counts
    is_control = np.zeros(len(byte_counts), dtype=bool)
    is_control[vocabulary.control_ids] = True
    insert = vocabulary.inserted_id(words)
    total = Losses()
    for text in texts:
        ids = np.array(text_ids(vocabulary, text, words)[: length + 1])
        if len(ids) < 2:
            continue
        losses = token_losses(model, torch.tensor(ids, device=device)[None])[0].cpu().numpy()
        targets = ids[1:]
        of_text = ~is_control[targets]
        nats = float(losses[of_text].sum(dtype=np.float64))
        size = int(byte_counts[targets[of_text]].sum())
        total.nats += nats
        total.targets += int(of_text.sum())
        total.byte_count += size
        of_anchor = targets == insert
        total.anchor_nats += float(losses[of_anchor].sum(dtype=np.float64))
        total.anchor_targets += int(of_anchor.sum())
        total.by_file.append(nats / max(1, size))
    return total
