"""Is this input like the training data? Grid and intensities against the model's fingerprint.

The network is asked for what it has seen. An input that differs from all training cases is
translated all the same, but a person should look at the result twice.

Of every quantity the lowest and the highest value of the training cases are known; what is accepted
beyond them says `describe_check`. With one or two training cases the least margins decide.

Channels whose normalisation takes away the gain of each case (every MR) are compared by ratios to
their own 99th percentile, as the gain is no property of the patient; CT is compared in HU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdmnet.arrays.crop import bounding_box, box_shape, uncrop
from gdmnet.arrays.normalise import scheme_of
from gdmnet.arrays.resample import resample_mask
from gdmnet.data.case import Case, CaseRecord, Volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import Shape, Spacing, placement_note
from gdmnet.plan import CaseFingerprint, Configuration, Fingerprint, Intensity
from gdmnet.planning.fingerprint import measure_intensity

# The least margins. On 34 head-neck CTs of one collection, trained on 1, 2, 3, 7, 20 of them, they
# leave 8, 3, 2, 1, 0.1 % of the others with a warning (30, 11, 7, 3, 1 % with 1.5, 1.3 and 1).
SPACING_FACTOR = 2.0
FIELD_FACTOR = 1.5
DEVIATIONS = 1.5
NOISE_SHARE = 0.25
BODY_FACTOR = 2.0
# Histograms of an MR's body by five percentiles over the 99th. Trained on 4 or 7 of 9 brain T2 or
# of 16 head MRs they leave 0 to 3 % of the others with a warning and find 97 to 100 % of the same
# images with inverted contrast; of T1 and FLAIR, some with the skull and some without, hardly any.
HISTOGRAM, HISTOGRAM_FACTOR = 0.1, 1.5
# Of 34 T1, FLAIR and simulated head MRs the sign of the rim warns about none, and finds them all
# when inverted, with 1 to 7 training cases. Deviations by which rim and core differ to have a sign:
RIM = 0.5
_ANY = 10.0  # deviations, which no rim has
_CORE = (0.1, 0.9)  # quantiles of the training cases: one odd case must not widen the margin
_BLANK = 1e-6  # spread of a blank image, file or network units
_SHOWN = 3  # findings named in the warning; all are in predictions.json
_FAR_SPACING = 3.0  # times coarser or finer than what the model was trained at: worth a warning


@dataclass(frozen=True)
class Finding:
    """One way in which an input is unlike the training cases."""

    what: str  # for example "spacing along z"
    unit: str  # "mm", "HU", or "" for a ratio or an arbitrary scale
    value: float
    training: tuple[float, float]  # lowest and highest value of the training cases
    accepted: tuple[float, float]  # the limits beyond which there is a warning

    def __str__(self) -> str:
        low, high = (f"{value:.3g}" for value in self.training)
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.what} {self.value:.3g}{unit} (training {low} to {high})"


@dataclass(frozen=True)
class InputCheck:
    """What inputs are compared with; stands once in predictions.json."""

    training_cases: int  # that the fingerprint describes
    false_alarms: int | None  # of them, each held against the others; None where there is only one
    rule: str  # the margins, in words


@dataclass(frozen=True)
class ImageFacts:
    """What is compared with the training cases'."""

    shape: Shape  # of the body's box
    spacing: Spacing
    body_fraction: float  # of the image
    sources: tuple[Intensity, ...]


class _Quantity(NamedTuple):
    """One of the numbers that are compared."""

    what: str
    unit: str
    value: float
    margin: float  # the least one: a factor if `is_factor`, else of the unit
    is_factor: bool = False


def measure_input(case: Case, volume: Volume) -> ImageFacts:
    """Measure an input as `planning.fingerprint` measures a training case.

    The case is prepared; the volume is that of its sources after the bias correction, (c, z, y, x)
    in file units.
    """
    record = case.record
    counted = _on_source_grid(case.body, record)
    inside = counted if case.patient is None else _on_source_grid(case.patient, record)
    spacing = record.geometry.spacing
    sources = tuple(measure_intensity(channel, inside, spacing) for channel in volume.array)
    return ImageFacts(box_shape(bounding_box(counted)), spacing, float(inside.mean()), sources)


