"""Read and write volumes: NIfTI, NRRD and MetaImage files to float32 in LPS and back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from gdmnet.data.case import Volume
from gdmnet.data.case_files import FORMATS, ending_of
from gdmnet.data.payload import check_header, check_voxels, damaged, read_nifti_voxels
from gdmnet.errors import DatasetError
from gdmnet.files import whole_file
from gdmnet.geometry import Geometry, grid_difference, nearest_lps, to_lps, to_stored

_READERS = dict(
    zip(FORMATS, ("NiftiImageIO", "NiftiImageIO", "NrrdImageIO", "MetaImageIO"), strict=True)
)


def read_volume(path: Path) -> Volume:
    """One image as float32 (1, z, y, x) in LPS, file units.

    A 2D image becomes one slice; a 4D image is taken if it holds one volume.

    Raises:
        DatasetError: missing, unreadable, truncated, several volumes, vectors, NaN or Inf.
    """
    array, geometry = _read(path)
    return Volume(array[None], geometry)


def read_channels(paths: Sequence[Path]) -> Volume:
    """One image a channel, as float32 (c, z, y, x) in LPS.

    Raises:
        DatasetError: as `read_volume`, or the grids of the files differ.
    """
    first, geometry = _read(paths[0])
    array = np.empty((len(paths), *geometry.shape), dtype=np.float32)
    array[0] = first
    del first
    for channel, path in zip(array[1:], paths[1:], strict=True):
        difference = grid_difference(geometry, read_geometry(path))
        if difference:
            raise DatasetError(
                f"{path}: not on the grid of {paths[0]}: {difference}; resample one onto the other"
            )
        channel[...], _ = _read(path)
    return Volume(array, geometry)


def read_geometry(path: Path) -> Geometry:
    """The grid of an image, from its header only.

    Raises:
        DatasetError: missing, unreadable, several volumes, vectors.
    """
    return _open(path)[1]


def grid_complaints(reference: Path, others: Iterable[Path]) -> list[str]:
    """A line for each image that is not on the grid of the first; reads headers only.

    Raises:
        DatasetError: an image cannot be read.
    """
    grid = read_geometry(reference)
    found = ((path, grid_difference(read_geometry(path), grid)) for path in others)
    return [f"{path} is not on the grid of {reference}: {text}" for path, text in found if text]


def write_volume(path: Path, volume: Volume, *, integer: bool = False) -> None:
    """Write a volume of one channel on its stored grid, compressed; never half-written.

    Args:
        path: its ending, one of `FORMATS`, decides the format.
        volume: (1, z, y, x) in LPS, file units.
        integer: as int16, rounded and clipped (CT in HU); else as float32.

    Raises:
        OutputError: the folder is not writable or the disk is full.
        ValueError: an unknown ending, or several channels.
    """
    if not path.name.endswith(FORMATS) or volume.array.shape[0] != 1:
        raise ValueError(f"{path}: one channel and an ending of {', '.join(FORMATS)}")
    geometry = volume.geometry
    stored = to_stored(volume.array[0], geometry)
    if integer:
        limits = np.iinfo(np.int16)
        stored = np.clip(np.rint(stored), limits.min, limits.max).astype(np.int16)
    image = sitk.GetImageFromArray(stored.astype(np.int16 if integer else np.float32, copy=False))
    image.SetSpacing(geometry.itk_spacing)
    image.SetOrigin(geometry.itk_origin)
    image.SetDirection(geometry.itk_direction)
    ending = ending_of(path)
    with whole_file(path, ending=ending, also=(RuntimeError, DatasetError)) as aside:
        _reserve(aside, stored.nbytes)
        _silence()
        sitk.WriteImage(image, str(aside), useCompression=True)
        check_voxels(aside, ending)  # ITK says nothing when a disk runs full


def _read(path: Path) -> tuple[NDArray, Geometry]:
    """One image as float32 (z, y, x) in LPS, and its grid."""
    reader, geometry = _open(path)
    ending = ending_of(path)
    try:
        if _READERS[ending] == "NiftiImageIO":
            stored = read_nifti_voxels(path)
        else:
            check_voxels(path, ending)
            stored = sitk.GetArrayFromImage(reader.Execute())  # a view would dangle
    except (OSError, RuntimeError) as problem:
        raise _unreadable(path, problem) from None
    with np.errstate(over="ignore"):  # an Inf is complained about below
        array = to_lps(stored.reshape(_stored_shape(geometry)), geometry).astype(
            np.float32, copy=False
        )
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise DatasetError(f"{path}: has NaN or Inf voxels; replace them, for example by air")
    return array, geometry


def _open(path: Path) -> tuple[sitk.ImageFileReader, Geometry]:
    """A reader that has read the header, and the grid in it."""
    ending = ending_of(path)
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    _silence()
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READERS[ending])  # else every ITK format has a look, HDF5 aloud
    reader.SetFileName(str(path))
    try:
        check_header(path, ending)
        reader.ReadImageInformation()
    except (OSError, RuntimeError) as problem:
        raise _unreadable(path, problem) from None
    return reader, _geometry(path, reader)


def _geometry(path: Path, reader: sitk.ImageFileReader) -> Geometry:
    if reader.GetNumberOfComponents() != 1:
        raise DatasetError(
            f"{path}: has {reader.GetNumberOfComponents()} values a voxel; give one file a channel"
        )
    n_axes = reader.GetDimension()
    size = (*reader.GetSize(), 1, 1)
    if n_axes > 3 and any(side > 1 for side in size[3:]):
        raise DatasetError(f"{path}: holds {np.prod(size[3:])} volumes; give one file a channel")
    # A missing third axis is one slice, 1 mm thick; a fourth of length 1 is left out.
    spacing = (*reader.GetSpacing(), 1.0)[:3]
    origin = (*reader.GetOrigin(), 0.0)[:3]
    direction = np.eye(3)
    n_kept = min(3, n_axes)
    cosines = np.reshape(reader.GetDirection(), (n_axes, n_axes))
    direction[:n_kept, :n_kept] = cosines[:n_kept, :n_kept]
    if not (np.isfinite(spacing).all() and min(spacing) > 0):
        raise DatasetError(f"{path}: the header gives the spacing {spacing} mm; correct it")
    axes, flips = nearest_lps(tuple(direction.ravel()))
    return Geometry(
        shape=(size[2 - axes[0]], size[2 - axes[1]], size[2 - axes[2]]),
        spacing=(spacing[2 - axes[0]], spacing[2 - axes[1]], spacing[2 - axes[2]]),
        itk_origin=origin,
        itk_direction=tuple(float(cosine) for cosine in direction.ravel()),
        axes=axes,
        flips=flips,
    )


def _stored_shape(geometry: Geometry) -> tuple[int, ...]:
    """The shape (z, y, x) of the array in the file."""
    return tuple(geometry.shape[axis] for axis in np.argsort(geometry.axes))


def _reserve(path: Path, n_bytes: int) -> None:
    """Make the file and reserve its space: ITK would print on the terminal if it cannot."""
    with path.open("wb") as handle:
        if hasattr(os, "posix_fallocate"):  # not on Windows and macOS
            os.posix_fallocate(handle.fileno(), 0, n_bytes)


def _silence() -> None:
    """Keep ITK's warnings off the terminal; what matters is checked here and said in our words."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)


def _unreadable(path: Path, problem: Exception) -> DatasetError:
    if isinstance(problem, OSError):
        return DatasetError(f"{path}: cannot be read: {problem.strerror}; check its permissions")
    said = str(problem).strip().splitlines()[-1]
    if "orthonormal" in said:
        return DatasetError(
            f"{path}: the axes in the header are not at right angles; resample it to a plain grid"
        )
    reason = re.sub(r".*ERROR: (\w+\(0x\w+\): )?", "", said).replace(str(path), "the file")
    return damaged(path, f"cannot be read: {reason.strip()}")
