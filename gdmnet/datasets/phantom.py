"""Ellipsoid patients and small paired datasets of them in gdmnet's raw layout, for demo and tests.

Anatomy lives in relative coordinates (z, y, x) in [-1, 1] over the field of view, so that any shape
and spacing gives the same kind of patient. Up (superior), back and left are positive, as in LPS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.raw import Description, files_to_write, write_description
from gdmnet.data.volume import write_volume
from gdmnet.geometry import Geometry, Shape, Spacing, nearest_lps, shape_of

KINDS = {"mr2ct": ("MR", "CT"), "t1tot2": ("T1", "T2")}
"""Source and target by name. T1 and T2 have exact zeros outside the body, as skull-stripped scans
have; MR has a scanner's noise there."""


@dataclass(frozen=True)
class Scanner:
    """How the patients are scanned and stored."""

    spacing: Spacing = (2.5, 1.2, 1.2)  # mm (z, y, x)
    itk_direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)  # row-major
    file_ending: str = ".nii.gz"
    masks: bool = False  # of the true body
    varied_shapes: bool = True  # up to a tenth fewer voxels along each axis


def write_phantom_dataset(
    raw_root: Path,
    *,
    dataset: str = "Dataset999_Phantom",
    n_train: int = 4,
    n_test: int = 2,
    shape: Shape = (24, 40, 40),
    seed: int = 0,
    kind: str = "mr2ct",
    scanner: Scanner | None = None,
) -> Path:
    """Write a dataset of phantoms to a folder in the raw root; equal arguments give equal voxels.

    The shape is in voxels (z, y, x), single slices too; the kind is a name in `KINDS`.

    Raises:
        OutputError: the folder cannot be written.
    """
    scanner = scanner or Scanner()
    folder = raw_root / dataset
    source, target = KINDS[kind]
    text = f"phantoms made by gdmnet.datasets.phantom, kind {kind}, seed {seed}"
    description = Description(
        (source,), target, scanner.file_ending, n_train, metadata={"description": text}
    )
    for i in range(n_train + n_test):
        part = "Tr" if i < n_train else "Ts"
        rng = np.random.default_rng((seed, i))
        z, y, x = (n - int(rng.integers(0, n // 10 + 1)) for n in shape)
        images = make_patient(rng, (z, y, x) if scanner.varied_shapes else shape, kind=kind)
        files = files_to_write(folder, part, f"phantom_{i + 1:02d}", description)
        _write_case(files, images, scanner)
    write_description(folder, description)
    return folder


def _write_case(
    files: CaseFiles, images: tuple[NDArray, NDArray, NDArray], scanner: Scanner
) -> None:
    axes, flips = nearest_lps(scanner.itk_direction)
    shape, origin = shape_of(images[1]), (-41.5, 12.25, -300.0)
    geometry = Geometry(shape, scanner.spacing, origin, scanner.itk_direction, axes, flips)
    for path, image in zip((files.sources[0], files.target, files.mask), images, strict=True):
        if path is not None and (path != files.mask or scanner.masks):
            array = np.reshape(image, (1, *shape)).astype(np.float32)
            write_volume(path, Volume(array, geometry), integer=True)


def make_patient(
    rng: np.random.Generator, shape: Shape, *, kind: str = "mr2ct"
) -> tuple[NDArray, NDArray, NDArray]:
    """One patient, scanned on one grid.

    Returns:
        sources float32 (1, z, y, x), target float32 (z, y, x), body uint8 (z, y, x); CT in HU, MR
        in a scanner's arbitrary units.
    """
    tissue = patient(rng, shape)
    body = coarsen(is_body(tissue), shape) >= 0.5
    source, target = KINDS[kind]
    ct = _ct(rng, tissue, shape)
    target_image = ct if target == "CT" else _mr(rng, tissue, shape, target) * body
    image = _mr(rng, tissue, shape, source) * (1 if source == "MR" else body)
    return image[None], target_image, body.astype(np.uint8)


def _ct(rng: np.random.Generator, tissue: NDArray, shape: Shape) -> NDArray:
    fine = coarsen(look_up(tissue, "CT"), shape)
    # one voxel wide grain: what a blurring translator loses first
    grain = coarsen(look_up(tissue, "texture"), shape) * smooth_noise(rng, shape, 0.5)
    return np.clip(fine + grain, -1024, 3071).astype(np.float32)


def _mr(rng: np.random.Generator, tissue: NDArray, shape: Shape, weighting: str) -> NDArray:
    signal = coarsen(look_up(tissue, "T1" if weighting == "MR" else weighting), shape)
    signal = ndimage.gaussian_filter(signal, 0.4, mode="nearest")
    bias = np.exp(0.2 * smooth_noise(rng, shape, max(shape) / 4))
    first, second = 0.025 * rng.standard_normal((2, *shape), dtype=np.float32)
    magnitude = np.hypot(signal * bias + first, second)  # Rician: the length of a noisy vector
    scanner_units = rng.uniform(500, 1200)  # every scanner has its own scale
    return np.clip(magnitude * scanner_units, 0, 32767).astype(np.float32)


Point = tuple[float, float, float]
PROPERTIES = ("CT", "texture", "T1", "T2")
"""Mean HU, standard deviation of the fine texture in HU, and the signal by MR weighting."""
TISSUES: dict[str, tuple[float, ...]] = {
    "air": (-1000, 4, 0.0, 0.0),
    "fat": (-105, 20, 1.0, 0.6),
    "muscle": (55, 24, 0.42, 0.25),
    "lung": (-820, 45, 0.10, 0.14),
    "liver": (70, 24, 0.62, 0.35),
    "spleen": (40, 24, 0.34, 0.62),
    "blood": (170, 24, 0.22, 0.12),
    "bone": (950, 70, 0.05, 0.05),
    "marrow": (280, 120, 0.78, 0.45),
    "water": (8, 16, 0.16, 1.0),
    "lesion": (15, 20, 0.28, 0.85),
}
"""Tissue -> its `PROPERTIES`."""
_NUMBER = {name: number for number, name in enumerate(TISSUES)}
_FINE = 2  # tissues are painted on a grid this much finer: thin bone then has partial volume


def patient(rng: np.random.Generator, shape: Shape) -> NDArray:
    """Tissue numbers uint8 (z, y, x) on a grid twice as fine as `shape` (single slices stay)."""
    fine = [n * _FINE if n > 1 else 1 for n in shape]
    axes = [((np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1) for n in fine]
    canvas = _Canvas(rng, _warped(rng, _pose(rng, np.meshgrid(*axes, indexing="ij"))))
    _trunk(canvas)
    _organs(canvas)
    _skeleton(canvas)
    return canvas.tissue


def coarsen(image: NDArray, shape: Shape) -> NDArray:
    """Means of the fine grid's voxels over each voxel of `shape`: the partial volume effect."""
    z, y, x = shape
    fine = [n // m for n, m in zip(image.shape, shape, strict=True)]
    return image.reshape(z, fine[0], y, fine[1], x, fine[2]).mean(axis=(1, 3, 5), dtype=np.float32)


def look_up(tissue: NDArray, name: str) -> NDArray:
    """One of the `PROPERTIES` laid over tissue numbers; float32."""
    column = PROPERTIES.index(name)
    return np.asarray([row[column] for row in TISSUES.values()], dtype=np.float32)[tissue]


def is_body(tissue: NDArray) -> NDArray:
    """Where the patient is (lungs included); bool."""
    return tissue != _NUMBER["air"]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> NDArray:
    """Gaussian noise smoothed over `sigma` voxels, with standard deviation 1; float32."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, sigma, mode="wrap")
    return noise / max(float(noise.std()), 1e-6)


def _pose(rng: np.random.Generator, at: Sequence[NDArray]) -> list[NDArray]:
    z, y, x = at
    size, angle = rng.uniform(0.9, 1.08, 3), np.deg2rad(rng.uniform(-7, 7))
    shift = rng.uniform(-0.06, 0.06, 3)
    y, x = y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)
    return [(a - s) / f for a, s, f in zip((z, y, x), shift, size, strict=True)]


def _warped(rng: np.random.Generator, at: list[NDArray]) -> list[NDArray]:
    # a few random waves: ellipsoids become organs, at no cost in any grid size
    warped = []
    for axis in at:
        waves = rng.uniform(1.5, 4.0, (3, 3)), rng.uniform(0, 2 * np.pi, 3)
        shift = sum(
            np.sin(k[0] * at[0] + k[1] * at[1] + k[2] * at[2] + p)
            for k, p in zip(*waves, strict=True)
        )
        warped.append(axis + np.float32(0.022) * shift)
    return warped


class _Canvas:
    """Tissue numbers and the relative coordinates they are painted in."""

    def __init__(self, rng: np.random.Generator, at: list[NDArray]) -> None:
        self.rng = rng
        self.at = at
        self.tissue = np.zeros(at[0].shape, dtype=np.uint8)

    def distance(self, centre: Point, radii: Point) -> NDArray:
        """Relative distance from a centre: below 1 inside the ellipsoid."""
        terms = (((a - c) / r) ** 2 for a, c, r in zip(self.at, centre, radii, strict=True))
        return np.sqrt(sum(terms))

    def ellipsoid(self, name: str, centre: Point, radii: Point, only_in: str | None = None) -> None:
        """Paint an ellipsoid whose radii vary by up to a tenth between patients."""
        varied = self.rng.uniform(0.9, 1.1, 3) * radii
        inside = self.distance(centre, (varied[0], varied[1], varied[2])) < 1
        self.paint(name, inside, only_in)

    def paint(self, name: str, inside: NDArray, only_in: str | None = None) -> None:
        """Paint where a mask is true, if wished only over one other tissue."""
        if only_in is not None:
            inside = inside & (self.tissue == _NUMBER[only_in])
        self.tissue[inside] = _NUMBER[name]


def _trunk(canvas: _Canvas) -> None:
    body = canvas.distance((0.0, 0.0, 0.0), (1.7, 0.66, 0.86))
    canvas.paint("fat", body < 1)
    canvas.paint("muscle", body < canvas.rng.uniform(0.84, 0.93))
    for side in (-1, 1):
        canvas.ellipsoid("lung", (0.45, -0.04, 0.37 * side), (0.85, 0.37, 0.25))
        for _ in range(5):  # vessels: slanted threads
            slope = canvas.rng.uniform(-0.5, 0.5, 2)
            y = canvas.at[1] - canvas.rng.uniform(-0.25, 0.2) - slope[0] * (canvas.at[0] - 0.3)
            x = canvas.at[2] - canvas.rng.uniform(0.25, 0.5) * side - slope[1] * canvas.at[0]
            canvas.paint("blood", np.hypot(y, x) < canvas.rng.uniform(0.02, 0.035), "lung")


def _organs(canvas: _Canvas) -> None:
    canvas.ellipsoid("liver", (-0.6, -0.04, -0.33), (0.42, 0.42, 0.38))
    canvas.ellipsoid("spleen", (-0.5, 0.12, 0.48), (0.3, 0.24, 0.18))
    canvas.ellipsoid("water", (-0.62, -0.22, 0.22), (0.24, 0.2, 0.2))  # stomach
    canvas.ellipsoid("muscle", (0.1, -0.16, 0.08), (0.42, 0.28, 0.26))  # heart
    canvas.ellipsoid("blood", (0.12, -0.16, 0.1), (0.3, 0.18, 0.16))
    for side in (-1, 1):
        canvas.ellipsoid("spleen", (-0.85, 0.3, 0.3 * side), (0.26, 0.11, 0.11))  # kidneys
    canvas.ellipsoid("blood", (0.0, 0.14, 0.1), (9.0, 0.075, 0.075))  # aorta
    for home in ("liver", "liver", "lung", "lung", "muscle"):
        centre = canvas.rng.uniform((-0.9, -0.3, -0.5), (0.6, 0.25, 0.5))
        radius = float(canvas.rng.uniform(0.06, 0.13))
        radii = (1.6 * radius, radius, radius)
        canvas.ellipsoid("lesion", (centre[0], centre[1], centre[2]), radii, home)


def _skeleton(canvas: _Canvas) -> None:
    phase = canvas.rng.uniform(0, 1, 2)
    body = canvas.distance((0.0, 0.0, 0.0), (1.7, 0.66, 0.86))
    slanted = (canvas.at[0] - 0.45 * canvas.at[1]) * 2.2 + phase[0]
    canvas.paint("bone", (np.abs(body - 0.79) < 0.045) & (slanted % 1 < 0.38))  # ribs
    canvas.paint("marrow", (np.abs(body - 0.79) < 0.02) & (np.abs(slanted % 1 - 0.19) < 0.11))
    vertebra = canvas.distance((0.0, 0.34, 0.0), (9.0, 0.15, 0.19))
    between = (canvas.at[0] * 2.5 + phase[1]) % 1
    canvas.paint("bone", vertebra < 1)
    canvas.paint("marrow", (vertebra < 0.74) & (between > 0.08) & (between < 0.92))
    canvas.paint("spleen", (vertebra < 0.95) & (between > 0.9))  # discs
    arch = canvas.distance((0.0, 0.5, 0.0), (9.0, 0.11, 0.13))
    canvas.paint("bone", arch < 1)
    canvas.paint("water", arch < 0.55)  # spinal canal
