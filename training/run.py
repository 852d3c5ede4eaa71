"""The folder of one stage's training: checkpoint, loss log and sample sheets, so that training can be resumed."""

import csv
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from files import atomic_path
from ldm.checkpoint import mismatches
from training.optimizer import MuonAdamW

CHECKPOINT = "checkpoint.pt"
SAVE_EVERY = 180.0  # seconds
SHEET_EVERY = 420.0  # seconds
LOG_EVERY = 25  # steps


def load_parts(path: Path, modules: dict[str, nn.Module]) -> dict[str, Any]:
    """Load the weights of `modules`, by their names in the checkpoint at `path`; return the checkpoint's content.

    Raises:
        ValueError: a module is missing in the checkpoint, or has another shape.
        OSError: the file cannot be read.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in modules.items():
        if mismatches(module.state_dict(), state.get(name, {})):
            advice = "move its folder away to train anew"
            raise ValueError(f"{path} was written by another version, or with another yaml: {advice}")
        module.load_state_dict(state[name])
    return state


def scheduled_rate(peak: float, step: int, steps: int, warmup: int, power: float = 1.0) -> float:
    """Return the learning rate at `step`, counted from 0, of `steps`.

    It rises to `peak` within `warmup` steps, and falls to 0 with the remaining share of all steps to the `power`.
    """
    return peak * min(1.0, (step + 1) / warmup) * (1.0 - step / steps) ** power


class TrainingRun:
    """Training of some modules with one optimizer, and its folder.

    Args:
        folder: is made if it is not there.
        modules: the modules to train, by their names in the checkpoint.
        optimizer: has the parameters of these modules.
        max_norm: limit of the norm of the whole gradient.
    """

    def __init__(
        self,
        folder: Path,
        modules: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer | MuonAdamW,
        max_norm: float = 1.0,
    ) -> None:
        self.folder = folder
        self.modules = modules
        self.optimizer = optimizer
        self.max_norm = max_norm
        self.saved = self.sheeted = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def resume(self) -> int:
        """Load the checkpoint, if there is one, and return the number of the next step."""
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return 0
        state = load_parts(path, self.modules)
        self.optimizer.load_state_dict(state["optimizer"])
        return state["step"]

    def descend(self, loss: Tensor, learning_rate: float) -> None:
        """Take one step of the optimizer, down the gradient of `loss`."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        for module in self.modules.values():
            module.zero_grad()
        loss.backward()
        parameters = (parameter for module in self.modules.values() for parameter in module.parameters())
        nn.utils.clip_grad_norm_(parameters, self.max_norm)
        self.optimizer.step()

    def finish_step(self, step: int, loss: Tensor, bar: tqdm) -> None:
        """Show and log the loss of each LOG_EVERY-th step; write the checkpoint if it is time for it."""
        if step % LOG_EVERY == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
            self.log(step, loss=loss.item())
        self.save_if_due(step + 1)

    def save(self, step: int) -> None:
        """Write the checkpoint; `step` is the number of the next step."""
        state = {name: module.state_dict() for name, module in self.modules.items()}
        with atomic_path(self.folder / CHECKPOINT) as temporary:
            torch.save({**state, "optimizer": self.optimizer.state_dict(), "step": step}, temporary)
        self.saved = time.monotonic()

    def save_if_due(self, step: int) -> None:
        """Write the checkpoint if the last one is older than SAVE_EVERY; `step` is the number of the next step."""
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save(step)

    def log(self, step: int, **values: float) -> None:
        """Append a row to loss.csv."""
        path = self.folder / "loss.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["time", "step", *values])
            writer.writerow([f"{time.time():.0f}", step, *(f"{value:.5f}" for value in values.values())])

    def sheet_due(self) -> bool:
        """Return whether it is time for the next sample sheet; each time is reported once."""
        due = time.monotonic() - self.sheeted > SHEET_EVERY
        if due:
            self.sheeted = time.monotonic()
        return due
