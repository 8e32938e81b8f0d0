"""Cases that no compared model was trained on, and which folds translate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet.data.case import CaseFiles
from gdmnet.data.raw import Description, read_description, test_cases, training_cases
from gdmnet.data.splits import split_for
from gdmnet.errors import DatasetError


@dataclass(frozen=True)
class CaseGroup:
    """Cases that the same folds translate; `folder` is where their predictions lie."""

    folder: str
    folds: tuple[str, ...]
    cases: tuple[CaseFiles, ...]


@dataclass(frozen=True)
class ComparisonCases:
    """All cases to judge on, with targets.

    Attributes:
        dataset: its full name.
        origin: where they come from, in words.
        groups: no case twice.
        training: identifier -> case of the training set with a target, for the judge.
        channel_names: of the sources.
    """

    dataset: str
    origin: str
    groups: tuple[CaseGroup, ...]
    training: dict[str, CaseFiles]
    channel_names: tuple[str, ...]

    @property
    def files(self) -> dict[str, CaseFiles]:
        """Identifier -> files of all cases, group by group."""
        return {case.identifier: case for group in self.groups for case in group.cases}


def find_held_out(raw: Path, splits: Path, folds: Sequence[str]) -> ComparisonCases:
    """The test cases of a dataset if they have targets, else the validation cases of its folds.

    Test cases are translated by all folds together, a validation case by the one fold that was
    not trained on it.

    Args:
        raw: folder of the raw dataset.
        splits: the splits_final.json of the trainings.
        folds: that are trained.

    Raises:
        DatasetError: a raw file is missing or unknown, or every case is trained on.
    """
    training, description = _read_training(raw)
    names = description.channel_names
    found, complaints = test_cases(raw, description)
    if complaints:
        more = len(complaints) - 1
        rest = f" (and {more} more; gdm_check lists all)" if more else ""
        raise DatasetError(f"{raw}: {complaints[0]}{rest}")
    tests = tuple(case for case in found if case.target is not None)
    if tests:
        group = CaseGroup("", tuple(folds), tests)
        return ComparisonCases(raw.name, "test cases", (group,), training, names)
    groups = []
    for fold in folds:
        split = split_for(fold, splits)
        if split.validates_on_training:
            raise DatasetError(
                f"{raw}: has no test cases with targets (imagesTs, targetsTs), and fold {fold}"
                " trains on every case; choose another fold, or add test cases"
            )
        cases = _with_targets(training, split.validation, raw)
        groups.append(CaseGroup(f"fold_{fold}", (fold,), cases))
    origin = f"validation cases of fold{'s' * (len(groups) > 1)} {', '.join(folds)}"
    return ComparisonCases(raw.name, origin, tuple(groups), training, names)


def find_validated(raw: Path, identifiers: Sequence[str]) -> ComparisonCases:
    """Training cases that models were validated on.

    Raises:
        DatasetError: a raw file or a target is missing.
    """
    training, description = _read_training(raw)
    group = CaseGroup("", (), _with_targets(training, identifiers, raw))
    origin = "cases that no model was trained on"
    return ComparisonCases(raw.name, origin, (group,), training, description.channel_names)


def _read_training(raw: Path) -> tuple[dict[str, CaseFiles], Description]:
    if not raw.is_dir():
        raise DatasetError(
            f"{raw}: no such folder; its images and targets are needed, name the place by --raw"
        )
    description = read_description(raw)
    cases, _ = training_cases(raw, description)  # what is missing matters where it is needed
    return {case.identifier: case for case in cases if case.target is not None}, description


def _with_targets(
    known: dict[str, CaseFiles], identifiers: Sequence[str], raw: Path
) -> tuple[CaseFiles, ...]:
    missing = [name for name in identifiers if name not in known]
    if missing:
        raise DatasetError(f"{raw}: no target of {', '.join(missing)}; put the files back")
    return tuple(known[name] for name in identifiers)