def _on_source_grid(mask: NDArray, record: CaseRecord) -> NDArray:
    """A mask (z, y, x) of the prepared grid as a boolean one of the source's."""
    cropped = resample_mask(mask, box_shape(record.box))
    inside = uncrop(cropped, record.box, record.geometry.shape, 0) != 0
    if not inside.any():  # thinner than half a voxel of the prepared grid
        inside[...] = True
    return inside


def require_content(case: Case, volume: Volume, configuration: Configuration) -> None:
    """Refuse a blank image: the network would make a patient of it all the same.

    The case is prepared; the volume is that of its sources, (c, z, y, x) in file units.

    Raises:
        DatasetError: a CT of a single value, or another image without contrast inside the body.
    """
    for channel, image in enumerate(volume.array):
        is_ct = configuration.sources[channel].scheme == "ct"  # water phantoms are even inside
        values = image if is_ct else case.source[channel][case.body != 0]
        if np.ptp(values) <= _BLANK:
            where = "" if is_ct else " inside the body"
            raise DatasetError(
                f"channel {channel} is blank: all voxels{where} have the same value; give the"
                " right image"
            )


def check_input(facts: ImageFacts | CaseFingerprint, training: Fingerprint) -> tuple[Finding, ...]:
    """Everything about an input that lies outside of what the training cases justify."""
    every = (facts, *training.cases)
    noise = all(source.noise is not None for case in every for source in case.sources)
    own, *known = (_quantities(case, training.channel_names, noise=noise) for case in every)
    findings = [*_histograms(facts, training), *_rims(facts, training)]
    for quantity, *others in zip(own, *known, strict=True):
        values = np.array([other.value for other in others])
        margin = float(np.median([other.margin for other in others]))
        low, high = _limits(values, margin, is_factor=quantity.is_factor)
        if not low <= quantity.value <= high:
            found = float(values.min()), float(values.max())
            findings.append(
                Finding(quantity.what, quantity.unit, quantity.value, found, (low, high))
            )
    return tuple(findings)


def describe_check(fingerprint: Fingerprint) -> InputCheck:
    """The rule, and how it does on the training cases themselves, left out in turn."""
    cases = fingerprint.cases
    alarms = [
        bool(check_input(case, replace(fingerprint, cases=cases[:i] + cases[i + 1 :])))
        for i, case in enumerate(cases)
        if len(cases) > 1
    ]
    rule = (
        "outside the range of the training cases by more than the distance of their 10th and 90th"
        f" percentile, and by more than a factor of {SPACING_FACTOR:g} (spacing), {FIELD_FACTOR:g}"
        f" (field of view), {BODY_FACTOR:g} (body's share of the image), {DEVIATIONS:g} standard"
        f" deviations inside the body (intensities) or {100 * NOISE_SHARE:g} % (noise); or an MR's"
        f" histogram farther than {HISTOGRAM:g} from the nearest training case's and"
        f" {HISTOGRAM_FACTOR:g} times as far as those from each other, or its rim brighter than its"
        f" core where all training cases' is darker, or the reverse ({RIM:g} deviations each)"
    )
    return InputCheck(len(cases), sum(alarms) if alarms else None, rule)


def warning(findings: Sequence[Finding]) -> str:
    """The findings as one line."""
    first = "; ".join(str(finding) for finding in findings[:_SHOWN])
    n_more = len(findings) - _SHOWN
    more = f"; and {n_more} more" if n_more > 0 else ""
    return f"unlike the training data: {first}{more}"


def input_warnings(
    case: Case, findings: Sequence[Finding] | None, configuration: Configuration
) -> Iterator[str]:
    """What a person should know of a prepared case; its findings are None if not looked for."""
    if placement := placement_note(case.record.geometry):
        yield placement
    if case.record.mask_rule == "whole volume":
        yield "no body was found, the whole volume was translated"
    if findings:
        yield warning(findings)
    if findings is None:
        spacing = case.record.geometry.spacing
        for axis, own, at in zip("zyx", spacing, configuration.spacing, strict=True):
            if max(own / at, at / own) > _FAR_SPACING:
                yield f"{own:g} mm along {axis}, but the model works at {at:g} mm"


