"""Objectives: the ways to train a generator, by name."""

from __future__ import annotations

from collections.abc import Callable

from gdmnet.objectives.base import Context, Objective
from gdmnet.objectives.regression import build_regression

OBJECTIVES: dict[str, Callable[[Context], Objective]] = {
    "regression": build_regression,
}
