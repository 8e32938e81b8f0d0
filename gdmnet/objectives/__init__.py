"""Objectives: the ways to train a generator, by name."""

from __future__ import annotations

from collections.abc import Callable

from gdmnet.objectives.base import Context, Objective
from gdmnet.objectives.gan import build_gan
from gdmnet.objectives.gdm import build_gdm
from gdmnet.objectives.regression import build_regression

OBJECTIVES: dict[str, Callable[[Context], Objective]] = {
    "gdm": build_gdm,
    "regression": build_regression,
    "gan": build_gan,
}

NEED_ENCODER = frozenset({"gdm"})
"""Objectives that are built with a frozen feature encoder."""
