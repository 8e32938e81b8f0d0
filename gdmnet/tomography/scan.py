"""Who measures what: the source's path, the detector, the grid of a slice; their record on disk.

A slice lies in the plane (x, y) in mm, x along the columns and y along the rows of the array,
the isocentre in its middle. View number i stands at the angle theta = start + i arc / n_views, the
end excluded. A ray is the line x cos theta + y sin theta = t; in a fan, the ray at the angle gamma
from the central one is the parallel ray theta - gamma, t = D sin gamma with the source at distance
D (Kak & Slaney, Principles of Computerized Tomographic Imaging, 1988, section 3.4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gdmnet import codec
from gdmnet.errors import DatasetError, PlanError, SettingError
from gdmnet.files import whole_file
from gdmnet.geometry import SPACINGS, Geometry
from gdmnet.settings import Settings, setting

FLAT, CURVED = "flat", "curved"
FILTERS = ("ram-lak", "shepp-logan", "cosine", "hamming", "hann")
"""From the sharpest to the smoothest."""
MU_WATER = 0.0192
"""Attenuation of water in 1/mm at about 70 keV, the mean energy of a 120 kVp beam."""
MOST_VIEWS = 10_000
_MOST_PHOTONS = 1e12

FOLDER = "simulation"
"""Of a raw dataset: CASE.json and, if they were kept, the sinograms CASE.npz."""

_MOST_PIXELS = 4096  # along an axis of the grid
_MOST_INTEGRAL = 1e6  # -log of a transmission; a metre of iron has 800
_FARTHEST = 1e6  # mm
_WIDEST_FAN = 0.98  # of the source's distance: the field must end before the source


@dataclass(frozen=True)
class Detector(Settings):
    """A row of bins, the same for every slice; a curved one is an arc about the source."""

    n_bins: int = setting(MISSING, "along the row", least=2, most=10_000)
    pitch: float = setting(MISSING, "mm from bin to bin, along the arc", least=1e-3, most=1e3)
    shape: str = setting(FLAT, "of the row", choices=(FLAT, CURVED))
    offset: float = setting(
        0.0, "of the row's middle from the central ray, in bins", least=-1e4, most=1e4
    )


@dataclass(frozen=True)
class Scan(Settings):
    """A circular scan of axial slices: parallel, or a fan if the source has a distance.

    The pitch is measured at `detector_distance`; None is at the isocentre.

    Raises:
        SettingError: numbers that no scan can have, or that do not fit each other.
    """

    n_views: int = setting(MISSING, "equidistant, arc's end excluded", least=1, most=MOST_VIEWS)
    arc: float = setting(MISSING, "in degrees", above=0, most=360)
    detector: Detector = MISSING  # type: ignore[assignment]
    source_distance: float | None = setting(None, "mm to the isocentre", least=1, most=1e5)
    detector_distance: float | None = setting(None, "mm from the source", least=1, most=1e5)
    start: float = setting(0.0, "degrees of the first view", least=-1e4, most=1e4)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_curved = self.detector.shape == CURVED
        if self.source_distance is None and (is_curved or self.detector_distance is not None):
            raise SettingError(
                "a parallel beam has a flat detector and no detector_distance; for a fan beam give"
                " the source_distance"
            )
        if is_curved and np.abs(self.fan_angles()).max() >= np.pi / 2:
            raise SettingError("the curved detector reaches behind the source: too many bins")

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

    The settings are those of `Scan` and `Detector`; a pitch of None is a pixel's smaller side.

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
    """Where a simulated sinogram comes from; the noise as in `ScanSettings`."""

    source: str  # name of the CT's file
    sha256: str  # of its voxels in HU
    photons: float | None
    electronic_noise: float
    filter: str  # of the reconstruction that is the network's source
    seed: int  # of the whole dataset; the case's own comes from it and the case's name
    version: str


@dataclass(frozen=True)
class Acquisition(Settings):
    """How the sinogram of one volume was acquired, and the grid that it is reconstructed on.

    Slices lie across the grid's LPS z axis, the isocentre in their middle. Sinograms of a scanner
    have no `simulation`.

    Raises:
        SettingError: a grid that would exhaust the memory, or crash what computes on it.
    """

    SCHEMA: ClassVar[int] = 1

    scan: Scan
    grid: Geometry
    mu_water: float = setting(MU_WATER, "in 1/mm", least=1e-3, most=1)
    simulation: Simulation | None = None
    schema: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        shape, spacing = self.grid.shape, self.grid.spacing
        if max(shape) > _MOST_PIXELS:
            raise SettingError(f"grid: a shape of {shape} voxels cannot be")
        if not all(SPACINGS[0] <= side <= SPACINGS[1] for side in spacing):
            raise SettingError(f"grid: a spacing of {spacing} mm cannot be")
        is_near = max(map(abs, (*self.grid.itk_origin, *self.grid.itk_direction))) < _FARTHEST
        cosines = np.reshape(self.grid.itk_direction, (3, 3))
        if not is_near or not np.allclose(cosines @ cosines.T, np.eye(3), atol=1e-3):
            raise SettingError("grid: origin or direction are not those of an image")

    @property
    def slice_grid(self) -> Grid:
        """The pixels of a slice."""
        return Grid(self.grid.shape[1:], self.grid.spacing[1:])

    @property
    def sinogram_shape(self) -> tuple[int, int, int]:
        """Slices, views, bins."""
        return self.grid.shape[0], self.scan.n_views, self.scan.detector.n_bins


def load_acquisition(path: Path) -> Acquisition:
    """An acquisition from its JSON file.

    Raises:
        DatasetError: missing or broken; the key is named.
    """
    try:
        return codec.load(Acquisition, path)
    except PlanError as error:
        raise DatasetError(str(error)) from None


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
    """Write a sinogram (z, views, bins) as .npz with the one array "sinogram", whole or not at all.

    A noisy one as float16, whose rounding (0.002 at a line integral of 4) is far below the noise;
    else as float32.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    numbers = sinogram.astype(np.float16 if noisy else np.float32)
    with whole_file(path) as aside, aside.open("wb") as handle:
        np.savez_compressed(handle, sinogram=numbers)


