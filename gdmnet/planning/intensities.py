"""Which normalisation each channel gets, and whether the target is a correction of a source."""

from __future__ import annotations

from math import ceil

from gdmnet.arrays.normalise import scheme_of
from gdmnet.plan import Fingerprint, Intensity, Normalisation

AIR = -1024.0  # HU: the lowest value of a 12-bit CT, and what lies outside the body
_CT_CEILING = 3071.0  # HU: the highest value of a 12-bit CT


def residual_channel(channel_names: tuple[str, ...], target_name: str) -> int | None:
    """The first source that is the same quantity as the target: the same name, or both CT."""
    target_is_ct = scheme_of(target_name, target=True) == "ct"
    for channel, name in enumerate(channel_names):
        source_is_ct = scheme_of(name, target=False) == "ct"
        if name.casefold() == target_name.casefold() or (source_is_ct and target_is_ct):
            return channel
    return None


def choose_normalisations(
    fingerprint: Fingerprint,
) -> tuple[tuple[Normalisation, ...], Normalisation, str]:
    """The sources' normalisations, the target's, and the reason in words."""
    target_scheme = scheme_of(fingerprint.target_name, target=True)
    target = _normalisation(target_scheme, fingerprint.target)
    same = residual_channel(fingerprint.channel_names, fingerprint.target_name)
    sources = []
    words = [f"target {fingerprint.target_name}: {_because(target)}"]
    pairs = zip(fingerprint.channel_names, fingerprint.sources, strict=True)
    for channel, (name, intensity) in enumerate(pairs):
        scheme = scheme_of(name, target=False)
        if scheme == target_scheme == "ct":
            source = target
            why = "exactly as the target, so that their difference is one of HU"
        elif channel == same:
            source = _normalisation(target_scheme, intensity)
            why = f"{_because(source)}; as the target, whose quantity it is"
        else:
            source = _normalisation(scheme, intensity)
            why = _because(source)
        sources.append(source)
        words.append(f"source {name}: {why}")
    return tuple(sources), target, "; ".join(words) + "."


def _normalisation(scheme: str, intensity: Intensity) -> Normalisation:
    if scheme == "ct":
        high = max(_CT_CEILING, float(ceil(intensity.p99_5)))
        return Normalisation("ct", intensity.mean, _width(intensity.std), AIR, high, background=AIR)
    if scheme == "percentiles":
        width = _width(intensity.p99 - intensity.p01)
        return Normalisation(scheme, intensity.p01, width, None, None, intensity.outside)
    if scheme == "zscore":
        low, high = intensity.p00_5, intensity.p99_5
        width = _width(intensity.std)
        return Normalisation(scheme, intensity.mean, width, low, high, intensity.outside)
    return Normalisation("none", 0.0, 1.0, None, None, intensity.outside)


def _width(value: float) -> float:
    return value if value > 0 else 1.0


def _because(normalisation: Normalisation) -> str:
    if normalisation.scheme == "ct":
        return (
            f"ct, HU are the same in every case: one window of {normalisation.low:g} to"
            f" {normalisation.high:g} HU (12 bits; more only where half a percent of the body"
            " exceeds it, so that metal does not stretch the scale), mean and deviation inside the"
            " body over all cases"
        )
    return {
        "percentiles": "percentiles, no physical unit: each case's own p1 and p99 inside the body"
        " become 0 and 1; predictions are written with the medians over the training cases",
        "zscore": "zscore, no physical unit: clipped to each case's own p0.5 to p99.5 inside the"
        " body, then mean 0 and deviation 1",
        "none": "none, as its name asks",
    }[normalisation.scheme]
