"""The CT volumes that a folder holds, in any format, and which of them are kept for the test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gdmnet.codec import read_json
from gdmnet.data.case import Series, Volume
from gdmnet.data.case_files import FORMATS, ending_of
from gdmnet.data.dicom import case_name, find_series, grid_of
from gdmnet.data.hounsfield import why_not_hounsfield
from gdmnet.datasets.images import Image, read_image
from gdmnet.errors import DatasetError


@dataclass(frozen=True)
class CtVolume:
    """One CT: its name in a dataset, and its file or DICOM series."""

    name: str
    source: Image

    @property
    def origin(self) -> str:
        """What to write down as where it came from; nothing of the patient."""
        return self.source.name if isinstance(self.source, Path) else "DICOM series"


def find_ct_volumes(folder: Path) -> list[CtVolume]:
    """All CTs of a folder and the folders in it, sorted by name.

    Images count first (CASE_0000.nii.gz is the case CASE); where there are none, the CT series
    among DICOM files, under names that tell nothing of the patient.

    Raises:
        DatasetError: no such folder, nothing in it, two of one name, an unsound DICOM series.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give the folder of the CT volumes by -i")
    found: dict[str, CtVolume] = {}
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_hidden or not path.name.endswith(FORMATS):
            continue
        name = path.name.removesuffix(ending_of(path)).removesuffix("_0000")
        if name in found:
            raise DatasetError(f"{path}: the case {name} is there twice; rename one of the two")
        found[name] = CtVolume(name, path)
    if not found:
        for series in find_series(folder).series:
            if series.modality == "CT":
                grid_of(series)  # unsound ones are refused by name
                found[case_name(series)] = CtVolume(case_name(series), series)
    if not found:
        raise DatasetError(
            f"{folder}: no CT here; put images ({', '.join(FORMATS)}) or DICOM series there"
        )
    return [found[name] for name in sorted(found)]


def read_ct(ct: CtVolume) -> Volume:
    """The volume, float32 (1, z, y, x) in HU.

    Raises:
        DatasetError: it cannot be read, or does not hold Hounsfield units.
    """
    where = ct.source.folder if isinstance(ct.source, Series) else ct.source
    volume = read_image(ct.source)
    if volume.array.min() == volume.array.max():
        raise DatasetError(f"{where}: the image is empty: every voxel is {volume.array.min():g}")
    reason = why_not_hounsfield(volume.array[0])
    if reason is not None:
        raise DatasetError(f"{where}: {reason}")
    return volume


def choose_test_cases(
    cts: Sequence[CtVolume], split: Path | None, fraction: float, seed: int
) -> tuple[list[CtVolume], list[CtVolume]]:
    """Training and test cases.

    Args:
        cts: all of them.
        split: JSON file {"train": [...], "test": [...]} of names; without "train", all that are
            not for the test. None draws by seed.
        fraction: share of the cases that is drawn for the test; at least one stays for training.
        seed: of the draw.

    Raises:
        DatasetError: a broken file, a name that is not there, or one on both sides; the fraction
            is not in [0, 1).
    """
    named = {ct.name: ct for ct in cts}
    if split is not None:
        train, test = _read_split(split, list(named))
    elif not 0 <= fraction < 1:
        raise DatasetError(f"--test-fraction {fraction:g}: must lie in [0, 1)")
    else:
        n_test = min(round(fraction * len(named)), len(named) - 1)
        order = np.random.default_rng(seed).permutation(sorted(named))
        test = sorted(str(name) for name in order[:n_test])
        train = [name for name in named if name not in test]
    return [named[name] for name in train], [named[name] for name in test]


def _read_split(path: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    data = read_json(path, DatasetError)
    if (
        not isinstance(data, dict)
        or not data
        or not set(data) <= {"train", "test"}
        or not all(isinstance(value, list) for value in data.values())
        or not all(isinstance(name, str) for value in data.values() for name in value)
    ):
        raise DatasetError(
            f'{path}: expected {{"train": ["a", "b"], "test": ["c"]}}, names of cases'
        )
    test = data.get("test", [])
    train = data.get("train", [name for name in names if name not in test])
    for name in (*train, *test):
        if name not in names:
            raise DatasetError(
                f"{path}: there is no case {json.dumps(name)} in the input folder; its cases are"
                f" named like {json.dumps(names[0])}"
            )
    both = sorted(set(train) & set(test))
    if both:
        raise DatasetError(f"{path}: {both[0]} is both for training and for the test")
    if not train:
        raise DatasetError(f"{path}: no case is left for training")
    return sorted(set(train)), sorted(set(test))