@dataclass(frozen=True)
class ScanSettings(Settings):
    """How scans are simulated; `usual_settings` knows which arc and filter go with a beam."""

    views: int = 60
    geometry: str = setting("parallel", "of the beam", choices=("parallel", "fan"))
    arc: float = setting(
        180.0, "the end excluded; of a fan 360", above=0, most=360, metavar="DEGREES"
    )
    detector: str = setting(FLAT, "of a fan", choices=(FLAT, CURVED))
    source_distance: float = setting(
        595.0, "of a fan, source to isocentre", least=1, most=1e5, metavar="MM"
    )
    pitch: float | None = setting(  # no scanner's detector gets coarser with the image
        None,
        "from bin to bin at the isocentre (default: a pixel's smaller side, at most 1)",
        least=0.01,
        most=100,
        metavar="MM",
    )
    photons: float | None = 1e5  # that reach a bin through air; None is without noise
    electronic_noise: float = setting(
        0.0, "standard deviation in photons", least=0, most=1e9, metavar="N"
    )
    filter: str = setting("hann", "of the reconstruction; without noise ram-lak", choices=FILTERS)
    mu_water: float = setting(
        MU_WATER, "attenuation of water in 1/mm", least=1e-3, most=1, metavar="MU"
    )
    seed: int = setting(0, "of noise and test cases", least=0)

    def __post_init__(self) -> None:
        if self.photons is not None and not 0 < self.photons <= _MOST_PHOTONS:
            raise SettingError(f"photons must be above 0 and at most 1e12, not {self.photons:g}")
        super().__post_init__()


def usual_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a scan with the arc and the filter that go with them, where these are not given.

    Parallel rays see each line on a half turn, a fan needs a full one; `hann` smoothes noise.
    """
    arc = 360.0 if given.get("geometry") == "fan" else 180.0
    window = "ram-lak" if given.get("photons", 0) is None else "hann"
    return {"arc": arc, "filter": window, **given}
