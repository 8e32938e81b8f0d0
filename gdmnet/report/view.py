"""One case as the page shows it: volumes packed for the viewer, charts, facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from gdmnet import codec
from gdmnet.geometry import Shape, Spacing, lps_frame
from gdmnet.metrics.calibration import calibrate
from gdmnet.metrics.conventions import GDMNET
from gdmnet.metrics.edges import AIR_BELOW, BONE_ABOVE
from gdmnet.metrics.summary import Summary
from gdmnet.report.cases import CaseImages, CaseVolume, ReportCase, describe, read_images, times
from gdmnet.report.encode import Packed, pack, pack_mask, reduce, reduction
from gdmnet.report.figures import (
    Place,
    agreement,
    bands_figure,
    bland_altman_figure,
    calibration_figure,
    charts,
    coverage_figure,
    folded,
    histogram_figure,
    percentiles,
    worst_places,
)

MOST_BYTES = 2_000_000  # of the page for one case: volumes and charts
_RESERVE = 60_000  # for all that is not packed volumes and charts
_CT_SCALE = 1500.0  # HU that count as a CT's visible range when steps are chosen
_COARSER = {"source": 1.5, "uncertainty": 3.0}  # steps, against those of prediction and target
_CT_LIMIT, _LIMIT_SHARE = 200.0, 0.2  # the error's first window: HU, or a share of the target's


@dataclass(frozen=True)
class CasePage:
    """Everything that the page holds about one case."""

    identifier: str
    view: str  # a `CaseView` as JSON, safe inside a script element
    figures: tuple[str, ...]  # HTML of the charts; of several methods folded away under their names
    facts: tuple[str, ...]  # about grid, mask and storage, in words
    methods: tuple[str, ...]  # whose predictions are shown, in the order of the panels
    unit: str  # of predictions and target: "HU" or ""


@dataclass(frozen=True)
class Picture:
    """One volume of a case: a `CaseVolume`, packed."""

    kind: str
    title: str
    method: str
    hounsfield: bool  # whether HU windows make sense
    low: float  # of the window "auto": percentiles 0.5 and 99.5 inside the mask
    high: float
    packed: Packed


@dataclass(frozen=True)
class CaseView:
    """A case for the viewer; everything spatial is (z, y, x) in LPS."""

    identifier: str
    unit: str  # of predictions and target: "HU" or ""
    shape: Shape  # of the stored volumes
    spacing: Spacing  # mm, of the same
    factors: Shape  # file voxels that became one stored voxel
    error_limit: float  # errors are first shown from -error_limit to error_limit
    pictures: tuple[Picture, ...]
    mask: str  # see `encode.pack_mask`
    middle: tuple[float, ...]  # mm from the first voxel's outer corner to the middle of the mask
    extent: tuple[float, ...]  # mm around it that are shown at first: the mask and a little air
    worst: tuple[Place, ...]  # where |error| is largest; of several methods the mean of theirs
    origin: tuple[
        float, ...
    ]  # DICOM patient coordinates (x, y, z), mm, of the first voxel's middle
    steps: tuple[tuple[float, ...], ...]  # mm (x, y, z) to the next voxel along z, y and x


def case_page(
    case: ReportCase,
    channel_names: Sequence[str] = (),
    summaries: Mapping[str, Summary] = MappingProxyType({}),
    convention: str = GDMNET,
) -> CasePage:
    """Read, measure and pack one case into at most `MOST_BYTES`.

    Args:
        case: its files.
        channel_names: of the sources.
        summaries: method -> what gdm_evaluate says; predictions get the gain and offset of their
            case, if there are any.
        convention: of the metrics; it decides on the mask where none is given.

    Raises:
        DatasetError: an image cannot be read, or the mask is empty.
    """
    matches = {}
    for method, summary in summaries.items():
        values = summary.cases[case.identifier]
        gain, offset = values.get("gain"), values.get("offset")
        if gain is not None and offset is not None:
            matches[method] = (gain, offset)
    images = read_images(case, channel_names, matches, convention)
    figures = _figures(images)
    view = case_view(case.identifier, images, MOST_BYTES - _RESERVE - sum(map(len, figures)))
    return CasePage(
        identifier=case.identifier,
        view=json.dumps(codec.encode(view), allow_nan=False).replace("<", "\\u003c"),
        figures=figures,
        facts=(*describe(images), *describe_storage(view)),
        methods=tuple(case.predictions),
        unit=images.unit,
    )


def case_view(identifier: str, images: CaseImages, n_bytes: int) -> CaseView:
    """Pack a case's volumes into `n_bytes` of text."""
    factors = reduction(images.geometry.shape, images.geometry.spacing)
    z, y, x = (s * f for s, f in zip(images.geometry.spacing, factors, strict=True))
    mask = reduce(images.mask, factors) >= 0.5
    worst: tuple[Place, ...] = ()
    if images.target is not None:
        sizes = [np.abs(prediction - images.target) for prediction in images.predictions.values()]
        size = sum(sizes[1:], sizes[0]) / len(sizes)
        worst = worst_places(size, images.mask, factors, (z, y, x))
    text = pack_mask(mask)
    middle, extent = _box(mask, (z, y, x))
    corner, direction = lps_frame(images.geometry)
    fine = direction[:, ::-1] * images.geometry.spacing  # columns: a file voxel along z, y, x
    first = corner + fine @ ((np.array(factors) - 1) / 2)
    return CaseView(
        identifier=identifier,
        unit=images.unit,
        shape=(mask.shape[0], mask.shape[1], mask.shape[2]),
        spacing=(z, y, x),
        factors=factors,
        error_limit=_error_limit(images),
        pictures=_pictures(images, factors, n_bytes - len(text)),
        mask=text,
        middle=middle,
        extent=extent,
        worst=worst,
        origin=tuple(first.tolist()),
        steps=tuple(map(tuple, (fine * factors).T.tolist())),
    )


