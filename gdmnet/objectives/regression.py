"""Regression: descend the fidelity alone; the rival that every generative method must face.

With the option `perceptual` also the distance of features: L1 + w P, where P compares the maps of
the same frozen encoder as gdm's. It asks whether features do as much as a loss as they do as drift.
"""

from __future__ import annotations

import torch
from torch import nn

from gdmnet.errors import TrainingError
from gdmnet.objectives.base import Batch, Context, Descent, OneCall
from gdmnet.objectives.fidelity import all_finite, fidelity_gradient
from gdmnet.objectives.options import RegressionOptions, read_options
from gdmnet.objectives.perceptual import perceptual_gradient


class Regression(OneCall):
    """The objective `regression`; it has no state, as the frozen encoder follows the batch.

    Its gradient goes the same way as gdm's, so that gdm with a drift ratio of 0 equals it to the
    bit.
    """

    def __init__(self, options: RegressionOptions, encoder: nn.Module | None = None) -> None:
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
        return Descent(output, gradient, metrics, all_finite(loss, gradient))


def build_regression(context: Context) -> Regression:
    """The objective `regression` from its options.

    Raises:
        SettingError: an unknown option or fidelity, or a weight out of bounds.
        TrainingError: a weight of the distance of features, but no encoder for it.
    """
    options = read_options(RegressionOptions, context.options, objective="regression")
    if options.perceptual == 0:
        return Regression(options)
    if context.encoder is None:
        raise TrainingError("regression with perceptual needs a frozen encoder and was given none")
    return Regression(options, context.encoder.eval().requires_grad_(False))
