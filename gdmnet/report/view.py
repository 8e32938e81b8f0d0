"""What the page's viewer knows about a case: its volumes, packed, and where to look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdmnet.geometry import Shape, Spacing
from gdmnet.report.encode import pack, pack_mask, reduce, reduction
from gdmnet.report.images import CaseImages, CaseVolume, times
from gdmnet.report.statistics import Place, percentiles, profile, worst_places

_CT_SCALE = 1500.0  # HU that count as a CT's visible range when steps are chosen
_COARSER = {"source": 1.5, "uncertainty": 3.0}  # steps, against those of prediction and target
_CT_LIMIT, _LIMIT_SHARE = 200.0, 0.2  # the error's first window: HU, or a share of the target's


@dataclass(frozen=True)
class Picture:
    """One volume of a case.

    Attributes:
        kind: "source", "prediction", "target" or "uncertainty".
        title: above its panel.
        method: whose prediction or uncertainty it is; "" for source and target.
        hounsfield: whether HU windows make sense.
        low: of the window "auto": percentile 0.5 inside the mask.
        high: its other end: percentile 99.5.
        step: of the numbers in `text`.
        rms: difference between what is shown and the file, on the stored grid.
        text: see `encode.Packed`.
    """

    kind: str
    title: str
    method: str
    hounsfield: bool
    low: float
    high: float
    step: float
    rms: float
    text: str


@dataclass(frozen=True)
class CaseView:
    """A case for the viewer; everything spatial is (z, y, x) in LPS.

    Attributes:
        identifier: name of the case.
        unit: of predictions and target: "HU" or "".
        shape: of the stored volumes.
        spacing: mm of the stored voxels.
        factors: file voxels that became one stored voxel.
        error_limit: errors are first shown from -error_limit to error_limit.
        pictures: the volumes.
        mask: see `encode.pack_mask`.
        middle: mm from the first voxel's outer corner to the middle of the mask.
        extent: mm around it that are shown at first: the mask and a little air.
        profiles: for each axis the mean absolute error of every slice; empty without a target.
        worst: where errors are largest. Of several methods profiles and places are of their mean
            absolute error.
    """

    identifier: str
    unit: str
    shape: Shape
    spacing: Spacing
    factors: Shape
    error_limit: float
    pictures: tuple[Picture, ...]
    mask: str
    middle: tuple[float, ...]
    extent: tuple[float, ...]
    profiles: tuple[list[float | None], ...]
    worst: tuple[Place, ...]


def case_view(identifier: str, images: CaseImages, n_bytes: int) -> CaseView:
    """Pack a case's volumes.

    Args:
        identifier: name of the case.
        images: of the case.
        n_bytes: that all packed text may take.
    """
    factors = reduction(images.geometry.shape, images.geometry.spacing)
    z, y, x = (s * f for s, f in zip(images.geometry.spacing, factors, strict=True))
    mask = reduce(images.mask, factors) >= 0.5
    profiles: tuple[list[float | None], ...] = ()
    worst: tuple[Place, ...] = ()
    if images.target is not None:
        sizes = [np.abs(prediction - images.target) for prediction in images.predictions.values()]
        size = sum(sizes[1:], sizes[0]) / len(sizes)
        profiles = tuple(profile(size, images.mask, axis, factors[axis]) for axis in range(3))
        worst = worst_places(size, images.mask, factors, (z, y, x))
    text = pack_mask(mask)
    middle, extent = _box(mask, (z, y, x))
    return CaseView(
        identifier=identifier,
        unit=images.unit,
        shape=(mask.shape[0], mask.shape[1], mask.shape[2]),
        spacing=(z, y, x),
        factors=factors,
        error_limit=error_limit(images),
        pictures=_pictures(images, factors, n_bytes - len(text)),
        mask=text,
        middle=middle,
        extent=extent,
        profiles=profiles,
        worst=worst,
    )


def error_limit(images: CaseImages) -> float:
    """The error that is shown in full colour at first: 200 HU, or a fifth of the target's range."""
    if images.hounsfield or images.target is None:
        return _CT_LIMIT
    low, high = percentiles(images.target, images.mask, (0.5, 99.5))
    return _LIMIT_SHARE * (high - low) or 1.0


def describe_storage(view: CaseView) -> list[str]:
    """How the shown volumes differ from the files, in words."""
    facts = []
    if max(view.factors) > 1:
        facts.append(
            f"pictures hold {times(reversed(view.shape))} voxels of"
            f" {times(reversed(view.spacing))} mm, means over {times(reversed(view.factors))}"
            " voxels of the files; figures and charts are of the files"
        )
    differences = ", ".join(f"{p.title} {times([p.rms])}" for p in view.pictures)
    facts.append(
        "pictures are packed with loss; difference to the files (RMS):"
        f" {differences} {view.unit}".rstrip()
    )
    return facts


def _pictures(images: CaseImages, factors: Shape, n_bytes: int) -> tuple[Picture, ...]:
    volumes = images.volumes
    ends = _windows(volumes, images.mask)
    scales = [
        _visible(volume, low, high) * _COARSER.get(volume.kind, 1.0)
        for volume, (low, high) in zip(volumes, ends, strict=True)
    ]
    packed = pack([reduce(volume.array, factors) for volume in volumes], scales, n_bytes)
    return tuple(
        Picture(v.kind, v.title, v.method, v.hounsfield, low, high, p.step, p.rms, p.text)
        for v, (low, high), p in zip(volumes, ends, packed, strict=True)
    )


def _windows(volumes: Sequence[CaseVolume], mask: NDArray) -> list[tuple[float, float]]:
    """The window of each volume: one for all predictions and the target, one for all uncertainties.

    The first is the target's, or without a target what holds all predictions.
    """
    ends: list[tuple[float, float]] = []
    shared: dict[str, tuple[float, float]] = {}
    for volume in volumes:
        low, high = percentiles(volume.array, mask, (0.5, 99.5))
        ends.append((low, high))
        before = shared.get(volume.kind, (low, high))
        shared[volume.kind] = (min(low, before[0]), max(high, before[1]))
    shared["prediction"] = shared.get("target", shared["prediction"])
    return [
        end if volume.kind == "source" else shared[volume.kind]
        for volume, end in zip(volumes, ends, strict=True)
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
