"""The regression twin: what the generator would have become without its realism.

It begins as a copy of the generator in the step in which the realism begins, and from then on sees
the same patches with the same schedule, but descends the fidelity alone. The line through both in
weight space is the realism dial: theta(T) = theta_twin + T (theta_generator - theta_twin), still
one call of one network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gdmnet.objectives.base import Objective
from gdmnet.training.step import GeneratorOptimizer


class RegressionTwin:
    """A second generator with its own optimiser.

    Args:
        objective: the regression that it descends.
        start: the step of the run in which it begins.

    Attributes:
        optimizer: of its generator; None until it begins.
    """

    def __init__(self, objective: Objective, start: int) -> None:
        self.objective = objective
        self.start = start
        self.optimizer: GeneratorOptimizer | None = None

    def begin(self, original: GeneratorOptimizer) -> GeneratorOptimizer:
        """Become a copy of the generator, with its weights, optimiser and average."""
        self.optimizer = original.copy()
        return self.optimizer

    def state_dict(self) -> dict[str, Any]:
        """Nothing before it begins."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state back; where there is one, the twin must have begun."""
        if not state:
            self.optimizer = None
        elif self.optimizer is None:
            raise ValueError("the twin has not begun")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def weights(self) -> dict[str, Tensor] | None:
        """The averaged weights, or None before it begins."""
        return None if self.optimizer is None else self.optimizer.average.state_dict()

    def _parts(self) -> dict[str, Any]:
        if self.optimizer is None:
            return {}
        return {"generator": self.optimizer.generator, **self.optimizer.parts()}