def describe_storage(view: CaseView) -> list[str]:
    """How the shown volumes differ from the files, in words."""
    facts = []
    if max(view.factors) > 1:
        facts.append(
            f"pictures hold {times(reversed(view.shape))} voxels of"
            f" {times(reversed(view.spacing))} mm, means over {times(reversed(view.factors))}"
            " voxels of the files; figures and charts are of the files"
        )
    differences = ", ".join(f"{p.title} {times([p.packed.rms])}" for p in view.pictures)
    facts.append(
        "pictures are packed with loss; difference to the files (RMS):"
        f" {differences} {view.unit}".rstrip()
    )
    return facts


def _figures(images: CaseImages) -> tuple[str, ...]:
    """Histograms of all methods in one chart; what compares with the target for each method."""
    volumes = dict(images.predictions)
    if images.target is not None:
        volumes = {"target": images.target, **volumes}
    figures = [histogram_figure(volumes, images.mask, images.unit)]
    for method in images.predictions if images.target is not None else ():
        own = _against_target(images, method)
        if len(images.predictions) > 1:
            own = [folded(f"{method} against the target", charts(own))]
        figures += own
    return tuple(figures)


def _against_target(images: CaseImages, method: str) -> list[str]:
    prediction, target, mask = images.predictions[method], images.target, images.mask
    assert target is not None
    edges: tuple[float, ...] = (AIR_BELOW, BONE_ABOVE)
    if not images.unit:
        edges = tuple(np.unique(percentiles(target, mask, (25, 50, 75))).tolist())
    found = agreement(prediction, target, mask, edges)
    figures = [bland_altman_figure(found, images.unit), bands_figure(found, images.unit)]
    deviation = images.of_kind("uncertainty").get(method)
    spread = None if deviation is None else calibrate(deviation, prediction - target, mask)
    if spread is not None and images.coverage is not None:
        figures.append(coverage_figure(spread, images.coverage, images.unit))
    elif spread is not None:
        figures.append(calibration_figure(spread, images.unit))
    return figures


def _error_limit(images: CaseImages) -> float:
    """The error that is shown in full colour at first: 200 HU, or a fifth of the target's range."""
    if images.unit or images.target is None:
        return _CT_LIMIT
    low, high = percentiles(images.target, images.mask, (0.5, 99.5))
    return _LIMIT_SHARE * (high - low) or 1.0


def _pictures(images: CaseImages, factors: Shape, n_bytes: int) -> tuple[Picture, ...]:
    windows = _windows(images)
    scales = [
        _visible(volume, *window) * _COARSER.get(volume.kind, 1.0)
        for volume, window in zip(images.volumes, windows, strict=True)
    ]
    packed = pack([reduce(volume.array, factors) for volume in images.volumes], scales, n_bytes)
    return tuple(
        Picture(volume.kind, volume.title, volume.method, volume.hounsfield, *window, one)
        for volume, window, one in zip(images.volumes, windows, packed, strict=True)
    )


def _windows(images: CaseImages) -> list[tuple[float, float]]:
    """The window of each volume: one for all predictions and the target, one for all uncertainties.

    The first is the target's, or without a target what holds all predictions.
    """
    ends = [percentiles(volume.array, images.mask, (0.5, 99.5)) for volume in images.volumes]

    def window(kind: str) -> tuple[float, float]:
        own = [end for volume, end in zip(images.volumes, ends, strict=True) if volume.kind == kind]
        return min(low for low, _ in own), max(high for _, high in own)

    shared = dict.fromkeys(("prediction", "target"), "prediction")
    if images.target is not None:
        shared = dict.fromkeys(shared, "target")
    return [
        (low, high) if volume.kind == "source" else window(shared.get(volume.kind, volume.kind))
        for volume, (low, high) in zip(images.volumes, ends, strict=True)
    ]


def _box(mask: NDArray, spacing: Spacing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The middle and the sides, in mm, of what is shown of a mask at first."""
    middle, extent = [], []
    for axis, (n, side) in enumerate(zip(mask.shape, spacing, strict=True)):
        inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = (inside[0], inside[-1] + 1) if inside.size else (0, n)
        middle.append(float(first + last) / 2 * side)
        extent.append(min(n, float(last - first) * 1.08 + 2) * side)
    return tuple(middle), tuple(extent)


def _visible(volume: CaseVolume, low: float, high: float) -> float:
    """The width of values that a volume's steps are a share of."""
    if volume.hounsfield:
        return _CT_SCALE
    return max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-12)