def _histograms(facts: ImageFacts | CaseFingerprint, training: Fingerprint) -> Iterator[Finding]:
    """Channels whose histogram is far from that of the nearest training case.

    The distance is the mean absolute difference of the percentiles; the training cases' distances
    to their own nearest neighbours say how far is far.
    """
    for channel, name in enumerate(training.channel_names):
        own = facts.sources[channel]
        others = [case.sources[channel] for case in training.cases]
        if _is_kept(name) or not all(source.quantiles for source in (own, *others)):
            continue
        shapes = np.array([_histogram(other) for other in others])  # (n, 5)
        among = np.abs(shapes[:, None] - shapes).mean(axis=2)  # (n, n)
        among[np.diag_indices(len(among))] = np.inf
        nearest = among.min(axis=1) if len(others) > 1 else np.zeros(1)
        value = float(np.abs(shapes - _histogram(own)).mean(axis=1).min())
        limit = max(HISTOGRAM, HISTOGRAM_FACTOR * float(nearest.max()))
        if value > limit:
            what = f"histogram of {name} in the body, distance from the nearest training case"
            known = float(nearest.min()), float(nearest.max())
            yield Finding(what, "", value, known, (0.0, limit))


def _rims(facts: ImageFacts | CaseFingerprint, training: Fingerprint) -> Iterator[Finding]:
    """Channels that are bright where all training cases are dark: at the rim, or in the core."""
    for channel, name in enumerate(training.channel_names):
        own = facts.sources[channel].rim
        known = [rim for case in training.cases if (rim := case.sources[channel].rim) is not None]
        if _is_kept(name) or own is None or len(known) < len(training.cases):
            continue
        low, high = min(known), max(known)
        limits = (-_ANY, RIM) if high <= -RIM else (-RIM, _ANY) if low >= RIM else (-_ANY, _ANY)
        if not limits[0] <= own <= limits[1]:
            what = f"rim of {name} over its core, in standard deviations"
            yield Finding(what, "", own, (low, high), limits)


def _histogram(intensity: Intensity) -> NDArray:
    return np.array(intensity.quantiles) / (abs(intensity.p99) or 1.0)


def _limits(values: NDArray, margin: float, *, is_factor: bool) -> tuple[float, float]:
    """Lowest and highest accepted value; factors are differences of logarithms."""
    if is_factor:
        low, high = _limits(np.log(values), math.log(margin), is_factor=False)
        return math.exp(low), math.exp(high)
    first, last = np.quantile(values, _CORE)
    margin = max(margin, float(last - first))
    return float(values.min()) - margin, float(values.max()) + margin


def _quantities(
    facts: ImageFacts | CaseFingerprint, channel_names: Sequence[str], *, noise: bool
) -> list[_Quantity]:
    """Another kind of image or unit is the gravest: intensities come first."""
    named = zip(channel_names, facts.sources, strict=True)
    found = [item for name, source in named for item in _intensities(name, source, noise=noise)]
    share = facts.body_fraction
    found.append(_Quantity("share of the image that is body", "", share, BODY_FACTOR, True))
    for axis, width in zip("zyx", facts.spacing, strict=True):
        found.append(_Quantity(f"spacing along {axis}", "mm", width, SPACING_FACTOR, True))
    for axis, size, width in zip("zyx", facts.shape, facts.spacing, strict=True):
        field = f"field of view along {axis}"
        found.append(_Quantity(field, "mm", size * width, FIELD_FACTOR, True))
    return found


def _is_kept(name: str) -> bool:
    """Whether the scale of a channel's values means something, which an MR's gain does not."""
    return scheme_of(name, target=False) in ("ct", "none")


def _intensities(name: str, intensity: Intensity, *, noise: bool) -> Iterator[_Quantity]:
    scheme, is_kept = scheme_of(name, target=False), _is_kept(name)
    unit, relative = "HU" if scheme == "ct" else "", "" if is_kept else " over its percentile 99"
    scale = 1.0 if is_kept else abs(intensity.p99) or 1.0
    for what, value in (
        ("percentile 1", intensity.p01),
        ("median", intensity.p50),
        *((("percentile 99", intensity.p99),) if is_kept else ()),
        ("contrast (standard deviation)", intensity.std),
        ("background", intensity.outside),
    ):
        margin = DEVIATIONS * intensity.std / scale
        yield _Quantity(f"{what} of {name}{relative}", unit, value / scale, margin)
    if noise and scheme == "ct" and intensity.noise is not None:  # elsewhere scanners differ more
        yield _Quantity(f"noise of {name}", unit, intensity.noise, NOISE_SHARE * intensity.noise)
