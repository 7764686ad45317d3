"""Runs a recipe: steps, budgets, checkpoints, what is written down."""

import math
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from tqdm import tqdm

from .build import build
from .checkpoints import Checkpoints, State
from .learner import Learner
from .optimizers import make_optimizers, ramp_window, rate_factor
from .recipe import Recipe, plain
from .records import Table, plot
from .shards import Shards, Windows

LOG = "step ids seconds lr window loss kl next_token anchor_nats grad_norm".split()  # noqa: SIM905
VALID = ["step", "seconds", "nats_per_byte", "nats_per_target", "anchor_nats"]


def keep_recipe(recipe: Recipe, out: Path) -> None:
    """Writes the recipe to the run's folder; a run is taken up with another budget at most.
    Raises ValueError for a run of another recipe."""
    path = out / "recipe.yaml"
    values = plain(recipe)
    if path.exists():
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        free = ("budget", "checkpoint")
        changed = [key for key in values if key not in free and values[key] != before.get(key)]
        if changed:
            raise ValueError(f"{out} is a run of another recipe: {', '.join(changed)} differ")
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


class Trainer:
    """One run, in a folder of its own, which it takes up where it was left."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out = recipe, out
        data = recipe.data
        self.accelerator = Accelerator(
            mixed_precision=recipe.precision, gradient_accumulation_steps=data.accumulate
        )
        if (
            self.accelerator.distributed_type == DistributedType.FSDP
            and recipe.optimizer.kind == "muon"
        ):
            raise ValueError("muon wants whole matrices: expected adamw with FSDP")
        if self.accelerator.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
            keep_recipe(recipe, out)
        self.built = build(recipe)
        shards = Shards(data.train)
        self._check(data.train, shards)
        if data.valid is not None:
            valid = Shards(data.valid)
            self._check(data.valid, valid)
            if len(valid) <= data.length:
                raise ValueError(f"{data.valid}: {len(valid)} ids are less than one window")
        self.windows = Windows(shards, data.length, recipe.seed)
        self.learner = Learner(self.built, recipe.loss)
        if self.built.teacher is not None:
            self.built.teacher.to(self.accelerator.device)
        optimizers = make_optimizers(self.learner, recipe.optimizer)
        self.module, *self.optimizers = self.accelerator.prepare(self.learner, *optimizers)
        folder = out / "checkpoints"
        self.checkpoints = Checkpoints(self.accelerator, folder, recipe.checkpoint.keep)
        self.state = self.checkpoints.load()
        self.log, self.valid = Table(out / "log.csv", LOG), Table(out / "valid.csv", VALID)

    def _check(self, folder: Path, shards: Shards) -> None:
        for key, own in (
            ("vocabulary", self.built.vocabulary.size),
            ("insert", self.built.insert),
            ("indent", (self.recipe.anchors or {}).get("indent", "none")),
        ):
            if shards.about[key] != own:
                found = f"{folder} was written with {shards.about[key]}"
                raise ValueError(f'expected text with "{key}" {own}, but {found}')

    def _agree(self, *values: float) -> tuple[float, ...]:
        """The first process's values, everywhere: clocks differ."""
        if self.accelerator.num_processes == 1:
            return values
        shared = list(values)
        broadcast_object_list(shared)
        return tuple(shared)

    def progress(self) -> float:
        """Share of the budget that is used up, 0 to 1."""
        budget = self.recipe.budget
        shares = [0.0]
        if budget.steps is not None:
            shares.append(self.state.step / budget.steps)
        if budget.minutes is not None:
            shares.append(self.state.seconds / (60 * budget.minutes))
        return min(1.0, max(shares))

    def run(self) -> State:
        """Trains until the budget is used up."""
        settings, state = self.recipe.checkpoint, self.state
        clock = saved = time.monotonic()
        hidden = not self.accelerator.is_main_process
        if self.accelerator.is_main_process:
            self.log.cut(state.step)
            self.valid.cut(state.step)
        bar = tqdm(initial=state.step, total=self.recipe.budget.steps, unit="step", disable=hidden)
        if state.step == 0 and not self._is_measured():
            self.validate()
        while self.progress() < 1:
            row = self._step(self.progress())
            now = time.monotonic()
            seconds, is_due = self._agree(
                state.seconds + now - clock, now - saved >= 60 * settings.minutes
            )
            clock = now
            state.step, state.seconds = state.step + 1, seconds
            if not math.isfinite(row["loss"]):
                raise RuntimeError(f"the loss of step {state.step} is {row['loss']}")
            self._write(self.log, {"step": state.step, "seconds": round(seconds, 2), **row})
            bar.update()
            bar.set_postfix(loss=f"{row['loss']:.4f}")
            if state.step % settings.valid_steps == 0:
                self.validate()
            if is_due:
                self.checkpoints.save(state)
                saved = time.monotonic()
        bar.close()
        if not self._is_measured():
            self.validate()
        self.checkpoints.save(state)
        if self.accelerator.is_main_process:
            plot(self.log, self.valid, self.out / "loss.svg")
        return state

    def _is_measured(self) -> bool:
        """Whether this step has its row of validation, such as before the run was cut."""
        known = any(int(row["step"]) == self.state.step for row in self.valid.rows())
        return bool(self._agree(known)[0])

    def _write(self, table: Table, row: dict[str, object]) -> None:
        if self.accelerator.is_main_process:
            table.add(row)

    def _set_rates(self, factor: float) -> float:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
        return self.recipe.optimizer.lr * factor

    def _step(self, progress: float) -> dict[str, float]:
        """One update. Returns what the log says of it, averaged over all devices."""
        recipe, accelerator, data = self.recipe, self.accelerator, self.recipe.data
        # In the middle of the step, so that the first one and the last one have a rate too.
        half = 0.5 / recipe.budget.steps if recipe.budget.steps else 0.0
        rate = self._set_rates(rate_factor(min(1.0, progress + half), recipe.optimizer))
        window = self.built.policy.window
        if recipe.anchors is not None:
            window = ramp_window(progress, recipe.ramp, window)
            self.built.anchors.policy = self.built.policy.with_window(window)
        self.module.train()
        parts: dict[str, float] = {}
        norm, clip = 0.0, recipe.optimizer.clip
        for turn in range(data.accumulate):
            with accelerator.accumulate(self.module):
                losses = self.module(self._batch(turn))
                accelerator.backward(losses["loss"])
                if accelerator.sync_gradients:
                    norm = float(accelerator.clip_grad_norm_(self.module.parameters(), clip))
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            for name, value in losses.items():
                mean = float(accelerator.reduce(value.detach(), "mean"))
                parts[name] = parts.get(name, 0.0) + mean / data.accumulate
        processes = accelerator.num_processes
        ids = (self.state.step + 1) * data.accumulate * processes * data.batch * data.length
        return {"ids": ids, "lr": rate, "window": window, "grad_norm": norm, **parts}

    def _batch(self, turn: int) -> torch.Tensor:
        """(batch, length + 1) ids of one pass: each process reads windows of its own."""
        data, accelerator = self.recipe.data, self.accelerator
        passes = self.state.step * data.accumulate + turn
        first = (passes * accelerator.num_processes + accelerator.process_index) * data.batch
        ids = torch.from_numpy(self.windows.batch(first, data.batch))
        return ids.to(accelerator.device, non_blocking=True)

    @torch.no_grad()
    def validate(self) -> None:
        """Measures the first windows of the validation text, under the policy that the model is
        trained for."""
        data, built = self.recipe.data, self.built
        if data.valid is None:
            return
        shards = Shards(data.valid)
        count = min(data.valid_windows, (len(shards) - 1) // data.length)
        self.module.eval()
        sums = np.zeros(5)
        for number in range(count):
            ids = torch.from_numpy(shards.slice(number * data.length, data.length + 1))
            with built.anchors.using(built.policy), self.accelerator.autocast():
                nats = self._nats(ids[None].to(self.accelerator.device))
            sums += self._sums(ids.numpy()[1:], nats)
        nats, targets, size, anchor_nats, anchors = sums
        row = {
            "step": self.state.step,
            "seconds": round(self.state.seconds, 2),
            "nats_per_byte": nats / max(1, size),
            "nats_per_target": nats / max(1, targets),
            "anchor_nats": anchor_nats / max(1, anchors),
        }
        self._write(self.valid, row)

    def _nats(self, ids: torch.Tensor) -> np.ndarray:
        """(T) nats of each next token of `ids` (1, T + 1)."""
        logits = self.module(ids, only_logits=True)[0].float()
        nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        return nats.cpu().numpy().astype(np.float64)

    def _sums(self, targets: np.ndarray, nats: np.ndarray) -> np.ndarray:
        """Nats, targets and bytes of text; nats and number of inserted anchors."""
        vocabulary = self.built.vocabulary
        of_text = ~np.isin(targets, vocabulary.control_ids)
        of_anchor = targets == self.built.insert
        size = vocabulary.byte_counts[targets[of_text]].sum()
        text, anchors = nats[of_text].sum(), nats[of_anchor].sum()
        return np.array([text, of_text.sum(), size, anchors, of_anchor.sum()])
