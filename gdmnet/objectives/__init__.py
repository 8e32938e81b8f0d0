"""Objectives: the ways to train a generator, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gdmnet.objectives.base import Context, Objective, Sampled
from gdmnet.objectives.bridge import build_bridge
from gdmnet.objectives.diffusion import build_diffusion
from gdmnet.objectives.flow import build_flow
from gdmnet.objectives.gan import build_gan
from gdmnet.objectives.gdm import build_gdm
from gdmnet.objectives.regression import build_regression

SAMPLED: dict[str, Callable[[Context], Sampled]] = {
    "flow": build_flow,
    "bridge": build_bridge,
    "diffusion": build_diffusion,
}
"""Objectives that call the network several times; built for prediction, too, without encoder."""

OBJECTIVES: dict[str, Callable[[Context], Objective]] = {
    "gdm": build_gdm,
    "regression": build_regression,
    "gan": build_gan,
    **SAMPLED,
}


def needs_encoder(objective: str, options: Mapping[str, Any]) -> bool:
    """Whether an objective with these options is built with a frozen feature encoder."""
    return objective == "gdm" or bool(options.get("perceptual"))
