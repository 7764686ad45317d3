"""Optimizers of a recipe, and how rate and window change over a run."""

import math

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from . import recipe as recipes
from .build import trained


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and ".layers." in name


def _groups(named: dict[str, nn.Parameter], settings: recipes.Optimizer) -> list[dict]:
    """Groups of AdamW: rows of an inserted anchor have their own rate, and vectors no decay."""
    rows = [one for name, one in named.items() if "trainable_tokens" in name]
    vectors = [one for name, one in named.items() if one.ndim < 2]
    apart = {id(one) for one in [*rows, *vectors]}
    others = [one for one in named.values() if id(one) not in apart]
    groups = [
        {"params": others, "lr": settings.lr},
        {"params": vectors, "lr": settings.lr, "weight_decay": 0.0},
        {"params": rows, "lr": settings.rows_lr or settings.lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizers(module: nn.Module, settings: recipes.Optimizer) -> list[Optimizer]:
    """One optimizer, or with muon two. Each group keeps its highest rate as `peak`."""
    named = trained(module)
    made: list[Optimizer] = []
    if settings.kind == "muon":
        matrices = [one for name, one in named.items() if _is_matrix(name, one)]
        named = {name: one for name, one in named.items() if not _is_matrix(name, one)}
        rate = settings.matrix_lr or settings.lr
        # Updates as large as AdamW's, so that rates mean the same for both.
        muon = Muon(
            matrices, lr=rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        made.append(muon)
    groups = _groups(named, settings)
    if groups:
        decay = settings.weight_decay
        made.append(AdamW(groups, lr=settings.lr, betas=settings.betas, weight_decay=decay))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def rate_factor(progress: float, settings: recipes.Optimizer) -> float:
    """Share of the highest rate at `progress` (0 to 1) of the run."""
    if progress < settings.warmup:
        return progress / settings.warmup
    start = max(settings.decay_from, settings.warmup)
    if progress <= start:
        return 1.0
    done = min(1.0, (progress - start) / (1 - start))
    left = 1 - done if settings.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return settings.floor + (1 - settings.floor) * left


def ramp_window(progress: float, ramp: recipes.Ramp | None, end: int) -> int:
    """The window of anchored layers at `progress`: from wide to its own size, by equal factors."""
    if ramp is None or progress >= ramp.share or ramp.start <= end:
        return end
    least = max(1, end)
    return max(least, round(ramp.start * (least / ramp.start) ** (progress / ramp.share)))
