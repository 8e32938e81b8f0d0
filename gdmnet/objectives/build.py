"""Objectives by name, and the generator that one needs."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from gdmnet.networks.unet import Generator
from gdmnet.objectives.base import Context, Inputs, Objective
from gdmnet.objectives.bridge import Bridge
from gdmnet.objectives.diffusion import Diffusion
from gdmnet.objectives.flow import Flow
from gdmnet.objectives.gan import Gan
from gdmnet.objectives.gdm import Gdm
from gdmnet.objectives.regression import Regression
from gdmnet.objectives.sampling import Sampled
from gdmnet.plan import Configuration

SAMPLED: dict[str, Callable[[Context], Sampled]] = {
    "flow": Flow,
    "bridge": Bridge,
    "diffusion": Diffusion,
}
"""Objectives that call the network several times; built for prediction, too, without encoder."""

OBJECTIVES: dict[str, Callable[[Context], Objective]] = {
    "gdm": Gdm,
    "regression": Regression,
    "gan": Gan,
    **SAMPLED,
}
"""The ways to train a generator; their options lie in `options.OPTIONS`."""


def generator_of(configuration: Configuration, inputs: Inputs) -> nn.Module:
    """The generator of a configuration for an objective's inputs, with fresh weights."""
    return Generator(
        configuration.architecture,
        n_sources=len(configuration.sources),
        extra_channels=inputs.extra_channels,
        residual_channel=configuration.residual_channel if inputs.residual else None,
        time=inputs.time,
    )
