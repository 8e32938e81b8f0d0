"""The nouns on disk beside a sinogram: how it was acquired, and how it was simulated."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gdmnet import codec
from gdmnet.errors import DatasetError, PlanError
from gdmnet.files import whole_file
from gdmnet.geometry import Geometry
from gdmnet.tomography.scan import Grid, Scan
from gdmnet.tomography.settings import MU_WATER

FOLDER = "simulation"
"""Of a raw dataset: CASE.json and, if they were kept, the sinograms CASE.npz."""


@dataclass(frozen=True)
class Simulation:
    """Where a simulated sinogram comes from.

    Attributes:
        source: name of the CT's file.
        sha256: of that file.
        photons: that reach a bin through air; None is without noise.
        electronic_noise: standard deviation in photons.
        filter: of the reconstruction that is the network's source.
        seed: of the whole dataset; the case's own comes from it and the case's name.
        version: of gdmnet.
    """

    source: str
    sha256: str
    photons: float | None
    electronic_noise: float
    filter: str
    seed: int
    version: str


@dataclass(frozen=True)
class Acquisition:
    """How the sinogram of one volume was acquired, and the grid that it is reconstructed on.

    Attributes:
        scan: of every slice.
        grid: of the volume; slices lie across its LPS z axis, the isocentre in their middle.
        mu_water: attenuation of water in 1/mm, which is 0 HU.
        simulation: None for sinograms of a scanner.
        schema: of the file.
    """

    SCHEMA: ClassVar[int] = 1

    scan: Scan
    grid: Geometry
    mu_water: float = MU_WATER
    simulation: Simulation | None = None
    schema: int = 1

    @property
    def slice_grid(self) -> Grid:
        """The pixels of a slice."""
        return Grid(self.grid.shape[1:], self.grid.spacing[1:])


def load_acquisition(path: Path) -> Acquisition:
    """An acquisition from its JSON file.

    Raises:
        DatasetError: missing or broken; the key is named.
    """
    try:
        return codec.load(Acquisition, path)
    except (PlanError, DatasetError) as error:
        text = str(error)
        raise DatasetError(text if str(path) in text else f"{path}: {text}") from None


def load_sinogram(path: Path, acquisition: Acquisition) -> NDArray:
    """A sinogram, float32 (z, views, bins), from .npy or .npz (its only array).

    A single slice may come as (views, bins).

    Raises:
        DatasetError: missing, not an array, NaN, or not of the acquisition's shape.
    """
    array = _load_array(path)
    n_slices = acquisition.grid.shape[0]
    wanted = (n_slices, acquisition.scan.n_views, acquisition.scan.detector.n_bins)
    if n_slices == 1 and array.shape == wanted[1:]:
        array = array[None]
    if array.shape != wanted:
        raise DatasetError(
            f"{path}: has the shape {array.shape}, but its geometry says {wanted} (slices, views,"
            " bins); transpose it, or correct the geometry"
        )
    if not np.isfinite(array).all():
        raise DatasetError(f"{path}: has NaN or infinite values; replace them first")
    return array.astype(np.float32)


def _load_array(path: Path) -> NDArray:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = [loaded]
        else:
            with loaded:
                arrays = [loaded[name] for name in loaded.files]
    except FileNotFoundError:
        raise DatasetError(f"{path}: file not found") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as problem:
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
