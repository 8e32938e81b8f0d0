"""From the headers of a series' slices to one grid, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet.data.case import SeriesHeader
from gdmnet.errors import DatasetError
from gdmnet.geometry import SPACINGS, Geometry, stored_geometry

PASSES = ("AcquisitionNumber", "EchoNumbers", "EchoTime", "KVP", "ImageType")
"""Attributes that tell the acquisitions within one series apart."""

_ANGLE = 1e-3  # of direction cosines: scanners round them to three digits and more
_UNEVEN = 0.1  # of the slice distance: positions rounded to 0.1 mm stay below it, a gap does not
_ASIDE = 0.2  # mm beside the line of a stack, below any pixel; a tilt of 1 degree: in 12 mm


@dataclass(frozen=True)
class Slice(SeriesHeader):
    """One image of a series, as its header describes it; without a problem it has a place."""

    path: Path
    uid: str  # SOPInstanceUID
    series: str  # SeriesInstanceUID
    passes: tuple[str, ...]  # values of `PASSES`, "" where the header has none
    problem: str | None  # why the image cannot be used
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)  # (x, y, z) of the first pixel, mm LPS
    axes: tuple[tuple[float, ...], ...] = ()  # (2, 3): where column's and row's number grow
    spacing: tuple[float, float] = (1.0, 1.0)  # mm between rows and between columns
    shape: tuple[int, int] = (0, 0)  # rows and columns
    thickness: float | None = None  # mm


def split_acquisitions(slices: Sequence[Slice]) -> dict[str, list[Slice]]:
    """The acquisitions of a series whose slices lie among each other, as passes and echoes do.

    Slices fall into acquisitions by the fewest of `PASSES` whose values alternate where each value
    alone is an even stack. Acquisitions one behind the other are one volume.

    Returns:
        What tells an acquisition from the others, "EchoTime=90", to its slices; "" to all of them
        where there is one only, or where a slice has no place.
    """
    if any(item.problem for item in slices):
        return {"": [*slices]}
    normal = np.cross(*np.array(slices[0].axes))
    ordered = sorted(slices, key=lambda item: float(np.dot(normal, item.position)))
    for size in range(1, len(PASSES) + 1):
        for numbers in combinations(range(len(PASSES)), size):
            values = [tuple(item.passes[i] for i in numbers) for item in ordered]
            groups: dict[tuple[str, ...], list[Slice]] = {value: [] for value in values}
            for value, item in zip(values, ordered, strict=True):
                groups[value].append(item)
            n_runs = 1 + sum(a != b for a, b in pairwise(values))
            if n_runs > len(groups) and all(_is_even(normal, group) for group in groups.values()):
                return {_difference(group, groups.values()): group for group in groups.values()}
    return {"": [*slices]}


def _difference(group: Sequence[Slice], groups: Collection[Sequence[Slice]]) -> str:
    """The attributes that are one within each of the groups and tell this one from another."""
    values = [[{item.passes[i] for item in each} for each in groups] for i in range(len(PASSES))]
    return " ".join(
        f"{name}={group[0].passes[number]}"
        for number, name in enumerate(PASSES)
        if all(len(own) == 1 for own in values[number]) and len(set.union(*values[number])) > 1
    )


def stack(slices: Sequence[Slice]) -> tuple[list[Slice], Geometry, tuple[float, float] | None]:
    """Sort the slices of a series along their normal and find their grid.

    The stored axes (z, y, x) are slice, row, column; the slice axis is the cross product of the
    row's and the column's direction, so that the order of the files does not matter.

    Returns:
        The slices, the grid that holds them all, and their `Series.slant`.

    Raises:
        DatasetError: not one evenly spaced, straight stack of one acquisition; the text begins
            with what is wrong and names no folder.
    """
    _require_alike(slices)
    first = slices[0]
    direction = _right_angles(*np.array(first.axes))
    across, normal = direction[:, :2], direction[:, 2]
    ordered = sorted(slices, key=lambda item: float(np.dot(normal, item.position)))
    places = np.array([item.position for item in ordered])  # (n, 3) mm
    heights = (places - places[0]) @ normal
    distance = _distance(ordered, heights)
    if not SPACINGS[0] <= distance <= SPACINGS[1]:
        raise DatasetError(f"its slices of {distance:g} mm cannot be; export the series anew")
    slope = _slope(ordered, places - places[0] - np.outer(heights, normal), heights)
    # Columns and rows are added on the side of the slant, so that the grid holds both ends.
    slant = slope @ across * distance  # (2,) mm a slice
    ends = slant / first.spacing[::-1] * (len(slices) - 1)  # columns, rows, as the reader has them
    origin = places[0] + across @ (np.floor(np.minimum(ends, 0)) * first.spacing[::-1])
    columns, rows = np.ceil(np.abs(ends)).astype(int).tolist()
    shape = len(slices), first.shape[0] + rows, first.shape[1] + columns
    geometry = stored_geometry(shape, (distance, *first.spacing), origin, direction)
    return ordered, geometry, (float(slant[0]), float(slant[1])) if slope.any() else None


def _require_alike(slices: Sequence[Slice]) -> None:
    """Sound images of one owner, size, pixel spacing and orientation, and none of them twice."""
    first = slices[0]
    seen: dict[str, Path] = {}
    for item in slices:
        if item.problem is not None:
            raise DatasetError(f"{item.path.name}: {item.problem}")
        if (item.patient, item.study, item.frame) != (first.patient, first.study, first.frame):
            raise DatasetError(
                "its images differ in patient, study or frame of reference; export the series anew"
            )
        if item.shape != first.shape or not np.allclose(item.spacing, first.spacing, rtol=1e-4):
            sizes = " and ".join(
                f"{one.shape[0]}x{one.shape[1]} of {one.spacing[0]:g}x{one.spacing[1]:g} mm"
                for one in (first, item)
            )
            raise DatasetError(
                f"its images differ in size or pixel spacing ({sizes}); export one volume a series"
            )
        if np.abs(np.subtract(item.axes, first.axes)).max() > _ANGLE:
            raise DatasetError(
                "its images lie in several orientations, as in a scout or a radial series;"
                " export one stack of parallel slices"
            )
        if item.uid in seen:
            raise DatasetError(
                f"the same image is there twice ({seen[item.uid].name} and {item.path.name});"
                " remove the copies"
            )
        seen[item.uid] = item.path
    along_row, along_column = np.array(first.axes)
    lengths = np.linalg.norm(first.axes, axis=1)
    if np.abs(lengths - 1).max() > _ANGLE or abs(along_row @ along_column) > _ANGLE:
        raise DatasetError(
            "ImageOrientationPatient does not hold two unit vectors at right angles; export anew"
        )


def _right_angles(along_row: NDArray, along_column: NDArray) -> NDArray:
    """Directions of column, row and slice number as columns, freed of the header's rounding."""
    along_row = along_row / np.linalg.norm(along_row)
    normal = np.cross(along_row, along_column)
    normal /= np.linalg.norm(normal)
    return np.stack([along_row, np.cross(normal, along_row), normal], axis=1)


