"""From network units of the target to what a public encoder was trained on: one affine, one clamp.

The constants are those of the dataset, never of a patch: a patch's own z-score would take away
the very errors of level and contrast that the drift has to see.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import inf

from gdmnet.errors import PlanError
from gdmnet.plan import Fingerprint, Intensity, Normalisation

MOST_OUTSIDE = 0.2  # of the target's range that may lie outside an encoder's window unremarked

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HuWindow:
    """An encoder of CT: HU low..high become out_low..out_high, values outside are clipped."""

    low: float
    high: float
    out_low: float = 0.0
    out_high: float = 1.0


@dataclass(frozen=True)
class ZScore:
    """An encoder of images with mean 0 and deviation 1: any modality.

    `whole`: taken over the whole volume, else inside the body.
    """

    whole: bool = True


@dataclass(frozen=True)
class IntensityMap:
    """y = clamp(scale * x + offset, low, high), x in network units of the target.

    `outside` is the share of the target's range that the clamp makes constant.
    """

    scale: float
    offset: float
    low: float = -inf
    high: float = inf
    outside: float = 0.0


def intensity_map(
    expects: HuWindow | ZScore, target: Normalisation, fingerprint: Fingerprint | None, *, name: str
) -> IntensityMap:
    """The mapping to an encoder's input.

    Args:
        expects: what the encoder was trained on.
        target: of the configuration.
        fingerprint: of the training set; z-scores are made of it, and the target's range is that
            of its 0.5 and 99.5 percentiles (else of the plan's clip).
        name: of the encoder, for complaints.

    Raises:
        PlanError: an encoder of CT and a target without HU; a z-score without a fingerprint.
    """
    if isinstance(expects, ZScore):
        if fingerprint is None:
            raise PlanError(
                f"encoder {name}: needs the dataset's fingerprint.json for its z-score; run"
                " gdm_plan_and_preprocess"
            )
        mean, std = moments(fingerprint, target, whole=expects.whole)
        return IntensityMap(1 / std, -mean / std)
    if target.scheme != "ct":
        raise PlanError(
            f"encoder {name}: was trained on CT in HU, and this target ({target.scheme}) has none;"
            " use self, random, or one that takes any modality (gdm_info --encoders)"
        )
    slope = (expects.out_high - expects.out_low) / (expects.high - expects.low)
    outside = _share_outside(expects, target, fingerprint)
    if outside > MOST_OUTSIDE:
        _log.warning(
            "warning: encoder %s: %.0f %% of the target's range lie outside its window of %g to %g"
            " HU; there the drift has no gradient",
            name,
            100 * outside,
            expects.low,
            expects.high,
        )
    return IntensityMap(
        scale=target.scale * slope,
        offset=(target.centre - expects.low) * slope + expects.out_low,
        low=min(expects.out_low, expects.out_high),
        high=max(expects.out_low, expects.out_high),
        outside=outside,
    )


def moments(fingerprint: Fingerprint, target: Normalisation, *, whole: bool) -> tuple[float, float]:
    """Mean and deviation of the training targets in network units, every case with equal weight.

    Of the whole volume they are those of the body and, in the share that is not body, the value
    outside it: the background's own noise is neglected.
    """
    found = []
    for case in fingerprint.cases:
        centre, scale = _units(case.target, target)
        mean = (case.target.mean - centre) / scale
        square = (case.target.std / scale) ** 2 + mean**2
        if whole:
            air = max(case.target.outside, -inf if target.low is None else target.low)
            air = (min(air, inf if target.high is None else target.high) - centre) / scale
            share = case.body_fraction
            mean = share * mean + (1 - share) * air
            square = share * square + (1 - share) * air**2
        found.append((mean, square))
    mean, square = (sum(values) / len(values) for values in zip(*found, strict=True))
    variance = square - mean**2
    return mean, variance**0.5 if variance > 0 else 1.0


def _units(case: Intensity, target: Normalisation) -> tuple[float, float]:
    """Centre and scale of a case in file units, as `arrays.normalise` fits them."""
    if target.scheme == "percentiles":
        return case.p01, case.p99 - case.p01 or 1.0
    if target.scheme == "zscore":
        return case.mean, case.std or 1.0
    return target.centre, target.scale


def _share_outside(window: HuWindow, target: Normalisation, known: Fingerprint | None) -> float:
    low, high = target.low, target.high
    if known is not None:
        low, high = known.target.p00_5, known.target.p99_5
    if low is None or high is None or high <= low:
        return 0.0
    inside = max(0.0, min(high, window.high) - max(low, window.low))
    return 1 - inside / (high - low)
