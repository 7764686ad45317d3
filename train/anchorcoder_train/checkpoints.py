"""Checkpoints of a run: written beside the old ones, then renamed, so that none is ever half."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from .build import trained

_WEIGHTS = "trained.bin"


@dataclass
class State:
    """Where a run stands."""

    step: int = 0
    seconds: float = 0.0


def _only_trained(accelerator: Accelerator) -> None:
    """Leaves frozen weights out. With FSDP checkpoints are accelerate's own."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return

    def before_saving(models: list, weights: list, folder: str) -> None:
        if accelerator.is_main_process:
            module = accelerator.unwrap_model(models[0])
            state = {name: one.detach().cpu() for name, one in trained(module).items()}
            torch.save(state, Path(folder) / _WEIGHTS)
        weights.clear()

    def before_loading(models: list, folder: str) -> None:
        module = accelerator.unwrap_model(models.pop())
        path = Path(folder) / _WEIGHTS
        if not path.exists():
            raise ValueError(f"{folder} was written under FSDP and can only be taken up under it")
        state = torch.load(path, weights_only=True)
        own = trained(module)
        if set(own) != set(state):
            raise ValueError(f"{folder} was written by another recipe")
        with torch.no_grad():
            for name, one in own.items():
                one.copy_(state[name])

    accelerator.register_save_state_pre_hook(before_saving)
    accelerator.register_load_state_pre_hook(before_loading)


class Checkpoints:
    """The folder of a run's checkpoints."""

    def __init__(self, accelerator: Accelerator, folder: Path, keep: int) -> None:
        self.accelerator, self.folder, self.keep = accelerator, folder, keep
        _only_trained(accelerator)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def save(self, state: State) -> None:
        target = self.folder / f"step-{state.step:08d}"
        half = self.folder / "unfinished"
        main = self.accelerator.is_main_process
        if main:
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(half))
        self.accelerator.wait_for_everyone()
        if main:
            (half / "state.json").write_text(json.dumps(vars(state)))
            shutil.rmtree(target, ignore_errors=True)
            half.rename(target)
            for old in self._all()[: -self.keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def load(self) -> State:
        """Takes up the newest one; a fresh state where there is none."""
        found = self._all()
        if not found:
            return State()
        self.accelerator.load_state(str(found[-1]))
        return State(**json.loads((found[-1] / "state.json").read_text()))
