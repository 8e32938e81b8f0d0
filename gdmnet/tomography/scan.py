"""Who measures what: the source's path, the detector, the grid of a slice; their record on disk.

A slice lies in the plane (x, y) in mm, x along the columns and y along the rows of the array,
the isocentre in its middle. View number i stands at the angle theta = start + i arc / n_views, the
end excluded. A ray is the line x cos theta + y sin theta = t; in a fan, the ray at the angle gamma
from the central one is the parallel ray theta - gamma, t = D sin gamma with the source at distance
D (Kak & Slaney, Principles of Computerized Tomographic Imaging, 1988, section 3.4).
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gdmnet import codec
from gdmnet.errors import DatasetError, PlanError, SettingError
from gdmnet.files import whole_file
from gdmnet.geometry import Geometry
from gdmnet.settings import Settings, setting
from gdmnet.tomography.settings import CURVED, FLAT, MOST_VIEWS, MU_WATER

FOLDER = "simulation"
"""Of a raw dataset: CASE.json and, if they were kept, the sinograms CASE.npz."""

_MOST_PIXELS = 4096  # along an axis of the grid
_MOST_INTEGRAL = 1e6  # -log of a transmission; a metre of iron has 800
_SPACINGS = (0.02, 60.0)  # mm
_FARTHEST = 1e6  # mm
_MOST_CODE = 5  # of a NIfTI form
_WIDEST_FAN = 0.98  # of the source's distance: the field must end before the source


@dataclass(frozen=True)
class Detector(Settings):
    """A row of bins, the same for every slice.

    Attributes:
        n_bins: along the row.
        pitch: mm from bin to bin; of a curved detector along its arc.
        shape: "flat" or "curved" (an arc about the source); parallel beams know only "flat".
        offset: of the row's middle from the central ray, in bins (0.25: quarter-bin offset).
    """

    n_bins: int = setting(MISSING, "along the row", least=2, most=10_000)
    pitch: float = setting(MISSING, "mm from bin to bin", least=1e-3, most=1e3)
    shape: str = setting(FLAT, "of the row", choices=(FLAT, CURVED))
    offset: float = setting(0.0, "of the row's middle in bins", least=-1e4, most=1e4)


@dataclass(frozen=True)
class Scan(Settings):
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
        SettingError: numbers that no scan can have, by name.
        DatasetError: numbers that do not fit each other.
    """

    n_views: int = setting(MISSING, "on the arc", least=1, most=MOST_VIEWS)
    arc: float = setting(MISSING, "in degrees", above=0, most=360)
    detector: Detector = MISSING  # type: ignore[assignment]
    source_distance: float | None = setting(None, "mm to the isocentre", least=1, most=1e5)
    detector_distance: float | None = setting(None, "mm from the source", least=1, most=1e5)
    start: float = setting(0.0, "degrees of the first view", least=-1e4, most=1e4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source_distance is None and (
            self.detector.shape == CURVED or self.detector_distance is not None
        ):
            raise DatasetError(
                "a parallel beam has a flat detector and no detector_distance; for a fan beam give"
                " the source_distance"
            )
        if self.detector.shape == CURVED and np.abs(self.fan_angles()).max() >= np.pi / 2:
            raise DatasetError("the curved detector reaches behind the source: too many bins")

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
        pairs = zip(self.shape, self.spacing, strict=True)
        y, x = ((np.arange(n) - (n - 1) / 2) * side for n, side in pairs)
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


@dataclass(frozen=True)
class Simulation:
    """Where a simulated sinogram comes from.

    Attributes:
        source: name of the CT's file.
        sha256: of its voxels in HU.
        photons: that reach a bin through air; None is without noise.
        electronic_noise: standard deviation in photons.
        filter: of the reconstruction that is the network's source.
        seed: of the whole dataset; the case's own comes from it and the case's name.
    """

    source: str
    sha256: str
    photons: float | None
    electronic_noise: float
    filter: str
    seed: int
    version: str


@dataclass(frozen=True)
class Acquisition(Settings):
    """How the sinogram of one volume was acquired, and the grid that it is reconstructed on.

    Attributes:
        scan: of every slice.
        grid: of the volume; slices lie across its LPS z axis, the isocentre in their middle.
        mu_water: attenuation of water in 1/mm, which is 0 HU.
        simulation: None for sinograms of a scanner.
    """

    SCHEMA: ClassVar[int] = 1

    scan: Scan
    grid: Geometry
    mu_water: float = setting(MU_WATER, "in 1/mm", least=1e-3, most=1)
    simulation: Simulation | None = None
    schema: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_grid(self.grid)

    @property
    def slice_grid(self) -> Grid:
        """The pixels of a slice."""
        return Grid(self.grid.shape[1:], self.grid.spacing[1:])

    @property
    def sinogram_shape(self) -> tuple[int, int, int]:
        """Slices, views, bins."""
        return self.grid.shape[0], self.scan.n_views, self.scan.detector.n_bins


def _require_grid(grid: Geometry) -> None:
    """Refuse a grid that no image has: it would exhaust the memory, or crash what computes on it.

    Raises:
        DatasetError: the first thing that cannot be.
    """
    if not all(1 <= n <= _MOST_PIXELS for n in grid.shape):
        raise DatasetError(f"grid: a shape of {grid.shape} voxels cannot be")
    if not all(_SPACINGS[0] <= side <= _SPACINGS[1] for side in grid.spacing):
        raise DatasetError(f"grid: a spacing of {grid.spacing} mm cannot be")
    numbers = [*grid.itk_origin, *grid.itk_direction]
    sizes = [len(grid.itk_direction) == 9, sorted(grid.axes) == [0, 1, 2]]
    if grid.forms is not None:
        numbers += [*grid.forms.pixdim, *grid.forms.qform, *grid.forms.sform]
        sizes += [len(grid.forms.qform) == 6, len(grid.forms.sform) == 12]
        sizes += [0 <= code <= _MOST_CODE for code in grid.forms.codes]
    is_sound = all(sizes) and all(abs(number) < _FARTHEST for number in numbers)
    cosines = np.reshape(grid.itk_direction, (3, 3)) if is_sound else np.zeros((3, 3))
    if not np.allclose(cosines @ cosines.T, np.eye(3), atol=1e-3):
        raise DatasetError("grid: origin, direction, axes or forms are not those of an image")


def load_acquisition(path: Path) -> Acquisition:
    """An acquisition from its JSON file.

    Raises:
        DatasetError: missing or broken; the key is named.
    """
    try:
        return codec.load(Acquisition, path)
    except (PlanError, DatasetError, SettingError) as error:
        text = str(error)
        raise DatasetError(text if str(path) in text else f"{path}: {text}") from None


def load_sinogram(path: Path, acquisition: Acquisition) -> NDArray:
    """A sinogram, float32 (z, views, bins), from .npy or .npz (its only array).

    A single slice may come as (views, bins).

    Raises:
        DatasetError: missing, not an array, NaN, or not of the acquisition's shape.
    """
    array, wanted = _load_array(path), acquisition.sinogram_shape
    if wanted[0] == 1 and array.shape == wanted[1:]:
        array = array[None]
    if array.shape != wanted:
        raise DatasetError(
            f"{path}: has the shape {array.shape}, but its geometry says {wanted} (slices, views,"
            " bins); transpose it, or correct the geometry"
        )
    if not -_MOST_INTEGRAL < float(array.min()) <= float(array.max()) < _MOST_INTEGRAL:
        raise DatasetError(f"{path}: has NaN, or values that no line integral has; replace them")
    return array.astype(np.float32)


def _load_array(path: Path) -> NDArray:
    if not path.is_file():  # a pipe would never end
        raise DatasetError(f"{path}: file not found")
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = [loaded] if isinstance(loaded, np.ndarray) else list(loaded.values())
    except Exception as problem:  # noqa: BLE001 - numpy trips over whatever comes in unsound files
        raise DatasetError(f"{path}: not a .npy or .npz file of numbers: {problem}") from None
    if len(arrays) != 1 or arrays[0].dtype.kind not in "fiu":
        raise DatasetError(f"{path}: must hold exactly one array of numbers, the line integrals")
    return arrays[0]


def save_sinogram(path: Path, sinogram: NDArray, *, noisy: bool = False) -> None:
    """Write a sinogram as .npz with the one array "sinogram", whole or not at all.

    Args:
        path: of the file.
        sinogram: (z, views, bins).
        noisy: as float16, whose rounding (0.002 at a line integral of 4) is far below the noise;
            else as float32.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    numbers = sinogram.astype(np.float16 if noisy else np.float32)
    with whole_file(path) as aside, aside.open("wb") as handle:
        np.savez_compressed(handle, sinogram=numbers)
