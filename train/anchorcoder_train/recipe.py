"""Recipes: one YAML file says how a model is made. Unknown keys and contradictions are refused."""

import dataclasses
import types
import typing
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from .settings import check_block


@dataclass
class Data:
    """Packed ids, as `prepare.py shards` writes them."""

    train: Path
    valid: Path | None = None
    length: int = 1024  # ids of a window
    batch: int = 8  # windows of a pass, on each device
    accumulate: int = 1  # passes of a step
    valid_windows: int = 32  # first windows of `valid` that are measured


@dataclass
class Loss:
    """`next-token`: the authors' way, anchors among the targets. `kl`: forward KL divergence from
    a teacher with ordinary attention."""

    kind: Literal["next-token", "kl"] = "next-token"
    # "self": the model's own weights with the adapter off. Else a model folder, such as a twin's.
    teacher: str = "self"
    # Whether the teacher reads inserted anchors: a twin was trained with them, a base was not.
    teacher_reads_anchors: bool = False
    next_token: float = 0.0  # weight of the next-token loss beside the divergence


@dataclass
class Lora:
    rank: int = 32
    alpha: int = 64
    dropout: float = 0.0
    targets: Literal["all", "attention"] = "all"  # all seven projections, or q, k, v and o


@dataclass
class Optimizer:
    kind: Literal["adamw", "muon"] = "adamw"  # muon: for matrices; AdamW for the rest
    lr: float = 2e-4
    matrix_lr: float | None = None  # of muon's matrices, `lr` without it
    rows_lr: float | None = None  # of an inserted anchor's rows, `lr` without it
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    warmup: float = 0.03  # share of the run
    decay: Literal["linear", "cosine"] = "linear"
    decay_from: float = 0.0  # share of the run after which the rate falls
    floor: float = 0.0  # share of the rate that is left at the end


@dataclass
class Ramp:
    """The window of anchored layers falls from `start` to its own size in a share of the run."""

    start: int
    share: float = 0.15


@dataclass
class Budget:
    """The run ends at whichever comes first."""

    steps: int | None = None
    minutes: float | None = None


@dataclass
class Checkpoint:
    minutes: float = 2.0
    keep: int = 2
    valid_steps: int = 200  # steps between measurements


@dataclass
class Recipe:
    name: str
    mode: Literal["retrofit", "full", "scratch"]
    tokenizer: Path  # folder with tokenizer.json
    data: Data
    budget: Budget
    base: Path | None = None  # folder of the model to train on
    model: dict[str, Any] | None = None  # config of the model to make, for `scratch`
    anchors: dict[str, Any] | None = None  # block of config.json; null: ordinary attention
    policy: Literal["anchor", "ansan"] = "anchor"  # ansan: AnLLM's mask, of which `tokens` counts
    loss: Loss = field(default_factory=Loss)
    lora: Lora = field(default_factory=Lora)
    optimizer: Optimizer = field(default_factory=Optimizer)
    ramp: Ramp | None = None
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: bool = False
    seed: int = 0

    def check(self) -> None:
        """Raises ValueError for settings that contradict each other."""
        if (self.mode == "scratch") == (self.base is not None):
            raise ValueError('expected "base" for retrofit and full, "model" for scratch')
        if (self.mode == "scratch") != (self.model is not None):
            raise ValueError('expected "model" for scratch and for nothing else')
        if self.budget.steps is None and self.budget.minutes is None:
            raise ValueError('expected "budget" to have "steps" or "minutes"')
        if self.mode != "retrofit" and self.loss.kind == "kl" and self.loss.teacher == "self":
            raise ValueError('expected "loss.teacher" to be a folder: without an adapter no model')
        if self.anchors is None and (self.mode == "retrofit" or self.ramp is not None):
            raise ValueError('expected "anchors": a retrofit, and a ramp, need them')
        if self.anchors is not None:
            check_block(self.anchors)


def _fill(kind: Any, value: Any, where: str) -> Any:
    """`value` as an object of the type `kind`. Raises ValueError."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected keys and values, but got {value!r}")
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise ValueError(f'{where}: unknown key "{unknown[0]}"; known: {", ".join(hints)}')
        missing = [
            one.name
            for one in dataclasses.fields(kind)
            if one.default is dataclasses.MISSING
            and one.default_factory is dataclasses.MISSING
            and one.name not in value
        ]
        if missing:
            raise ValueError(f'{where}: expected the key "{missing[0]}"')
        prefix = "" if where == "recipe" else f"{where}."
        return kind(**{key: _fill(hints[key], value[key], prefix + key) for key in value})
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if value is None and type(None) in inside:
            return None
        return _fill(next(one for one in inside if one is not type(None)), value, where)
    if origin is Literal:
        if value not in inside:
            raise ValueError(f"{where}: expected one of {', '.join(inside)}, but got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(inside):
            raise ValueError(f"{where}: expected {len(inside)} numbers, but got {value!r}")
        return tuple(_fill(one, part, where) for one, part in zip(inside, value))
    wanted = origin or kind
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is float and isinstance(value, str):
        # YAML 1.1 reads 4e-3 as text, and 4.0e-3 as a number.
        with suppress(ValueError):
            return float(value)
    if (isinstance(value, bool) and wanted is not bool) or not isinstance(value, wanted):
        raise ValueError(f"{where}: expected {wanted.__name__}, but got {value!r}")
    return value


def recipe_of(values: dict[str, Any]) -> Recipe:
    """A checked recipe. Raises ValueError, which names the key and what was expected."""
    recipe = _fill(Recipe, values, "recipe")
    recipe.check()
    return recipe


def read_recipe(path: str | Path, changes: list[str] | None = None) -> Recipe:
    """The recipe in a YAML file. `changes`: such as "budget.steps=20", which win."""
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    for change in changes or []:
        keys, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f'expected "key=value", but got "{change}"')
        inner = values
        *outer, last = keys.split(".")
        for key in outer:
            if inner.get(key) is None:
                inner[key] = {}
            inner = inner[key]
        inner[last] = yaml.safe_load(text)
    return recipe_of(values)


def plain(value: Any) -> Any:
    """A recipe, or a part of one, as YAML can hold it."""
    if dataclasses.is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
