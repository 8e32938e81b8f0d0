"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from gdmnet.plan import Recipe

MOST_WARM_UP_STEPS = 1000


def warm_up_steps(recipe: Recipe) -> int:
    """Steps of the linear warm-up: a share of the run, at most 1000, at least 1."""
    return max(1, min(MOST_WARM_UP_STEPS, round(recipe.warm_up_share * recipe.total_steps)))


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a half cosine to 0 over the planned total of steps.

    lr(s) = lr (s + 1) / w for s < w, else lr (1 + cos(pi (s - w) / (S - w))) / 2, with w warm-up
    steps of S steps in all (SGDR, arXiv 1608.03983, without restarts).

    Args:
        step: from 0.
        recipe: of the run.
    """
    warm = warm_up_steps(recipe)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, recipe.total_steps - warm))
    return recipe.learning_rate * (1.0 + math.cos(math.pi * done)) / 2.0
