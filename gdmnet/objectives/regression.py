"""Regression: descend the fidelity alone; the rival that every generative method must face."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdmnet.objectives.base import Batch, Context, Descent, Inputs
from gdmnet.objectives.fidelity import FIDELITIES, fidelity_gradient
from gdmnet.objectives.options import read_options, require_known


@dataclass(frozen=True)
class RegressionOptions:
    """Options of `regression`.

    Attributes:
        fidelity: a key of `FIDELITIES`.
    """

    fidelity: str = "l1"


class Regression:
    """The objective `regression`; it has no state.

    Its gradient goes the same way as gdm's, so that gdm with a drift ratio of 0 equals it to the
    bit.
    """

    inputs = Inputs()

    def __init__(self, options: RegressionOptions) -> None:
        require_known(options.fidelity, FIDELITIES, what="fidelity")
        self.options = options

    def modules(self) -> dict[str, nn.Module]:
        """Nothing to move or save."""
        return {}

    def optimizers(self) -> dict[str, Optimizer]:
        """Nothing to step."""
        return {}

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward of the generator and the fidelity's gradient at its output."""
        output = generator(batch.source)
        _, loss, gradient = fidelity_gradient(output, batch, name=self.options.fidelity)
        finite = bool(torch.isfinite(loss) & torch.isfinite(gradient).all())
        return Descent(output, gradient, {"fidelity": float(loss)}, finite)

    def translate(self, generator: nn.Module, source: Tensor, noise: Tensor | None) -> Tensor:
        """One call of the generator."""
        output: Tensor = generator(source)
        return output


def build_regression(context: Context) -> Regression:
    """The objective `regression` from its options.

    Raises:
        TrainingError: an unknown option or fidelity.
    """
    return Regression(read_options(RegressionOptions, context.options, objective="regression"))
