"""The options of gdm and its schedule over the steps of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gdmnet.drifting.coordination import COORDINATIONS
from gdmnet.drifting.pairing import PAIRINGS
from gdmnet.drifting.representations import LEVELS
from gdmnet.errors import TrainingError
from gdmnet.objectives.fidelity import FIDELITIES
from gdmnet.objectives.options import require_known


@dataclass(frozen=True)
class GdmOptions:
    """Options of `gdm`; the defaults are the study's.

    Attributes:
        drift_ratio: r, the drift's share against the fidelity: the knob of realism.
        fidelity: a key of `FIDELITIES`.
        pairing: a key of `PAIRINGS`.
        levels: keys of `LEVELS`.
        coordination: a key of `COORDINATIONS`.
        sum_weight: lambda of the coordination "sum", which has no r.
        temperatures: tau, in mean distances.
        affinity_floor: of the field; below 0 for the one scaled to the number of positives.
        locations: rows a map and step, over the whole batch.
        bank: past target rows that join a pool's positives.
        bank_capacity: rows that a ring keeps.
        global_bank: past target rows, and past generated rows, of the global level.
        global_minimum: rows that the global rings must hold before that level begins.
        level_balance: divide each level's gradient by its own mean norm.
        foreground: share of the locations on foreground, for data without a body mask.
        adapt_drift: halve r where validation sees hallucinated texture or a lost fidelity.
        regression_share: share of all steps before the drift begins.
        ramp_share: share of all steps over which r grows to its value.
        warm_steps: steps before the ramp in which banks and norms are filled.
        every: only every so many-th step has a drift, as much stronger: cheaper steps.
        realism_dial: train a regression twin beside, so that prediction can choose its realism.
        encoder_crop: the encoder sees a random crop, this share of the patch along each axis.
    """

    drift_ratio: float = 0.2
    fidelity: str = "l1"
    pairing: str = "pooled"
    levels: tuple[str, ...] = ("global", "local", "spatial")
    coordination: str = "projection"
    sum_weight: float = 0.01
    temperatures: tuple[float, ...] = (0.2,)
    affinity_floor: float = -1.0
    locations: int = 256
    bank: int = 512
    bank_capacity: int = 2048
    global_bank: int = 64
    global_minimum: int = 16
    level_balance: bool = True
    foreground: float = 0.0
    adapt_drift: bool = True
    regression_share: float = 0.2
    ramp_share: float = 0.05
    warm_steps: int = 64
    every: int = 1
    encoder_crop: float = 1.0
    realism_dial: bool = False

    @property
    def strength(self) -> float:
        """What the ramp leads to: r, or lambda for the plain sum."""
        return self.sum_weight if self.coordination == "sum" else self.drift_ratio


def check_options(options: GdmOptions) -> None:
    """Raise a TrainingError for an unknown name or a number out of its range."""
    require_known(options.fidelity, FIDELITIES, what="fidelity")
    require_known(options.pairing, PAIRINGS, what="pairing")
    require_known(options.coordination, COORDINATIONS, what="coordination")
    for level in options.levels:
        require_known(level, LEVELS, what="level")
    ranges = {
        "levels": len(options.levels) == len(set(options.levels)) > 0,
        "temperatures": bool(options.temperatures) and min(options.temperatures) > 0,
        "drift_ratio": 0 <= options.drift_ratio < math.inf,
        "sum_weight": 0 <= options.sum_weight < math.inf,
        "locations": options.locations >= 1,
        "bank": options.bank >= 0,
        "bank_capacity": options.bank_capacity >= 1,
        "global_bank": options.global_bank >= 1,
        "global_minimum": 0 <= options.global_minimum <= options.global_bank,
        "foreground": 0 <= options.foreground <= 1,
        "regression_share": 0 <= options.regression_share <= 1,
        "ramp_share": 0 <= options.ramp_share <= 1,
        "warm_steps": options.warm_steps >= 0,
        "every": options.every >= 1,
        "encoder_crop": 0 < options.encoder_crop <= 1,
    }
    for name, right in ranges.items():
        if not right:
            value = getattr(options, name)
            raise TrainingError(f"option {name} of objective gdm is out of range: {value!r}")


@dataclass(frozen=True)
class Schedule:
    """Regression, then a linear ramp, then constant; steps count from 0."""

    start: int
    ramp: int
    warm: int
    every: int = 1
    on: bool = True

    def ramp_at(self, step: int) -> float:
        """The share of the full drift at a step: 0 to 1."""
        if not self.drifts(step):
            return 0.0
        return min(1.0, max(0, step - self.start + 1) / self.ramp)

    def drifts(self, step: int) -> bool:
        """Whether the encoder runs: from `warm` steps before the ramp on, first to fill banks."""
        return self.on and step >= self.start - self.warm and step % self.every == 0


def schedule_of(options: GdmOptions, total_steps: int) -> Schedule:
    """The schedule for a whole training of so many steps."""
    start = math.ceil(options.regression_share * total_steps)
    ramp = max(1, math.ceil(options.ramp_share * total_steps))
    return Schedule(start, ramp, options.warm_steps, options.every, options.strength > 0)
