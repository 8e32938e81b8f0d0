"""The SynthRAD challenges' folders to a raw dataset, with folds balanced over centres and regions.

Layouts: TaskT/REGION/PATIENT/{mr or cbct, ct, mask}, as NIfTI in 2023 and MetaImage in 2025. A
patient is called 1BA001: task, region, centre, number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gdmnet.data.case_files import images_by_case
from gdmnet.datasets.conversion import CaseImages, Conversion
from gdmnet.errors import DatasetError

REGIONS: dict[int, dict[str, str]] = {
    2023: {"brain": "B", "pelvis": "P"},
    2025: {"HN": "HN", "TH": "TH", "AB": "AB"},
}
"""Year -> folder of a region -> its letters in a patient's name."""
ALL = "all"
SOURCES = {1: ("mr", "MR"), 2: ("cbct", "CBCT")}
"""Task -> file name and channel name of the source."""
_N_FOLDS, _SEED = 5, 12345


@dataclass(frozen=True)
class Patient:
    """One folder: its images, its region ("brain", "HN") and its centre ("A")."""

    images: CaseImages
    region: str
    centre: str


def find_patients(folder: Path, *, task: int, year: int, region: str) -> list[Patient]:
    """The patients of a task and of one or all regions of a year, sorted by name.

    The folder holds Task1 (MR to CT) or Task2 (CBCT to CT), or is such a folder itself.

    Raises:
        DatasetError: a folder is missing, a patient's name is not the challenge's, a file is
            missing; the first ones are listed.
    """
    known = REGIONS[year]
    if region not in (ALL, *known):
        raise DatasetError(
            f"--region {region}: the {year} challenge has {', '.join(known)}; choose one or {ALL}"
        )
    home = folder / f"Task{task}" if (folder / f"Task{task}").is_dir() else folder
    wanted = list(known) if region == ALL else [region]
    there = [name for name in wanted if (home / name).is_dir()]
    if not there or (region != ALL and region not in there):
        raise DatasetError(
            f"{home}: no folder {' or '.join(wanted)} here; give the folder that holds Task{task}"
        )
    patients, complaints = [], []
    for name in there:
        pattern = re.compile(rf"{task}{known[name]}([A-Z])\d{{3,}}")
        for path in sorted(p for p in (home / name).iterdir() if p.is_dir()):
            match = pattern.fullmatch(path.name)
            if match is None:
                if not path.name.startswith((".", "overview")):
                    complaints.append(f"{path}: no patient of task {task}, {name} ({year})")
                continue
            try:
                patients.append(Patient(_images(path, SOURCES[task][0]), name, match[1]))
            except DatasetError as error:
                complaints.append(str(error))
    if complaints:
        more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
        raise DatasetError(f"{complaints[0]}{more}; nothing was written")
    if not patients:
        raise DatasetError(f"{home}: no patient in {', '.join(there)}")
    return sorted(patients, key=lambda patient: patient.images.identifier)


def make_conversion(patients: Sequence[Patient], *, task: int, year: int) -> Conversion:
    """Patients with a CT train, those without are test cases; folds are balanced.

    Raises:
        DatasetError: no patient has a CT.
    """
    training = [patient for patient in patients if patient.images.target is not None]
    if not training:
        raise DatasetError("no patient has a CT; give the challenge's training data")
    groups = {p.images.identifier: f"{p.region} {p.centre}" for p in training}
    centres = {p.images.identifier: {"region": p.region, "centre": p.centre} for p in patients}
    return Conversion(
        channel_names=(SOURCES[task][1],),
        target_name="CT",
        training=tuple(patient.images for patient in training),
        testing=tuple(patient.images for patient in patients if patient.images.target is None),
        splits=tuple(balanced_splits(groups)),
        metadata={"description": f"SynthRAD{year}, task {task}", "patients": centres},
    )


def balanced_splits(groups: Mapping[str, str], *, seed: int = _SEED) -> list[dict[str, list[str]]]:
    """Folds in which every group is shared out as equally as it can be.

    Each group is shuffled and dealt out like cards, going on where the group before ended, so that
    neither the folds' sizes nor their shares of a group differ by more than one case. There are
    fewer folds where there are fewer cases; a single case trains and validates. Groups, such as
    region and centre, are given by case.
    """
    if len(groups) == 1:
        return [{"train": list(groups), "val": list(groups)}]
    rng = np.random.default_rng(seed)
    dealt: list[str] = []
    for group in sorted(set(groups.values())):
        members = sorted(name for name, own in groups.items() if own == group)
        dealt += [members[i] for i in rng.permutation(len(members))]
    n_folds = min(_N_FOLDS, len(dealt))
    held_out = [set(dealt[fold::n_folds]) for fold in range(n_folds)]
    return [{"train": sorted(set(groups) - held), "val": sorted(held)} for held in held_out]


def _images(folder: Path, source: str) -> CaseImages:
    images = images_by_case(folder)
    for stem in (source, "mask"):
        if stem not in images:
            raise DatasetError(f"{folder}: no {stem}.nii.gz or {stem}.mha here; add it")
    return CaseImages(folder.name, (images[source],), images.get("ct"), images["mask"])
