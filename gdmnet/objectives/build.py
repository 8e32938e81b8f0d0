"""What a plan's configuration means to an objective: its context, and the generator it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from gdmnet.networks.unet import build_generator
from gdmnet.objectives.base import Context, Inputs
from gdmnet.plan import Configuration

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
    """What an objective may know of a configuration; see `Context` for the arguments."""
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
    return build_generator(
        configuration.architecture,
        n_sources=len(configuration.sources),
        extra_channels=inputs.extra_channels,
        residual_channel=configuration.residual_channel if inputs.residual else None,
        time=inputs.time,
    )
