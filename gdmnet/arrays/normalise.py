"""File units to network units and back: every scheme is invertible.

Forward y = (clip(t, low, high) - centre) / scale, back t = clip(y * scale + centre, low, high).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gdmnet.plan import Normalisation

_PART = 2**20  # values


def scheme_of(name: str, *, target: bool) -> str:
    """The scheme that the name of a channel asks for, a key of `SCHEMES`.

    The words of the name decide, in any case: "none" or "noNorm" -> none; "CT" or "CBCT" -> ct;
    anything else has no physical unit -> percentiles for a target (each scanner has its own
    scale, and 0 to 1 has to come back exactly), zscore for a source.
    """
    words = set(re.findall(r"[^\W\d_]+", name.casefold()))
    if words & {"none", "nonorm"}:
        return "none"
    if words & {"ct", "cbct"}:
        return "ct"
    return "percentiles" if target else "zscore"


def fit(normalisation: Normalisation, image: NDArray, body: NDArray) -> Normalisation:
    """The normalisation with this case's own numbers; "ct" and "none" come back unchanged.

    Only voxels of the image (z, y, x) in file units count that are not 0 in the body.

    Raises:
        ValueError: the scheme needs a body and the body is empty.
    """
    fit_scheme = SCHEMES[normalisation.scheme]
    if fit_scheme is None:
        return normalisation
    values = image[body != 0]
    if values.size == 0:
        raise ValueError("nothing to fit: the body is empty")
    return fit_scheme(normalisation, values)


def apply(image: NDArray, normalisation: Normalisation) -> NDArray:
    """An image in file units as float32 in network units; clipped to low and high."""
    result = np.clip(image, *_bounds(normalisation)).astype(np.float32, copy=False)
    result -= np.float32(normalisation.centre)
    result /= np.float32(normalisation.scale)
    return result


def invert(image: NDArray, normalisation: Normalisation) -> NDArray:
    """An image in network units as float32 in file units; clipped to low and high."""
    result = image.astype(np.float32)
    result *= np.float32(normalisation.scale)
    result += np.float32(normalisation.centre)
    return np.clip(result, *_bounds(normalisation), out=result)


def background_value(normalisation: Normalisation) -> float:
    """What lies outside body, crop and volume (CT: air), in network units."""
    return float(apply(np.array([normalisation.background]), normalisation)[0])


def _bounds(normalisation: Normalisation) -> tuple[float, float]:
    """What to clip to; numpy before 2.1 refuses to clip by no bound at all."""
    low, high = normalisation.low, normalisation.high
    return -np.inf if low is None else low, np.inf if high is None else high


def _fit_percentiles(normalisation: Normalisation, values: NDArray) -> Normalisation:
    p01, p99 = (float(p) for p in np.percentile(values, (1, 99), overwrite_input=True))
    scale = _first_positive(p99 - p01, float(np.ptp(values)), magnitude=abs(p01))
    return replace(normalisation, centre=p01, scale=scale)


def _fit_zscore(normalisation: Normalisation, values: NDArray) -> Normalisation:
    low, high = (float(p) for p in np.percentile(values, (0.5, 99.5), overwrite_input=True))
    if low == high:  # 99 % of the body is one value: the rest is all there is to see
        low, high = float(values.min()), float(values.max())
    centre, std = mean_and_deviation(np.clip(values, low, high, out=values))
    scale = _first_positive(std, magnitude=abs(centre))
    return replace(normalisation, centre=centre, scale=scale, low=low, high=high)


def mean_and_deviation(values: NDArray) -> tuple[float, float]:
    """Of one axis of values, in float64, of which there is a copy of a part at a time only."""
    mean = float(values.mean(dtype=np.float64))
    parts = (values[first : first + _PART] for first in range(0, values.size, _PART))
    deviations = (np.subtract(part, mean, dtype=np.float64) for part in parts)
    return mean, math.sqrt(sum(float(np.vdot(own, own)) for own in deviations) / values.size)


def _first_positive(*candidates: float, magnitude: float) -> float:
    """The first width that float32 resolves beside values of this magnitude, else 1."""
    return next((width for width in candidates if width > 1e-6 * magnitude), 1.0)


SCHEMES: dict[str, Callable[[Normalisation, NDArray], Normalisation] | None] = {
    "ct": None,  # one window for the whole dataset: HU mean the same in every case
    "percentiles": _fit_percentiles,
    "zscore": _fit_zscore,
    "none": None,
}
"""Every scheme and how it takes a case's own numbers from the values inside the body."""
