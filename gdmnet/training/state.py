"""Everything of a training that has state, and how it is kept and taken up again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdmnet import codec
from gdmnet.errors import CheckpointError
from gdmnet.folders import BEST, FINAL, LATEST
from gdmnet.objectives.base import Objective
from gdmnet.plan import Recipe
from gdmnet.training import checkpoint, log
from gdmnet.training.monitor import Tally
from gdmnet.training.progress import PROGRESS_PNG
from gdmnet.training.step import Stepper

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """The built parts of one training; all on their device."""

    generator: nn.Module
    objective: Objective
    stepper: Stepper
    tally: Tally
    recipe: Recipe
    folder: Path
    device: torch.device

    def parts(self) -> dict[str, checkpoint.Stateful]:
        """Everything with state, by its name in the checkpoint."""
        parts: dict[str, checkpoint.Stateful] = {
            "generator": self.generator,
            "ema": self.stepper.ema,
            "optimizer": self.stepper.optimizer,
            "scaler": self.stepper.scaler,
            "tally": self.tally,
        }
        for name, module in self.objective.modules().items():
            parts[f"module.{name}"] = module
        for name, optimizer in self.objective.optimizers().items():
            parts[f"optimizer.{name}"] = optimizer
        return parts


def save_latest(training: Training, epoch: int) -> None:
    """Keep all that is needed to go on after `epoch` finished epochs."""
    state: dict[str, Any] = {"epoch": epoch, "recipe": codec.encode(training.recipe)}
    checkpoint.save(training.folder / LATEST, state | checkpoint.capture(training.parts()))


def save_weights(training: Training, epoch: int, name: str) -> None:
    """Keep what prediction needs, as checkpoint_best or checkpoint_final."""
    ema, tally = training.stepper.ema.state_dict(), training.tally.state_dict()
    checkpoint.save(training.folder / name, {"epoch": epoch, "ema": ema, "tally": tally})


def take_up(training: Training) -> int:
    """Give a training the state of its latest checkpoint and forget what was logged after it.

    Returns:
        The number of finished epochs; 0 where there is no checkpoint yet.

    Raises:
        CheckpointError: it is damaged, or was trained with another recipe or objective.
    """
    path = training.folder / LATEST
    if not path.is_file():
        _log.info("%s: no checkpoint yet, training starts from the beginning", training.folder)
        return clear(training.folder)
    state = checkpoint.load(path)
    del state["schema"]
    epoch, recipe = int(state.pop("epoch")), state.pop("recipe", {})
    for name, value in codec.encode(training.recipe).items():
        if recipe.get(name) != value:
            raise CheckpointError(
                f"{path}: was trained with {name} {recipe.get(name)}, now {value} is asked;"
                " go on with the old one, or start anew"
            )
    checkpoint.restore(training.parts(), state, path)
    log.truncate(training.folder, epoch)
    return epoch


def clear(folder: Path) -> int:
    """Remove what an older training left, so that its best or final is never taken for ours.

    Returns:
        0, the number of finished epochs.
    """
    for name in (FINAL, BEST, LATEST, log.LOG_JSONL, log.LOG_TXT, PROGRESS_PNG):
        (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return 0