def _is_even(normal: NDArray, ordered: Sequence[Slice]) -> bool:
    gaps = np.diff([float(np.dot(normal, item.position)) for item in ordered])
    return bool(gaps.size and np.abs(gaps - gaps.mean()).max() <= _UNEVEN * gaps.mean())


def _distance(ordered: Sequence[Slice], heights: NDArray) -> float:
    """The distance of the slices in mm, the same between any two neighbours."""
    if len(ordered) == 1:
        return ordered[0].thickness or 1.0
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    same = np.flatnonzero(gaps < max(_UNEVEN * usual, 1e-3))
    if same.size:
        a, b = ordered[same[0]].path.name, ordered[same[0] + 1].path.name
        raise DatasetError(
            f"duplicate slices: {same.size} times two images lie at one position ({a} and {b}"
            " first): several echoes, time points or copies; export one volume a series"
        )
    distance = float(heights[-1]) / (len(ordered) - 1)
    if np.abs(heights - distance * np.arange(len(ordered))).max() <= _UNEVEN * distance:
        return distance
    widest = int(np.argmax(gaps))
    a, b = ordered[widest].path.name, ordered[widest + 1].path.name
    raise DatasetError(
        f"slices are missing or unevenly spaced: mostly {usual:.3g} mm, but {gaps[widest]:.3g} mm"
        f" between {a} and {b}; export all slices"
    )


def _slope(ordered: Sequence[Slice], aside: NDArray, heights: NDArray) -> NDArray:
    """How far slices, (n, 3) mm beside the first one's normal, lean: (3,) mm a mm of height."""
    if np.linalg.norm(aside, axis=1).max() <= _ASIDE:
        return np.zeros(3)
    slope = aside[-1] / heights[-1]
    if np.linalg.norm(aside - np.outer(heights, slope), axis=1).max() <= _ASIDE:
        return np.asarray(slope)
    off = np.linalg.norm(aside - np.median(aside, axis=0), axis=1)
    worst = int(off.argmax())
    raise DatasetError(
        f"its slices are moved sideways: number {worst + 1} of {len(ordered)}"
        f" ({ordered[worst].path.name}) lies {off[worst]:.3g} mm beside the line of the others;"
        " export the series anew"
    )
