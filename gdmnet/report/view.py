"""What the page's viewer knows about a case: its volumes, packed, and where to look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdmnet.geometry import Shape, Spacing
from gdmnet.metrics.score import is_ct_like
from gdmnet.report.encode import pack, pack_mask, reduce, reduction
from gdmnet.report.images import Images, times
from gdmnet.report.statistics import Place, percentiles, profile, worst_places

_CT_SCALE = 1500.0  # HU that count as a CT's visible range when steps are chosen
_COARSER = {"source": 1.5, "uncertainty": 3.0}  # steps, against those of prediction and target
_CT_REACH, _REACH_SHARE = 200.0, 0.2  # the error's first window: HU, or a share of the target's


@dataclass(frozen=True)
class Picture:
    """One volume of a case.

    Attributes:
        kind: "source", "prediction", "target" or "uncertainty".
        title: above its panel.
        hounsfield: whether HU windows make sense.
        low: of the window "auto": percentile 0.5 inside the mask.
        high: its other end: percentile 99.5.
        step: of the coefficients in `text`.
        rms: difference between what is shown and the file, on the stored grid.
        text: see `encode.Packed`.
    """

    kind: str
    title: str
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
        unit: of prediction and target: "HU" or "".
        shape: of the stored volumes.
        spacing: mm of the stored voxels.
        factors: file voxels that became one stored voxel.
        reach: errors are first shown from -reach to reach.
        pictures: the volumes.
        mask: see `encode.pack_mask`.
        profiles: for each axis the mean absolute error of every slice; empty without a target.
        worst: where errors are largest.
    """

    identifier: str
    unit: str
    shape: Shape
    spacing: Spacing
    factors: Shape
    reach: float
    pictures: tuple[Picture, ...]
    mask: str
    profiles: tuple[list[float | None], ...]
    worst: tuple[Place, ...]


def case_view(
    identifier: str, images: Images, channel_names: Sequence[str], n_bytes: int
) -> CaseView:
    """Pack a case's volumes.

    Args:
        identifier: name of the case.
        images: of the case.
        channel_names: of the sources; numbers stand where they are missing.
        n_bytes: that all packed text may take.
    """
    factors = reduction(images.geometry.shape, images.geometry.spacing)
    z, y, x = (s * f for s, f in zip(images.geometry.spacing, factors, strict=True))
    mask = reduce(images.mask, factors) >= 0.5
    profiles: tuple[list[float | None], ...] = ()
    worst: tuple[Place, ...] = ()
    if images.target is not None:
        size = np.abs(images.prediction - images.target)
        profiles = tuple(profile(size, images.mask, axis, factors[axis]) for axis in range(3))
        worst = worst_places(size, images.mask, factors, (z, y, x))
    text = pack_mask(mask)
    return CaseView(
        identifier=identifier,
        unit=images.unit,
        shape=(mask.shape[0], mask.shape[1], mask.shape[2]),
        spacing=(z, y, x),
        factors=factors,
        reach=reach(images),
        pictures=_pictures(images, channel_names, factors, n_bytes - len(text)),
        mask=text,
        profiles=profiles,
        worst=worst,
    )


def reach(images: Images) -> float:
    """The error that is shown in full colour at first: 200 HU, or a fifth of the target's range."""
    if images.hounsfield or images.target is None:
        return _CT_REACH
    low, high = percentiles(images.target, images.mask, (0.5, 99.5))
    return _REACH_SHARE * (high - low) or 1.0


def describe_storage(view: CaseView) -> list[str]:
    """How the shown volumes differ from the files, in words."""
    facts = []
    if max(view.factors) > 1:
        facts.append(
            f"pictures hold {times(reversed(view.shape))} voxels of"
            f" {times(reversed(view.spacing))} mm, means over {times(reversed(view.factors))}"
            " voxels of the files; figures and charts are of the files"
        )
    told = ", ".join(f"{p.title} {times([p.rms])}" for p in view.pictures)
    facts.append(
        f"pictures are packed with loss; difference to the files (RMS): {told} {view.unit}".rstrip()
    )
    return facts


def _pictures(
    images: Images, channel_names: Sequence[str], factors: Shape, n_bytes: int
) -> tuple[Picture, ...]:
    volumes = _volumes(images, channel_names)
    ends = {title: _ends(volume, images.mask) for _, title, volume in volumes}
    if images.target is not None:
        ends["prediction"] = ends["target"]  # one window for both
    steps = [
        _visible(kind, volume, ends[title]) * _COARSER.get(kind, 1.0)
        for kind, title, volume in volumes
    ]
    packed = pack([reduce(volume, factors) for _, _, volume in volumes], steps, n_bytes)
    return tuple(
        Picture(
            kind,
            title,
            _hounsfield(kind, volume),
            ends[title][0],
            ends[title][1],
            p.step,
            p.rms,
            p.text,
        )
        for (kind, title, volume), p in zip(volumes, packed, strict=True)
    )


def _volumes(images: Images, channel_names: Sequence[str]) -> list[tuple[str, str, NDArray]]:
    """Kind, title and array of everything there is, in the order of the panels."""
    numbers = [f"source {number}" for number in range(len(images.sources))]
    names = [f"source {name}" for name in channel_names]
    if len(names) != len(numbers) or len(set(names)) != len(names):  # not these sources' names
        names = numbers if len(numbers) > 1 else ["source"] * len(numbers)
    volumes = [("source", name, v) for name, v in zip(names, images.sources, strict=True)]
    volumes.append(("prediction", "prediction", images.prediction))
    if images.target is not None:
        volumes.append(("target", "target", images.target))
    if images.uncertainty is not None:
        volumes.append(("uncertainty", "uncertainty (SD)", images.uncertainty))
    return volumes


def _ends(volume: NDArray, mask: NDArray) -> tuple[float, float]:
    low, high = percentiles(volume, mask, (0.5, 99.5))
    return low, high


def _visible(kind: str, volume: NDArray, ends: tuple[float, float]) -> float:
    if _hounsfield(kind, volume):
        return _CT_SCALE
    low, high = ends
    return max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-12)


def _hounsfield(kind: str, volume: NDArray) -> bool:
    return kind != "uncertainty" and is_ct_like(volume)
