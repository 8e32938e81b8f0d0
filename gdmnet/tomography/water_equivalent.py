"""How deep a beam sees the patient: water-equivalent path lengths along gantry angles.

What a synthetic CT must get right for radiotherapy is not each voxel but the sum along a beam. The
path length in water that stops or weakens a beam as much as the tissue does is the line integral
of the density relative to water; the difference between prediction and reference is the error in
depth, in mm. It is no dose calculation: no scatter, no beam's spectrum, no divergence.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.errors import DatasetError
from gdmnet.geometry import Spacing
from gdmnet.tomography.projection import project
from gdmnet.tomography.scan import Detector, Grid, Scan, covering_scan

Centre = tuple[int, float, float]
"""A slice, and y and x in mm from the middle of the slice."""

SHORTEST_PATH = 10.0  # mm of water: rays that only graze the body are left out


@dataclass(frozen=True)
class DensityTable:
    """Density relative to water over HU, linear between its points and constant beyond them.

    The density, at least 0, is that of electrons for photons, the stopping power for protons.
    """

    hu: tuple[float, ...]  # increasing
    density: tuple[float, ...]

    def __post_init__(self) -> None:
        pairs = np.array([self.hu, self.density], dtype=float)
        is_sound = pairs.shape[1] >= 2 and np.isfinite(pairs).all()
        if not is_sound or (np.diff(pairs[0]) <= 0).any() or (pairs[1] < 0).any():
            raise DatasetError(
                "a density table needs two or more rows of increasing HU and a density of 0 or more"
            )

    def of(self, hu: NDArray) -> NDArray:
        """Density relative to water, float32, of an array in HU."""
        return np.interp(hu, self.hu, self.density).astype(np.float32)


# Mass densities: Schneider, Bortfeld and Schlegel, Phys. Med. Biol. 45 (2000) 459, section 4 (air
# to fat; 1.018 + .893 H / 1000 in soft tissue; 1.017 + .592 H / 1000 in bone). Times electrons a
# gram relative to water of air, adipose, soft tissue and cortical bone (ICRU report 44: Z/A .4992,
# .5558, .5500, .5148 over .5551).
ELECTRON_DENSITY = DensityTable(
    hu=(-1000.0, -98.0, 14.0, 100.0, 1600.0, 3000.0),
    density=(0.0011, 0.931, 1.021, 1.066, 1.822, 2.590),
)


def read_density_table(path: Path) -> DensityTable:
    """A table from a CSV file of two columns, HU and density; a first line of words is skipped.

    Raises:
        DatasetError: missing, or a line that is not two numbers, by its number.
    """
    try:
        if not path.is_file():  # a pipe would never end
            raise OSError("it is no plain file")
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows = [row for row in csv.reader(handle) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise DatasetError(f"{path}: not a readable CSV file: {problem}") from None
    points: list[tuple[float, float]] = []
    for number, row in enumerate(rows, start=1):
        try:
            hu, density = map(float, row)
        except ValueError:
            if number == 1:  # the columns' names
                continue
            raise DatasetError(
                f"{path}: row {number} must be two numbers, HU and density"
            ) from None
        points.append((hu, density))
    try:
        return DensityTable(tuple(hu for hu, _ in points), tuple(share for _, share in points))
    except DatasetError as problem:
        raise DatasetError(f"{path}: {problem}") from None


@dataclass(frozen=True)
class DepthErrors:
    """Errors in depth along one gantry angle, in mm of water; positive is too deep."""

    mean: float  # over all rays that cross the body, entry to exit
    p95: float  # 95th percentile of the absolute error over them
    to_centre: Mapping[int, float]  # from the entry to each region's centre, by its label


def depth_errors(
    prediction: NDArray,
    reference: NDArray,
    body: NDArray,
    spacing: Spacing,
    angles: Sequence[float],
    *,
    table: DensityTable = ELECTRON_DENSITY,
    regions: NDArray | None = None,
) -> Mapping[float, DepthErrors]:
    """Errors of the water-equivalent path length for parallel beams in axial planes.

    Gantry angles as IEC 61217 counts them for a patient on the back, head first: at 0 degrees the
    beam enters in front, at 90 on the patient's left.

    Args:
        prediction: HU, (z, y, x) in LPS.
        reference: HU, on the same grid.
        body: what a beam crosses, (z, y, x); all else counts as nothing.
        spacing: mm (z, y, x).
        angles: of the gantry in degrees.
        table: density over HU.
        regions: labels (z, y, x), 0 is none: to each one's centre of mass the depth is measured,
            too, in the slice nearest to it.

    Raises:
        DatasetError: no ray crosses 10 mm of water.
    """
    inside = body > 0
    density = [np.where(inside, table.of(image), 0.0) for image in (prediction, reference)]
    grid = Grid(prediction.shape[1:], spacing[1:])
    centres = {} if regions is None else _centres(regions, grid)
    return {angle: _errors_along(density[0], density[1], grid, angle, centres) for angle in angles}


def _errors_along(
    predicted: NDArray, true: NDArray, grid: Grid, angle: float, centres: Mapping[int, Centre]
) -> DepthErrors:
    scan = Scan(1, 180.0, covering_scan(grid, 1, arc=180.0).detector, start=angle)
    paths = project(true, grid, scan)  # [z,1,bins], mm of water
    crosses = paths >= SHORTEST_PATH
    if not crosses.any():
        raise DatasetError(f"no ray at {angle:g} degrees crosses {SHORTEST_PATH:g} mm of the body")
    errors = (project(predicted, grid, scan) - paths)[crosses]
    return DepthErrors(
        float(errors.mean()),
        float(np.percentile(np.abs(errors), 95)),
        {label: _error_to(predicted, true, grid, angle, at) for label, at in centres.items()},
    )


def _centres(labels: NDArray, grid: Grid) -> dict[int, Centre]:
    """Of every region the slice and the place (y, x) in mm of its centre of mass."""
    names = [int(label) for label in np.unique(labels) if label > 0]
    middle = (np.array(grid.shape) - 1) / 2
    found = {}
    for label, (z, *place) in zip(
        names, ndimage.center_of_mass(labels > 0, labels, names), strict=True
    ):
        y, x = ((np.array(place) - middle) * grid.spacing).tolist()
        found[label] = (round(z), y, x)
    return found


def _error_to(predicted: NDArray, true: NDArray, grid: Grid, angle: float, centre: Centre) -> float:
    """The error of the path from the entry to a point, mm of water."""
    number, y, x = centre
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    rows, columns = grid.coordinates()
    # Along the beam (-sin, cos) in (x, y); the voxel that holds the point counts by its part.
    beyond = (rows[:, None] - y) * cosine - (columns[None, :] - x) * sine  # mm, [y,x]
    step = abs(cosine) * grid.spacing[0] + abs(sine) * grid.spacing[1]  # of a pixel along the beam
    before = np.clip(0.5 - beyond / step, 0.0, 1.0)  # share of the pixel
    pitch = min(grid.spacing)
    offset = (x * cosine + y * sine) / pitch + 0.5  # the first of two bins' middle is at -1/2
    scan = Scan(1, 180.0, Detector(2, pitch, offset=offset), start=angle)
    difference = (predicted[number] - true[number]) * before
    return float(project(difference[None].astype(np.float32), grid, scan)[0, 0, 0])
