"""A copy of a raw dataset in which sources that lay off are moved onto their targets."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from gdmnet import codec
from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.datasets.registration import move
from gdmnet.datasets.soundness import Alignment, CaseFacts
from gdmnet.errors import OutputError
from gdmnet.folders import DATASET_JSON, SPLITS_JSON
from gdmnet.parallel import map_cases

TRANSFORMS = "transforms"
_FOLDERS = ("imagesTr", "targetsTr", "masksTr", "imagesTs", "targetsTs", "masksTs")


def needs_moving(alignment: Alignment) -> bool:
    """True for a channel that `write_registered` moves; a mirrored one has to be mended by hand."""
    return alignment.is_off and not alignment.is_mirrored


def write_registered(
    folder: Path,
    copy: Path,
    cases: Sequence[CaseFiles],
    facts: Mapping[str, CaseFacts],
    *,
    n_processes: int = 1,
) -> list[str]:
    """Copy a dataset and undo the motion of every channel that is off by more than it may be.

    Targets are never touched: they keep their sharpness and their units. A moved source is
    interpolated once (cubic); its mask moves with the first channel. Each motion lies in
    transforms/CASE_0000.tfm, to be read by ITK, Slicer and elastix.

    Args:
        folder: the dataset.
        copy: its new folder, which must not exist; written aside and renamed.
        cases: training and test cases.
        facts: by case name.
        n_processes: worker processes.

    Returns:
        The names of the images that were moved.

    Raises:
        OutputError: the copy is there already or cannot be written.
    """
    if copy.exists():
        raise OutputError(f"{copy}: is there already; remove it or choose another number")
    aside = copy.with_name(f".{copy.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / TRANSFORMS).mkdir(parents=True)
        for name in _FOLDERS:
            if (folder / name).is_dir():
                shutil.copytree(folder / name, aside / name)
        moved = map_cases(
            partial(_move_case, facts=facts, folder=folder, copy=aside),
            cases,
            n_processes=n_processes,
            name=lambda case: case.identifier,
            title="registering",
        )
        names = [name for case in moved for name in case]
        description = codec.read_json(folder / DATASET_JSON)
        codec.save({**description, "registered": names}, aside / DATASET_JSON)
        if (folder / SPLITS_JSON).is_file():
            shutil.copyfile(folder / SPLITS_JSON, aside / SPLITS_JSON)
        aside.rename(copy)
    except OSError as problem:
        raise OutputError(
            f"{copy}: cannot be written ({problem.strerror}); check the folder's permissions and"
            " free space"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return names


def is_whole(array: NDArray) -> bool:
    """True if int16 holds every value exactly."""
    limits = np.iinfo(np.int16)
    fits = array.min() >= limits.min and array.max() <= limits.max
    return bool(fits and (array == np.rint(array)).all())


def _move_case(
    files: CaseFiles, *, facts: Mapping[str, CaseFacts], folder: Path, copy: Path
) -> list[str]:
    moved = []
    alignments = facts[files.identifier].alignments
    for channel, (path, alignment) in enumerate(zip(files.sources, alignments, strict=False)):
        if not needs_moving(alignment):
            continue
        volume = read_volume(path)
        image = move(volume.array[0], alignment.motion, volume.geometry)
        _replace(copy / path.relative_to(folder), Volume(image[None], volume.geometry), volume)
        name = f"{files.identifier}_{channel:04d}"
        sitk.WriteTransform(alignment.motion.transform, str(copy / TRANSFORMS / f"{name}.tfm"))
        moved.append(name)
        if channel == 0 and files.mask is not None:
            mask = read_volume(files.mask)
            shifted = move(mask.array[0], alignment.motion, mask.geometry, linear=True) >= 0.5
            whole = Volume(shifted[None].astype(np.float32), mask.geometry)
            _replace(copy / files.mask.relative_to(folder), whole, mask)
    return moved


def _replace(path: Path, volume: Volume, before: Volume) -> None:
    write_volume(path, volume, integer=is_whole(before.array))
