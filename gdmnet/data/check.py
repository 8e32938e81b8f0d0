"""The integrity check of a raw dataset: every file is read, ALL complaints are collected."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet.arrays.body import body_mask, padding
from gdmnet.arrays.normalise import scheme_of
from gdmnet.codec import read_json
from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.case_files import split_channel, stem_of
from gdmnet.data.hounsfield import core, filled, why_filled, why_not_hounsfield
from gdmnet.data.raw import (
    Complaint,
    Description,
    place_of,
    read_description,
    test_cases,
    training_cases,
)
from gdmnet.data.splits import split_complaints
from gdmnet.data.volume import read_volume
from gdmnet.errors import DatasetError
from gdmnet.folders import DATASET_JSON, SPLITS_JSON
from gdmnet.geometry import grid_difference, placement_note
from gdmnet.parallel import map_cases
from gdmnet.table import first_names

_log = logging.getLogger(__name__)
_MOST_FILLED = 0.02  # of the body, without a note


@dataclass(frozen=True)
class _Finding:
    """What one case brought: complaints, notes, and a digest of its first channel's voxels."""

    identifier: str
    complaints: list[Complaint]
    notes: list[str]
    digest: str | None


def check_dataset(folder: Path, *, n_processes: int) -> list[Complaint]:
    """Everything that is wrong with a raw dataset, training and test cases; reads every file.

    What is odd, but may be meant, is logged as a warning.

    Returns:
        Complaints in the order dataset.json, files, contents, splits; none for a sound dataset.

    Raises:
        WorkerDiedError: a worker was killed.
    """
    try:
        description = read_description(folder)
    except DatasetError as error:  # without it nothing else can be judged
        return [Complaint("", DATASET_JSON, _without(folder / DATASET_JSON, error))]
    training, complaints = training_cases(folder, description)
    testing, more = test_cases(folder, description)
    check, cases = partial(_check_case, description=description), [*training, *testing]
    findings = map_cases(check, cases, n_processes=n_processes, title="checking")
    complaints += more
    cases_with: dict[str, list[str]] = {}
    for finding in findings:
        complaints += finding.complaints
        for note in finding.notes:
            cases_with.setdefault(note, []).append(finding.identifier)
    for note, names in cases_with.items():
        _log.warning("%s: %s", first_names(names, 5), note)
    complaints += _duplicates(findings)
    return complaints + _check_splits(folder, [case.identifier for case in training])


def require_sound(folder: Path, *, n_processes: int) -> tuple[Description, list[CaseFiles]]:
    """Description and training cases of a raw dataset that the check finds nothing wrong with.

    Raises:
        DatasetError: a first line with the number of complaints, then one line each.
    """
    complaints = check_dataset(folder, n_processes=n_processes)
    if complaints:
        head = f"{len(complaints)} complaint{'s' * (len(complaints) > 1)}; nothing was written"
        raise DatasetError("\n  ".join([f"{folder}: {head}", *map(str, complaints)]))
    description = read_description(folder)
    return description, training_cases(folder, description)[0]


def _check_case(files: CaseFiles, description: Description) -> _Finding:
    complaints: list[Complaint] = []

    def complain(path: Path, text: str) -> None:
        complaints.append(Complaint(files.identifier, place_of(path), text))

    volumes: dict[Path, Volume] = {}
    for path in filter(None, (*files.sources, files.target, files.mask)):
        try:
            volumes[path] = read_volume(path)
        except DatasetError as error:
            complain(path, _without(path, error))
    for path, volume in volumes.items():
        first = next(iter(volumes))  # a source channel, if any is readable
        difference = grid_difference(volume.geometry, volumes[first].geometry)
        if difference is not None:
            text = f"another grid than {place_of(first)}: {difference}; resample the files of a"
            complain(path, f"{text} case to one grid")
    schemes = _schemes(files, description)
    notes = {placement_note(volume.geometry) for volume in volumes.values()} - {None}
    for path, volume in volumes.items():
        if path == files.mask:
            texts = _mask_complaints(volume.array[0], _sources_body(files, volumes, schemes))
        else:
            texts = _image_complaints(volume, is_ct=schemes.get(path) == "ct")
            if not texts:
                notes |= set(_image_notes(path, files, volumes, schemes))
        for text in texts:
            complain(path, text)
    shown = volumes.get(files.sources[0]) if files.sources else None
    digest = None if shown is None else hashlib.sha256(shown.array.data).hexdigest()
    return _Finding(files.identifier, complaints, sorted(filter(None, notes)), digest)


