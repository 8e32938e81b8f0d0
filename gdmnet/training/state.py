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
from gdmnet.models import checkpoint
from gdmnet.objectives.base import Objective
from gdmnet.plan import Recipe
from gdmnet.training import log
from gdmnet.training.distributed import ALONE, Team
from gdmnet.training.monitor import Tally
from gdmnet.training.progress import PROGRESS_PNG
from gdmnet.training.step import Stepper
from gdmnet.training.twin import Twin

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
    twin: Twin | None = None
    team: Team = ALONE

    def parts(self) -> dict[str, checkpoint.Stateful]:
        """Everything that is the same on all ranks, by its name in the checkpoint."""
        parts: dict[str, checkpoint.Stateful] = {
            "generator": self.generator,
            "ema": self.stepper.ema,
            "optimizer": self.stepper.optimizer,
            "scaler": self.stepper.scaler,
            "tally": self.tally,
        }
        if self.twin is not None:
            parts["twin"] = self.twin
        return parts

    def own_parts(self) -> dict[str, checkpoint.Stateful]:
        """What the objective remembers of this rank's patches."""
        parts: dict[str, checkpoint.Stateful] = {}
        for name, module in self.objective.modules().items():
            parts[f"module.{name}"] = module
        for name, optimizer in self.objective.optimizers().items():
            parts[f"optimizer.{name}"] = optimizer
        return parts

    def own_state(self) -> dict[str, Any]:
        """The state of `own_parts`, on the CPU."""
        return checkpoint.on_cpu(checkpoint.capture(self.own_parts()))


def save_latest(training: Training, epoch: int, ranks: list[dict[str, Any]]) -> None:
    """Keep all that is needed to go on after `epoch` finished epochs.

    Args:
        training: rank 0's.
        epoch: finished.
        ranks: `own_state` of every rank.
    """
    state: dict[str, Any] = {"epoch": epoch, "recipe": codec.encode(training.recipe)}
    state["ranks"] = ranks
    checkpoint.save(training.folder / LATEST, state | checkpoint.capture(training.parts()))


def save_weights(training: Training, epoch: int, name: str) -> None:
    """Keep what prediction needs, as checkpoint_best or checkpoint_final."""
    ema, tally = training.stepper.ema.state_dict(), training.tally.state_dict()
    state: dict[str, Any] = {"epoch": epoch, "ema": ema, "tally": tally}
    twin = None if training.twin is None else training.twin.weights()
    if twin is not None:
        state["twin"] = twin
    checkpoint.save(training.folder / name, state)


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
        return begin(training)
    state = checkpoint.load(path)
    del state["schema"]
    epoch, recipe = int(state.pop("epoch")), state.pop("recipe", {})
    for name, value in codec.encode(training.recipe).items():
        if recipe.get(name) != value:
            raise CheckpointError(
                f"{path}: was trained with {name} {recipe.get(name)}, now {value} is asked;"
                " go on with the old one, or start anew"
            )
    ranks = state.pop("ranks", [])
    if len(ranks) != training.team.size:
        raise CheckpointError(
            f"{path}: was trained by {len(ranks)} processes, now {training.team.size} are asked;"
            f" go on with --num-gpus {len(ranks)}, or start anew"
        )
    if training.twin is not None and state.get("twin"):
        training.twin.stepper = training.twin.copy_of(training.stepper)
    checkpoint.restore(training.parts(), state, path)
    checkpoint.restore(training.own_parts(), ranks[training.team.rank], path)
    if training.team.leads:
        log.truncate(training.folder, epoch)
    return epoch


def begin(training: Training) -> int:
    """Remove what an older training left, so that its best or final is never taken for ours.

    Returns:
        0, the number of finished epochs.
    """
    if training.team.leads:
        for name in (FINAL, BEST, LATEST, log.LOG_JSONL, log.LOG_TXT, PROGRESS_PNG):
            (training.folder / name).unlink(missing_ok=True)
        training.folder.mkdir(parents=True, exist_ok=True)
    return 0
