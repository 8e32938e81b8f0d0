"""Regression: descend the fidelity alone; the rival that every generative method must face.

With the option `perceptual` also the distance of features: L1 + w P, where P compares the maps of
the same frozen encoder as gdm's. It asks whether features do as much as a loss as they do as drift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdmnet.errors import TrainingError
from gdmnet.objectives.base import Batch, Context, Descent, Inputs, Stateless
from gdmnet.objectives.fidelity import FIDELITIES, fidelity_gradient
from gdmnet.objectives.options import read_options, require_known
from gdmnet.objectives.perceptual import perceptual_gradient


@dataclass(frozen=True)
class RegressionOptions:
    """Options of `regression`.

    Attributes:
        fidelity: a key of `FIDELITIES`.
        perceptual: w, the weight of the distance of features; 0 for none, and no encoder.
    """

    fidelity: str = "l1"
    perceptual: float = 0.0


class Regression(Stateless):
    """The objective `regression`; it has no state, as the frozen encoder follows the batch.

    Its gradient goes the same way as gdm's, so that gdm with a drift ratio of 0 equals it to the
    bit.
    """

    inputs = Inputs()

    def __init__(self, options: RegressionOptions, encoder: nn.Module | None = None) -> None:
        require_known(options.fidelity, FIDELITIES, what="fidelity")
        self.options = options
        self.encoder = encoder

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward of the generator and the fidelity's gradient at its output."""
        output = generator(batch.source)
        leaf, loss, gradient = fidelity_gradient(output, batch, name=self.options.fidelity)
        metrics = {"fidelity": float(loss)}
        if self.encoder is not None:
            distance, pull = perceptual_gradient(self.encoder, leaf, batch)
            gradient = gradient + self.options.perceptual * pull
            metrics["perceptual"] = float(distance)
        finite = bool(torch.isfinite(loss) & torch.isfinite(gradient).all())
        return Descent(output, gradient, metrics, finite)

    def translate(self, generator: nn.Module, source: Tensor, noise: Tensor | None) -> Tensor:
        """One call of the generator."""
        output: Tensor = generator(source)
        return output


def build_regression(context: Context) -> Regression:
    """The objective `regression` from its options.

    Raises:
        TrainingError: an unknown option or fidelity, a weight out of range, or no encoder for it.
    """
    options = read_options(RegressionOptions, context.options, objective="regression")
    weight = options.perceptual
    if not 0 <= weight < math.inf:
        raise TrainingError(f"option perceptual of objective regression is out of range: {weight}")
    if weight == 0:
        return Regression(options)
    if context.encoder is None:
        raise TrainingError("regression with perceptual needs a frozen encoder and was given none")
    return Regression(options, context.encoder.eval().requires_grad_(False))
