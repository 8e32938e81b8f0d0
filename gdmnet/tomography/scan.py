"""Who measures what: the source's path, the detector, and the grid of a slice.

A slice lies in the plane (x, y) in mm, x along the columns and y along the rows of the array,
the isocentre in its middle. View number i stands at the angle theta = start + i arc / n_views, the
end excluded. A ray is the line x cos theta + y sin theta = t; in a fan, the ray at the angle gamma
from the central one is the parallel ray theta - gamma, t = D sin gamma with the source at distance
D (Kak & Slaney, Principles of Computerized Tomographic Imaging, 1988, section 3.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdmnet.errors import DatasetError
from gdmnet.tomography.settings import CURVED, FLAT

_WIDEST_FAN = 0.98  # of the source's distance: the field must end before the source


@dataclass(frozen=True)
class Detector:
    """A row of bins, the same for every slice.

    Attributes:
        n_bins: along the row.
        pitch: mm from bin to bin; of a curved detector along its arc.
        shape: "flat" or "curved" (an arc about the source); parallel beams know only "flat".
        offset: of the row's middle from the central ray, in bins (0.25: quarter-bin offset).
    """

    n_bins: int
    pitch: float
    shape: str = FLAT
    offset: float = 0.0


@dataclass(frozen=True)
class Scan:
    """A circular scan of axial slices: parallel, or a fan if the source has a distance.

    Attributes:
        n_views: equidistant, the end of the arc excluded.
        arc: degrees, at most 360.
        detector: the row of bins.
        source_distance: mm from source to isocentre; None is a parallel beam.
        detector_distance: mm from source to detector, where the pitch is measured; None is at the
            isocentre.
        start: degrees of the first view.

    Raises:
        DatasetError: numbers that no scan can have, by name.
    """

    n_views: int
    arc: float
    detector: Detector
    source_distance: float | None = None
    detector_distance: float | None = None
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.n_views < 1 or self.detector.n_bins < 2:
            raise DatasetError("a scan needs at least one view and two detector bins")
        if not 0 < self.arc <= 360:
            raise DatasetError(f"the arc is {self.arc:g} degrees, but must lie in (0, 360]")
        lengths = (self.detector.pitch, self.source_distance, self.detector_distance)
        if any(length is not None and not 0 < length < math.inf for length in lengths):
            raise DatasetError("pitch and distances of a scan must be positive (mm)")
        if self.detector.shape not in (FLAT, CURVED):
            raise DatasetError(f"detector shape {self.detector.shape!r}: choose flat or curved")
        if self.source_distance is None and (
            self.detector.shape == CURVED or self.detector_distance is not None
        ):
            raise DatasetError(
                "a parallel beam has a flat detector and no detector_distance; for a fan beam give"
                " the source_distance"
            )
        if self.detector.shape == CURVED and np.abs(self.fan_angles()).max() >= np.pi / 2:
            raise DatasetError("the curved detector reaches behind the source: too many bins")

    @property
    def is_fan(self) -> bool:
        """True with a source at a finite distance."""
        return self.source_distance is not None

    def angles(self) -> NDArray:
        """Angles of the views in radians."""
        return np.deg2rad(self.start + self.arc / self.n_views * np.arange(self.n_views))

    def pitch(self) -> float:
        """Distance from bin to bin at the isocentre in mm."""
        if self.source_distance is None or self.detector_distance is None:
            return self.detector.pitch
        return self.detector.pitch * self.source_distance / self.detector_distance

    def positions(self) -> NDArray:
        """Position of each bin at the isocentre in mm, along the row or arc, 0 at the middle."""
        middle = (self.detector.n_bins - 1) / 2
        return (np.arange(self.detector.n_bins) - middle + self.detector.offset) * self.pitch()

    def fan_angles(self) -> NDArray:
        """Angle of each bin's ray from the central ray in radians; 0 in parallel beams."""
        if self.source_distance is None:
            return np.zeros(self.detector.n_bins)
        relative = self.positions() / self.source_distance
        return relative if self.detector.shape == CURVED else np.arctan(relative)

    def fan_step(self) -> float | None:
        """Radians from bin to bin where they are all equal, on a curved detector; else None."""
        if self.source_distance is None or self.detector.shape != CURVED:
            return None
        return self.pitch() / self.source_distance

    def distances(self) -> NDArray:
        """Signed distance t of each bin's ray from the isocentre in mm."""
        if self.source_distance is None:
            return self.positions()
        return self.source_distance * np.sin(self.fan_angles())

    def radius(self) -> float:
        """Radius of the circle that every view sees whole, the field of view, in mm."""
        ends = self.distances()[[0, -1]] + np.array([-0.5, 0.5]) * self.pitch()
        return float(max(0.0, min(-ends[0], ends[1])))


@dataclass(frozen=True)
class Grid:
    """The pixels of a slice: shape (rows, columns) and spacing (y, x) in mm."""

    shape: tuple[int, int]
    spacing: tuple[float, float]

    def coordinates(self) -> tuple[NDArray, NDArray]:
        """Centres of the rows (y) and of the columns (x) in mm, 0 at the isocentre."""
        y, x = (
            (np.arange(n) - (n - 1) / 2) * side
            for n, side in zip(self.shape, self.spacing, strict=True)
        )
        return y, x

    def radius(self) -> float:
        """Distance from the isocentre to a corner of the slice in mm."""
        return math.hypot(*(n * s / 2 for n, s in zip(self.shape, self.spacing, strict=True)))


def covering_scan(
    grid: Grid,
    n_views: int,
    *,
    arc: float,
    source_distance: float | None = None,
    shape: str = FLAT,
    pitch: float | None = None,
) -> Scan:
    """A scan whose detector sees the whole slice, corners too: nothing is truncated.

    Args:
        grid: of the slice.
        n_views: on the arc.
        arc: degrees.
        source_distance: mm; None is a parallel beam.
        shape: "flat" or "curved".
        pitch: mm from bin to bin at the isocentre; None is the smaller side of a pixel.

    Raises:
        DatasetError: the slice reaches the source.
    """
    pitch, radius = pitch or min(grid.spacing), grid.radius()
    half = radius
    if source_distance is not None:
        if radius > _WIDEST_FAN * source_distance:
            raise DatasetError(
                f"the corners of the slice are {radius:.0f} mm from its middle, but the source only"
                f" {source_distance:g} mm; move it away by --source-distance"
            )
        gamma = math.asin(radius / source_distance)
        half = source_distance * (gamma if shape == CURVED else math.tan(gamma))
    n_bins = 2 * math.ceil(half / pitch) + 1
    return Scan(n_views, arc, Detector(n_bins, pitch, shape), source_distance)
