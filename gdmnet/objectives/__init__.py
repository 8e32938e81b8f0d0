"""Objectives: the ways to train a generator, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gdmnet.objectives.base import Context, Objective
from gdmnet.objectives.gan import build_gan
from gdmnet.objectives.gdm import build_gdm
from gdmnet.objectives.regression import build_regression

OBJECTIVES: dict[str, Callable[[Context], Objective]] = {
    "gdm": build_gdm,
    "regression": build_regression,
    "gan": build_gan,
}


def needs_encoder(objective: str, options: Mapping[str, Any]) -> bool:
    """Whether an objective with these options is built with a frozen feature encoder."""
    return objective == "gdm" or bool(options.get("perceptual"))
