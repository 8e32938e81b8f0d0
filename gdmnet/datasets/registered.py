"""A copy of a raw dataset in which sources that lay off are moved onto their targets."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.raw import read_description, write_description
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.datasets.conversion import own_number
from gdmnet.datasets.images import is_whole
from gdmnet.datasets.registration import move
from gdmnet.datasets.soundness import CaseFacts
from gdmnet.files import whole_folder
from gdmnet.parallel import map_cases

TRANSFORMS = "transforms"


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
        copy: its new folder, from `new_dataset`.
        cases: training and test cases.
        facts: by case name.
        n_processes: worker processes.

    Returns:
        The names of the images that were moved.

    Raises:
        BusyError: another process writes a dataset of this number.
        OutputError: the copy cannot be written.
    """
    description = read_description(folder)
    with own_number(copy), whole_folder(copy) as aside:
        shutil.copytree(folder, aside, dirs_exist_ok=True)
        (aside / TRANSFORMS).mkdir(exist_ok=True)
        moved = map_cases(
            partial(_move_case, facts=facts, folder=folder, copy=aside),
            cases,
            n_processes=n_processes,
            name=lambda case: case.identifier,
            title="registering",
        )
        names = [name for case in moved for name in case]
        metadata = {**description.metadata, "registered": names}
        write_description(aside, replace(description, metadata=metadata))
    return names


def _move_case(
    files: CaseFiles, *, facts: Mapping[str, CaseFacts], folder: Path, copy: Path
) -> list[str]:
    moved = []
    alignments = facts[files.identifier].alignments
    for channel, (path, alignment) in enumerate(zip(files.sources, alignments, strict=False)):
        if not alignment.is_movable:
            continue
        volume = read_volume(path)
        image = move(volume.array[0], alignment.motion, volume.geometry)
        place = copy / path.relative_to(folder)
        write_volume(place, Volume(image[None], volume.geometry), integer=is_whole(volume.array))
        name = f"{files.identifier}_{channel:04d}"
        sitk.WriteTransform(alignment.motion.transform, str(copy / TRANSFORMS / f"{name}.tfm"))
        moved.append(name)
        if channel == 0 and files.mask is not None:
            mask = read_volume(files.mask)
            inside = move(mask.array[0], alignment.motion, mask.geometry, linear=True) >= 0.5
            whole = Volume(inside[None].astype(np.float32), mask.geometry)
            write_volume(copy / files.mask.relative_to(folder), whole, integer=True)
    return moved
