"""r over a training: none at first, a ramp, its full value, and half of it where it harms."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from gdmnet.objectives.gdm_state import DriftState
from gdmnet.objectives.options import GdmOptions

logger = logging.getLogger(__name__)

WARM_STEPS = 64  # before the ramp, in which rings and mean norms are filled
SHARPNESS_ALARM = 1.1  # mean gradient of predictions over that of targets: texture is invented
MAE_ALARM = 1.05  # of the least validation MAE before the drift began
LEAST_FACTOR = 1 / 8


@dataclass(frozen=True)
class Schedule:
    """Regression, then a linear ramp, then constant; steps count from 0.

    Attributes:
        ratio: r after the ramp.
        start: first step of the ramp.
        ramp: its length in steps, at least 1.
        every: only every so many-th step has a drift.
    """

    ratio: float
    start: int
    ramp: int
    every: int = 1

    def drifts(self, step: int) -> bool:
        """Whether the encoder runs: from before the ramp on, first to fill rings and norms."""
        return self.ratio > 0 and step >= self.start - WARM_STEPS and step % self.every == 0

    def ratio_at(self, step: int, factor: float) -> float:
        """R of a step, where `factor` is left after alarms; as much larger as drifts are rarer."""
        if not self.drifts(step):
            return 0.0
        return (
            self.ratio * factor * self.every * min(1.0, max(0, step - self.start + 1) / self.ramp)
        )


def schedule_of(options: GdmOptions, total_steps: int) -> Schedule:
    """The schedule for a whole training of so many steps."""
    start = math.ceil(options.regression_share * total_steps)
    ramp = max(1, math.ceil(options.ramp_share * total_steps))
    return Schedule(options.drift_ratio, start, ramp, options.every)


def watch_validation(
    metrics: Mapping[str, float], state: DriftState, schedule: Schedule, *, adapts: bool
) -> None:
    """Halve r, to an eighth at least, where realism is bought too dearly.

    A prediction that is too sharp is the drift's fault only if it was less so before: early in
    a training the streaks of a sparse-view CT, say, are still in it.

    Args:
        metrics: "sharpness" (mean |grad prediction| / mean |grad target|) and "mae" of a
            validation with EMA weights.
        state: its factor of r is halved.
        schedule: says when the drift begins.
        adapts: False only logs the alarm.
    """
    mae, sharpness = metrics.get("mae", torch.inf), metrics.get("sharpness", 0.0)
    best = float(state.best_regression_mae)
    if int(state.step) <= schedule.start or schedule.ratio == 0:
        state.best_regression_mae.fill_(min(best, mae))
        state.lowest_sharpness.fill_(sharpness)
        return
    lowest = float(state.lowest_sharpness)
    state.lowest_sharpness.fill_(min(lowest, sharpness))
    sharpest = max(SHARPNESS_ALARM, lowest)
    if sharpness <= sharpest and ("mae" not in metrics or mae <= MAE_ALARM * best):
        return
    before = float(state.ratio_factor)
    if adapts and before > LEAST_FACTOR:
        state.ratio_factor.fill_(before / 2)
    logger.warning(
        "drift alarm: sharpness %.3f (at most %.2f), validation MAE %.4g (at most %.4g); "
        "drift ratio %.4g -> %.4g",
        sharpness,
        sharpest,
        mae,
        MAE_ALARM * best,
        schedule.ratio * before,
        schedule.ratio * float(state.ratio_factor),
    )