def _schemes(files: CaseFiles, description: Description) -> dict[Path, str]:
    """The schemes that names ask for; a mask has none, and neither has a channel too many."""
    numbers = {path: split_channel(stem_of(path))[1] for path in files.sources}
    names = dict(enumerate(description.channel_names))
    found = {path: scheme_of(names[n], target=False) for path, n in numbers.items() if n in names}
    if files.target is not None:
        found[files.target] = scheme_of(description.target_name, target=True)
    return found


def _image_complaints(volume: Volume, *, is_ct: bool) -> list[str]:
    image = volume.array[0]
    low = float(image.min())
    if low == image.max():
        return [f"the image is empty: every voxel is {low:g}; export it again, or remove the case"]
    if not is_ct:
        return []
    reason = why_not_hounsfield(image) or why_filled(image, volume.geometry.spacing)
    return [reason] if reason else []


def _image_notes(
    path: Path, files: CaseFiles, volumes: Mapping[Path, Volume], schemes: Mapping[Path, str]
) -> Iterator[str]:
    """What is odd in an image without a complaint: padding, and a target that ends in the body."""
    image, spacing = volumes[path].array[0], volumes[path].geometry.spacing
    if padding(image).any():
        yield f"filled with {image.min():g} in part, far below the rest: this part is no body"
    found = filled(image, spacing) if path == files.target else None
    if found is None:
        return
    mask = volumes.get(files.mask) if files.mask else None
    body = _sources_body(files, volumes, schemes) if mask is None else mask.array[0]
    if body is None or body.shape != image.shape:
        return
    value, region = found
    inside = region & (body != 0)
    if inside.sum() > _MOST_FILLED * (body != 0).sum() and core(inside, spacing).any():
        yield (
            f"more than {_MOST_FILLED:.0%} of the body in the source is filled with {value:g} in"
            " the target: it ends there; leave this part out by masks (masksTr)"
        )


def _mask_complaints(mask: NDArray, body: NDArray | None) -> list[str]:
    values = np.unique(mask)
    if not mask.any():
        return ["the mask is empty; mark the body, or remove the masks of all cases"]
    complaints = []
    if not np.isin(values, (0, 1)).all():
        shown = ", ".join(f"{value:g}" for value in values[:5]) + ", ..." * (values.size > 5)
        complaints.append(f"a mask holds 0 and 1 only, this one {shown}; set 1 inside the body")
    if body is not None and body.shape == mask.shape and not ((body != 0) & (mask != 0)).any():
        complaints.append(
            "the mask lies wholly outside the body that the images show; check that it belongs to"
            " this case and is not mirrored"
        )
    return complaints


def _sources_body(
    files: CaseFiles, volumes: Mapping[Path, Volume], schemes: Mapping[Path, str]
) -> NDArray | None:
    """The body as the readable sources on one grid show it; None if there are none."""
    usable = [path for path in files.sources if path in volumes and path in schemes]
    if not usable:
        return None
    first = volumes[usable[0]]
    usable = [path for path in usable if volumes[path].array.shape == first.array.shape]
    stacked = np.concatenate([volumes[path].array for path in usable])
    return body_mask(stacked, first.geometry.spacing, [schemes[path] == "ct" for path in usable])[0]


def _duplicates(findings: Sequence[_Finding]) -> list[Complaint]:
    """One patient under two names would be trained on and tested with."""
    first_with: dict[str | None, str] = {}
    complaints = []
    for finding in findings:
        first = first_with.setdefault(finding.digest, finding.identifier)
        if first != finding.identifier and finding.digest is not None:
            text = f"the same image as case {first}, voxel for voxel; remove one of the two"
            complaints.append(Complaint(finding.identifier, "first channel", text))
    return complaints


def _check_splits(folder: Path, identifiers: Sequence[str]) -> list[Complaint]:
    path = folder / SPLITS_JSON
    if not path.is_file():
        return []
    try:
        texts = split_complaints(read_json(path, DatasetError), identifiers)
    except DatasetError as error:
        texts = [_without(path, error)]
    return [Complaint("", SPLITS_JSON, text) for text in texts]


def _without(path: Path, error: DatasetError) -> str:
    """The text of an error without the path, which the complaint names already."""
    return str(error).removeprefix(f"{path}: ")
