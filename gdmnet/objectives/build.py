"""Objectives by name; what a configuration means to one: its context, and its generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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

# About the standard deviation inside the body that each scheme of normalisation leaves.
WIDTHS = {"ct": 1.0, "zscore": 1.0, "percentiles": 0.25, "none": 1.0}


def context_of(
    configuration: Configuration,
    options: Mapping[str, Any],
    *,
    total_steps: int = 1,
    seed: int = 0,
    encoder: nn.Module | None = None,
) -> Context:
    """What an objective may know of a plan's configuration."""
    return Context(
        total_steps=total_steps,
        patch_size=configuration.patch_size,
        spacing=configuration.spacing,
        n_sources=len(configuration.sources),
        encoder=encoder,
        seed=seed,
        options=options,
        architecture=configuration.architecture,
        target_width=WIDTHS[configuration.target.scheme],
        source_widths=tuple(WIDTHS[source.scheme] for source in configuration.sources),
    )


def generator_of(configuration: Configuration, inputs: Inputs) -> nn.Module:
    """The generator of a configuration for an objective's inputs, with fresh weights."""
    return Generator(
        configuration.architecture,
        n_sources=len(configuration.sources),
        extra_channels=inputs.extra_channels,
        residual_channel=configuration.residual_channel if inputs.residual else None,
        time=inputs.time,
    )
