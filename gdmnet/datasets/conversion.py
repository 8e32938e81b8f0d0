"""Image files of pairs to a raw dataset: read, checked, resampled if asked, written; resumable."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdmnet import __version__, codec
from gdmnet.arrays.normalise import scheme_of
from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.regrid import regrid, share_inside
from gdmnet.data.volume import read_geometry, read_volume, write_volume
from gdmnet.datasets.registered import is_whole
from gdmnet.errors import DatasetError, OutputError, PlanError
from gdmnet.folders import DATASET_JSON, SPLITS_JSON, dataset_names
from gdmnet.geometry import Geometry, grid_difference
from gdmnet.parallel import map_cases

FILE_ENDING = ".nii.gz"
RESAMPLE = ("source", "target")  # which of the two goes onto the other's grid
_CONVERSION_JSON = "conversion.json"  # in the unfinished folder: what is being converted
_AIR = -1024.0  # HU outside of a CT


@dataclass(frozen=True)
class Conversion:
    """What becomes a raw dataset.

    Attributes:
        channel_names: of the sources.
        target_name: of the target.
        training: cases for imagesTr; every one has a target.
        testing: cases for imagesTs.
        resample: a name in `RESAMPLE`; None where the files of a case share a grid.
        splits: the folds, as in splits_final.json; none for gdmnet's own.
        metadata: further keys of dataset.json.
    """

    channel_names: tuple[str, ...]
    target_name: str
    training: tuple[CaseFiles, ...]
    testing: tuple[CaseFiles, ...] = ()
    resample: str | None = None
    splits: tuple[dict[str, list[str]], ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


def new_dataset(raw: Path, number: int, name: str) -> Path:
    """The folder of a dataset to be made.

    Raises:
        DatasetError: the number is impossible or taken, or the name cannot be a folder's.
    """
    if not 0 <= number <= 999:
        raise DatasetError(f"-d {number}: give a number from 0 to 999")
    if not name or Path(name).name != name:
        raise DatasetError(f"--name {name}: give a plain word")
    taken = [there for there in dataset_names(raw) if int(there[7:10]) == number]
    if taken:
        raise DatasetError(f"{raw}: {taken[0]} is there already; choose another number by -d")
    return raw / f"Dataset{number:03d}_{name}"


def grid_complaints(conversion: Conversion) -> list[str]:
    """What keeps the files of each case from lying on one grid; reads headers only."""
    complaints = []
    for case in (*conversion.training, *conversion.testing):
        try:
            complaints += _grid_complaints(case, conversion.resample)
        except DatasetError as error:
            complaints.append(f"{case.identifier}: {error}")
    return complaints


def write_dataset(conversion: Conversion, dataset: Path, *, n_processes: int = 1) -> None:
    """Write a raw dataset: aside, renamed when it is whole.

    Interrupted, the same call goes on with the cases that are not written yet.

    Args:
        conversion: what is converted.
        dataset: its folder, which must not exist.
        n_processes: worker processes, one case each.

    Raises:
        DatasetError: an image cannot be read, or the files of a case do not fit.
        OutputError: the folder is there already or cannot be written.
    """
    if dataset.exists():
        raise OutputError(f"{dataset}: is there already; remove it or choose another number")
    aside = dataset.with_name(f".{dataset.name}.partial")
    try:
        _claim(aside, conversion)
        for part, cases in (("Tr", conversion.training), ("Ts", conversion.testing)):
            map_cases(
                partial(_write_case, conversion=conversion, folder=aside, part=part),
                cases,
                n_processes=n_processes,
                name=lambda case: case.identifier,
                title="converting",
            )
        codec.save(_description(conversion), aside / DATASET_JSON)
        if conversion.splits:
            codec.save(conversion.splits, aside / SPLITS_JSON)
        (aside / _CONVERSION_JSON).unlink()
        aside.rename(dataset)
    except OSError as problem:
        raise OutputError(
            f"{dataset}: cannot be written ({problem.strerror}); check the folder's permissions"
            " and free space"
        ) from None


def _claim(aside: Path, conversion: Conversion) -> None:
    """Keep what an interrupted run of the same conversion has written, and nothing else."""
    noted, wanted = aside / _CONVERSION_JSON, codec.encode(replace(conversion, metadata={}))
    try:
        is_same = codec.read_json(noted) == wanted
    except PlanError:
        is_same = False
    if not is_same:
        shutil.rmtree(aside, ignore_errors=True)
        codec.save(wanted, noted)


def _description(conversion: Conversion) -> dict[str, Any]:
    return {
        "channel_names": {str(i): name for i, name in enumerate(conversion.channel_names)},
        "target_name": conversion.target_name,
        "file_ending": FILE_ENDING,
        "numTraining": len(conversion.training),
        "resampled": conversion.resample or "nothing",
        "converted_by": f"gdmnet {__version__}",
        **conversion.metadata,
    }


def _write_case(case: CaseFiles, *, conversion: Conversion, folder: Path, part: str) -> None:
    name = case.identifier
    outputs = [
        (path, folder / f"images{part}" / f"{name}_{channel:04d}{FILE_ENDING}", channel_name)
        for channel, (path, channel_name) in enumerate(
            zip(case.sources, conversion.channel_names, strict=True)
        )
    ]
    if case.target is not None:
        target = folder / f"targets{part}" / f"{name}{FILE_ENDING}"
        outputs.append((case.target, target, conversion.target_name))
    if case.mask is not None:
        outputs.append((case.mask, folder / f"masks{part}" / f"{name}{FILE_ENDING}", "mask"))
    if all(output.is_file() for _, output, _ in outputs):
        return
    grid = _grid(case, conversion.resample)
    for path, output, kind in outputs:
        volume = _on_grid(read_volume(path), grid, kind, path, allowed=conversion.resample)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_volume(output, volume, integer=is_whole(volume.array))


def _on_grid(
    volume: Volume, grid: Geometry, kind: str, path: Path, *, allowed: str | None
) -> Volume:
    if kind == "mask":
        volume = Volume((volume.array > 0).astype(np.float32), volume.geometry)
    difference = grid_difference(volume.geometry, grid)
    if difference is None:
        return Volume(volume.array, grid)
    if allowed is None:
        raise DatasetError(f"{path}: on another grid than its partner: {difference}")
    moved = regrid(volume, grid, fill=_fill(kind, volume.array))
    return Volume((moved.array >= 0.5).astype(np.float32), grid) if kind == "mask" else moved


def _fill(kind: str, array: NDArray) -> float:
    return _AIR if scheme_of(kind, target=False) == "ct" else min(0.0, float(array.min()))


def _grid(case: CaseFiles, resample: str | None) -> Geometry:
    """The grid of the one that stays."""
    keeps_target = resample == "source" and case.target is not None
    return read_geometry(case.target if keeps_target and case.target else case.sources[0])


def _grid_complaints(case: CaseFiles, resample: str | None) -> list[str]:
    grid = _grid(case, resample)
    complaints = []
    for path in (*case.sources, case.target, case.mask):
        difference = path and grid_difference(read_geometry(path), grid)
        if not path or not difference:
            continue
        if resample is None:
            text = f"on another grid: {difference}; try --resample target or --resample source"
        elif share_inside(grid, read_geometry(path)) == 0:
            text = "does not overlap with its partner in space"
        else:
            continue
        complaints.append(f"{case.identifier}: {path.name} {text}")
    return complaints
