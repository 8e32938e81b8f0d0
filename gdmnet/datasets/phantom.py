"""Small paired datasets of phantom patients in gdmnet's raw layout, for the demo and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.raw import Description, files_to_write, write_description
from gdmnet.data.volume import write_volume
from gdmnet.datasets.anatomy import coarsen, is_body, look_up, patient, smooth_noise
from gdmnet.geometry import Geometry, Shape, Spacing, nearest_lps, shape_of

KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "mr2ct": (("MR",), "CT"),
    "t1tot2": (("T1",), "T2"),
    "t1flair2t2": (("T1", "FLAIR"), "T2"),
    "ct2ct": (("CT",), "CT"),
}
"""Source channels and target by name. T1, FLAIR and T2 have exact zeros outside the body, as
skull-stripped scans have; MR has a scanner's noise there; a CT source is blurred and noisy."""


@dataclass(frozen=True)
class Scanner:
    """How the patients are scanned and stored.

    Attributes:
        spacing: mm (z, y, x).
        itk_direction: nine direction cosines, row-major, of the stored files.
        file_ending: one of `data.volume.FORMATS`.
        masks: also write the true body masks.
        varied_shapes: give every patient up to a tenth fewer voxels along each axis.
    """

    spacing: Spacing = (2.5, 1.2, 1.2)
    itk_direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    file_ending: str = ".nii.gz"
    masks: bool = False
    varied_shapes: bool = True


def oblique_direction(degrees: float = 12.0) -> tuple[float, ...]:
    """Direction cosines turned by `degrees` about x and then by half of that about z."""
    a, b = np.deg2rad([degrees, degrees / 2])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return tuple(float(cosine) for cosine in (about_z @ about_x).ravel())


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
    """Write a dataset of phantoms; the same arguments give the same voxels.

    Args:
        raw_root: the raw root, in which the dataset's folder is made.
        dataset: name of the form Dataset999_Name.
        n_train: patients in imagesTr and targetsTr.
        n_test: patients in imagesTs and targetsTs.
        shape: voxels (z, y, x); single slices too.
        seed: of all patients.
        kind: a name in `KINDS`.
        scanner: spacing and storage; None for the defaults.

    Returns:
        The dataset's folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    scanner = scanner or Scanner()
    folder = raw_root / dataset
    sources, target = KINDS[kind]
    text = f"phantoms made by gdmnet.datasets.phantom, kind {kind}, seed {seed}"
    description = Description(
        sources, target, scanner.file_ending, n_train, metadata={"description": text}
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
    sources, target, body = images
    axes, flips = nearest_lps(scanner.itk_direction)
    geometry = Geometry(
        shape_of(target),
        scanner.spacing,
        (-41.5, 12.25, -300.0),
        scanner.itk_direction,
        axes,
        flips,
    )
    for path, image in zip(
        (*files.sources, files.target, files.mask), (*sources, target, body), strict=True
    ):
        if path is not None and (path != files.mask or scanner.masks):
            write_volume(path, Volume(image[None].astype(np.float32), geometry), integer=True)


def make_patient(
    rng: np.random.Generator, shape: Shape, *, kind: str = "mr2ct"
) -> tuple[NDArray, NDArray, NDArray]:
    """One patient, scanned on one grid.

    Returns:
        sources float32 (c, z, y, x), target float32 (z, y, x), body uint8 (z, y, x); CT in HU, MR
        in a scanner's arbitrary units.
    """
    tissue = patient(rng, shape)
    body = coarsen(is_body(tissue), shape) >= 0.5
    sources, target = KINDS[kind]
    ct = _ct(rng, tissue, shape)
    target_image = ct if target == "CT" else _mr(rng, tissue, shape, target) * body
    images = [
        _poor_ct(rng, ct)
        if name == "CT"
        else _mr(rng, tissue, shape, name) * (1 if name == "MR" else body)
        for name in sources
    ]
    return np.stack(images), target_image, body.astype(np.uint8)


def _ct(rng: np.random.Generator, tissue: NDArray, shape: Shape) -> NDArray:
    fine = coarsen(look_up(tissue, "CT"), shape)
    # one voxel wide grain: what a blurring translator loses first
    grain = coarsen(look_up(tissue, "texture"), shape) * smooth_noise(rng, shape, 0.5)
    return np.clip(fine + grain, -1024, 3071).astype(np.float32)


def _poor_ct(rng: np.random.Generator, ct: NDArray) -> NDArray:
    blurred = ndimage.gaussian_filter(ct, 0.8, mode="nearest")
    noise = 70 * smooth_noise(rng, ct.shape, 0.6)
    return np.clip(blurred + noise, -1024, 3071).astype(np.float32)


def _mr(rng: np.random.Generator, tissue: NDArray, shape: Shape, weighting: str) -> NDArray:
    signal = coarsen(look_up(tissue, "T1" if weighting == "MR" else weighting), shape)
    signal = ndimage.gaussian_filter(signal, 0.4, mode="nearest")
    bias = np.exp(0.2 * smooth_noise(rng, shape, max(shape) / 4))
    first, second = 0.025 * rng.standard_normal((2, *shape), dtype=np.float32)
    magnitude = np.hypot(signal * bias + first, second)  # Rician: the length of a noisy vector
    scanner_units = rng.uniform(500, 1200)  # every scanner has its own scale
    return np.clip(magnitude * scanner_units, 0, 32767).astype(np.float32)
