"""What gdm remembers between steps, in buffers of fixed size, and r over a training."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from gdmnet.drifting.bank import RingBank
from gdmnet.drifting.coordination import MeanNorm
from gdmnet.drifting.numbers import NumbersModule
from gdmnet.objectives.options import GdmOptions
from gdmnet.objectives.ranks import shared_norms

logger = logging.getLogger(__name__)

SKIPS_TO_NAME = 10
WARM_STEPS = 64  # before the ramp, in which rings and mean norms are filled
SHARPNESS_ALARM = 1.1  # mean gradient of predictions over that of targets: texture is invented
MAE_ALARM = 1.05  # of the least validation MAE before the drift began
LEAST_FACTOR = 1 / 8


class DriftState(NumbersModule):
    """Counters, mean norms and rings: saved and loaded, a training goes on to the bit."""

    step: int = 0  # steps begun
    active: int = 0  # steps in which a drift gradient was computed
    skipped: int = 0  # steps whose drift was zero or not finite
    skipped_in_a_row: int = 0  # of them, the last ones without a good step between
    ratio_factor: float = 1.0  # what is left of r after halvings
    best_regression_mae: float = math.inf  # least of the validations before the drift began
    lowest_sharpness: float = 0.0  # of the validations since the last one before it; 0 for none

    def __init__(self, levels: Iterable[str], rings: Mapping[str, tuple[int, int]]) -> None:
        """Empty, with a mean norm a level and rings of (capacity, row length) by name."""
        super().__init__()
        self.fidelity_norm = MeanNorm()
        self.drift_norm = MeanNorm()
        self.level_norms = nn.ModuleDict({level: MeanNorm() for level in levels})
        self.rings = nn.ModuleDict(
            {name: RingBank(capacity, dim) for name, (capacity, dim) in rings.items()}
        )
        self.named: set[str] = set()  # levels whose absence stands in the log; not saved

    def level_norm(self, level: str) -> MeanNorm:
        """The mean norm of one level's gradient."""
        norm = self.level_norms[level]
        assert isinstance(norm, MeanNorm)
        return norm

    def ring(self, name: str) -> RingBank:
        """The ring of that name."""
        ring = self.rings[name]
        assert isinstance(ring, RingBank)
        return ring

    def begin_step(self) -> int:
        """The number of the step that begins, from 0."""
        self.step += 1
        return self.step - 1

    def mean_norms(
        self, fidelity: Tensor, drift: Tensor, *, due: bool, drifts: bool
    ) -> tuple[Tensor, Tensor]:
        """N_f and N_d, scalars, with both gradients of this step, (b, 1, z, y, x), in them.

        They are equal on all ranks: the means over those that have measured any. A step in which a
        drift is `due`, but none `drifts`, is skipped.
        """
        if due:
            self.fidelity_norm.update(fidelity)
            if drifts:
                self.skipped_in_a_row = 0
                self.active += 1
                self.drift_norm.update(drift)
            else:
                self.skipped += 1
                self.skipped_in_a_row += 1
                if self.skipped_in_a_row % SKIPS_TO_NAME == 0:
                    logger.warning("%d steps in a row without a drift", self.skipped_in_a_row)
        n_f, n_d = shared_norms(self.fidelity_norm, self.drift_norm)
        return n_f, n_d


class Schedule:
    """Regression, then a linear ramp of r to `ratio`, then constant; steps count from 0.

    The ramp begins at the step `start` and takes `ramp` steps, at least 1.
    """

    def __init__(self, options: GdmOptions, total_steps: int) -> None:
        self.ratio, self.every = options.drift_ratio, options.every
        self.start = math.ceil(options.regression_share * total_steps)
        self.ramp = max(1, math.ceil(options.ramp_share * total_steps))

    def drifts(self, step: int) -> bool:
        """Whether the encoder runs: from before the ramp on, first to fill rings and norms."""
        return self.ratio > 0 and step >= self.start - WARM_STEPS and step % self.every == 0

    def ratio_at(self, step: int, factor: float) -> float:
        """R of a step, where `factor` is left after alarms; as much larger as drifts are rarer."""
        if not self.drifts(step):
            return 0.0
        grown = min(1.0, max(0, step - self.start + 1) / self.ramp)
        return self.ratio * factor * self.every * grown


def watch_validation(
    metrics: Mapping[str, float], state: DriftState, schedule: Schedule, *, adapts: bool
) -> None:
    """Halve r, to an eighth at least, where realism is bought too dearly; or only log the alarm.

    A prediction that is too sharp is the drift's fault only if it was less so before: early in
    a training the streaks of a sparse-view CT, say, are still in it. The metrics are "sharpness"
    (mean |grad prediction| / mean |grad target|) and "mae" of a validation with EMA weights.
    """
    mae, sharpness = metrics.get("mae", math.inf), metrics.get("sharpness", 0.0)
    best = state.best_regression_mae
    if state.step <= schedule.start or schedule.ratio == 0:
        state.best_regression_mae = min(best, mae)
        state.lowest_sharpness = sharpness
        return
    lowest = state.lowest_sharpness
    state.lowest_sharpness = min(lowest, sharpness)
    sharpest = max(SHARPNESS_ALARM, lowest)
    if sharpness <= sharpest and ("mae" not in metrics or mae <= MAE_ALARM * best):
        return
    before = state.ratio_factor
    if adapts and before > LEAST_FACTOR:
        state.ratio_factor = before / 2
    logger.warning(
        "drift alarm: sharpness %.3f (at most %.2f), validation MAE %.4g (at most %.4g); "
        "drift ratio %.4g -> %.4g",
        sharpness,
        sharpest,
        mae,
        MAE_ALARM * best,
        schedule.ratio * before,
        schedule.ratio * state.ratio_factor,
    )
