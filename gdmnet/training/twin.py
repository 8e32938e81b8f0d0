"""The regression twin: what the generator would have become without its realism.

It begins as a copy of the generator in the step in which the realism begins, and from then on sees
the same patches with the same schedule, but descends the fidelity alone. The line through both in
weight space is the realism dial: theta(T) = theta_twin + T (theta_generator - theta_twin), still
one call of one network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gdmnet.objectives.base import Objective
from gdmnet.training.step import Stepper


class Twin:
    """A second generator with its own optimiser.

    Args:
        objective: the regression that it descends.
        start: the step of the run in which it begins.

    Attributes:
        stepper: of its generator; None until it begins, see `copy_of`.
    """

    def __init__(self, objective: Objective, start: int) -> None:
        self.objective = objective
        self.start = start
        self.stepper: Stepper | None = None

    def copy_of(self, original: Stepper) -> Stepper:
        """A stepper like the generator's, with its weights, optimiser and average."""
        stepper = Stepper(copy.deepcopy(original.generator), original.recipe, original.device)
        stepper.optimizer.load_state_dict(copy.deepcopy(original.optimizer.state_dict()))
        stepper.scaler.load_state_dict(original.scaler.state_dict())
        stepper.ema.load_state_dict(original.ema.state_dict())
        return stepper

    def state_dict(self) -> dict[str, Any]:
        """Nothing before it begins."""
        if self.stepper is None:
            return {}
        return {name: part.state_dict() for name, part in self._parts(self.stepper).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state back; where there is one the stepper must be there for it."""
        if not state:
            self.stepper = None
            return
        if self.stepper is None:
            raise ValueError("the twin has not begun")
        for name, part in self._parts(self.stepper).items():
            part.load_state_dict(state[name])

    def weights(self) -> dict[str, Tensor] | None:
        """The averaged weights, or None before it begins."""
        return None if self.stepper is None else self.stepper.ema.state_dict()

    @staticmethod
    def _parts(stepper: Stepper) -> dict[str, Any]:
        return {
            "generator": stepper.generator,
            "ema": stepper.ema,
            "optimizer": stepper.optimizer,
            "scaler": stepper.scaler,
        }


def twin_of(objective: Objective) -> Twin | None:
    """The twin that an objective asks for, not yet begun."""
    wanted = objective.twin()
    return None if wanted is None else Twin(*wanted)
