"""Everything of a training that has state, and how it is kept and taken up again."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdmnet import codec
from gdmnet.errors import CheckpointError
from gdmnet.folders import LATEST
from gdmnet.models import checkpoint
from gdmnet.objectives.base import Objective
from gdmnet.plan import Recipe
from gdmnet.training import log
from gdmnet.training.distributed import this_process
from gdmnet.training.memory import PeakMemory
from gdmnet.training.step import GeneratorOptimizer, RegressionTwin

SMOOTHING = 0.5  # light: the patches are fixed and the weights are averages already
MOST_IN_A_ROW = 10  # non-finite steps before the training stops


@dataclass
class TrainingCounts:
    """What a training counts and remembers, saved with it; times are not part of it."""

    step: int = 0  # steps that are over
    skipped: int = 0  # of these, not finite
    in_a_row: int = 0  # of these, the last ones without a good one between
    smoothed_mae: float = math.inf  # of the validation, network units
    best_mae: float = math.inf
    best_epoch: int = 0  # 0 for none yet

    def count_step(self, *, finite: bool) -> bool:
        """Count a step; True when too many in a row were not finite."""
        self.step += 1
        self.skipped += int(not finite)
        self.in_a_row = 0 if finite else self.in_a_row + 1
        return self.in_a_row >= MOST_IN_A_ROW

    def is_best(self, mae: float, epoch: int) -> bool:
        """Take the validation of an epoch (from 1) in; True when it is the best so far."""
        if not math.isfinite(mae):
            return False
        before = mae if math.isinf(self.smoothed_mae) else self.smoothed_mae
        self.smoothed_mae = SMOOTHING * before + (1.0 - SMOOTHING) * mae
        if self.smoothed_mae >= self.best_mae:
            return False
        self.best_mae, self.best_epoch = self.smoothed_mae, epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the numbers back; KeyError: one is missing; ValueError: one is none, or below 0."""
        for entry in fields(self):
            value = state[entry.name]
            if type(value) is not type(getattr(self, entry.name)) or not value >= 0:
                raise ValueError(f"{entry.name} is {value!r:.40}")
            setattr(self, entry.name, value)


class Training:
    """The parts of one training, which it moves to their device.

    The twin is the generator's, where the objective asks for one; `rank` is this process's among
    those that train together, 0 leads them; `folder` is at first not yet the fold's own.
    """

    def __init__(
        self,
        generator: nn.Module,
        objective: Objective,
        recipe: Recipe,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.generator = generator.to(device).train()
        for module in objective.modules().values():
            module.to(device)
        self.objective, self.recipe, self.folder, self.device = objective, recipe, folder, device
        self.optimizer = GeneratorOptimizer(generator, recipe, device)
        twin = objective.twin()
        self.twin = None if twin is None else RegressionTwin(*twin)
        self.rank = this_process().rank
        self.counts = TrainingCounts()
        self.peak_memory = PeakMemory(device)

    def parts(self) -> dict[str, Any]:
        """Everything that is the same on all ranks, by its name in the checkpoint."""
        parts = {"generator": self.generator, **self.optimizer.parts(), "tally": self.counts}
        if self.twin is not None:
            parts["twin"] = self.twin
        return parts

    def rank_parts(self) -> dict[str, Any]:
        """What the objective remembers of this rank's patches."""
        modules, optimizers = self.objective.modules(), self.objective.optimizers()
        return {f"module.{name}": module for name, module in modules.items()} | {
            f"optimizer.{name}": optimizer for name, optimizer in optimizers.items()
        }


def latest_state(training: Training, epoch: int, ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """Copies of all that is needed to go on after so many epochs; ranks are their `rank_parts`."""
    state = {"epoch": epoch, "recipe": codec.encode(training.recipe), "ranks": ranks}
    return state | checkpoint.copied(checkpoint.capture(training.parts()))


def weights_state(training: Training, epoch: int) -> dict[str, Any]:
    """Copies of what prediction needs, for checkpoint_best or checkpoint_final."""
    average = training.optimizer.average.network.state_dict()
    state = {"epoch": epoch, "ema": average, "tally": training.counts.state_dict()}
    if training.twin is not None and (twin := training.twin.weights()) is not None:
        state["twin"] = twin
    copies: dict[str, Any] = checkpoint.copied(state)
    return copies


def restore_latest(training: Training) -> int:
    """Give a training the state of its latest checkpoint and forget what was logged after it.

    Returns:
        The number of finished epochs.

    Raises:
        CheckpointError: it is missing or damaged, or was trained with another recipe (the precision
            may change) or by another objective.
    """
    path = training.folder / LATEST
    state = checkpoint.load(path)
    del state["schema"]
    epoch, recipe, ranks = (state.pop(name, None) for name in ("epoch", "recipe", "ranks"))
    if not isinstance(recipe, dict) or not isinstance(ranks, list):
        raise CheckpointError(f"{path}: damaged (no recipe, or no ranks); train anew")
    for name, value in codec.encode(training.recipe).items():
        if recipe.get(name) != value and name != "precision":
            raise CheckpointError(
                f"{path}: was trained with {name} {recipe.get(name)}, now {value} is asked;"
                " go on with the old one, or start anew"
            )
    if not ranks:
        raise CheckpointError(f"{path}: says nothing of its processes; start anew with --overwrite")
    if training.twin is not None and state.get("twin"):
        training.twin.begin(training.optimizer)
    checkpoint.restore(training.parts(), state, path)
    own = ranks[training.rank % len(ranks)]  # of more ranks than before some share one
    checkpoint.restore(training.rank_parts(), own, path)
    counts, n_steps = training.counts, training.recipe.iterations
    if counts.step != epoch * n_steps or epoch > training.recipe.epochs:
        raise CheckpointError(
            f"{path}: damaged ({counts.step} steps in {epoch} epochs of {n_steps}); train anew"
        )
    weights = training.generator.state_dict()
    checkpoint.require_finite(weights, weights, path)
    if training.rank == 0:
        log.truncate(training.folder, epoch)
    return epoch
