"""Cases that no training has seen, and which folds may translate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet.data.case import CaseFiles
from gdmnet.data.raw import Complaint, read_description, test_cases, training_cases
from gdmnet.data.splits import split_for
from gdmnet.errors import DatasetError


@dataclass(frozen=True)
class Group:
    """Cases that the same folds translate; `folder` is where their predictions lie."""

    folder: str
    folds: tuple[str, ...]
    cases: tuple[CaseFiles, ...]


@dataclass(frozen=True)
class HeldOut:
    """All cases to judge on, with targets.

    Attributes:
        words: where they come from.
        groups: no case twice.
        real: identifier -> case of the training set, for the judge to learn from.
    """

    words: str
    groups: tuple[Group, ...]
    real: dict[str, CaseFiles]

    @property
    def cases(self) -> tuple[CaseFiles, ...]:
        """All cases, group by group."""
        return tuple(case for group in self.groups for case in group.cases)


def find_held_out(raw: Path, splits: Path, folds: Sequence[str]) -> HeldOut:
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
    if not raw.is_dir():
        raise DatasetError(
            f"{raw}: no such folder; its images and targets are needed, name the place by --raw"
        )
    description = read_description(raw)
    training = _sound(training_cases(raw, description), raw)
    real = {case.identifier: case for case in training if case.target is not None}
    tests = [c for c in _sound(test_cases(raw, description), raw) if c.target is not None]
    if tests:
        return HeldOut("test cases", (Group("", tuple(folds), tuple(tests)),), real)
    groups = []
    for fold in folds:
        split = split_for(fold, splits)
        if split.validates_on_training:
            raise DatasetError(
                f"{raw}: has no test cases with targets (imagesTs, targetsTs), and fold {fold}"
                " trains on every case; choose another fold, or add test cases"
            )
        missing = [name for name in split.validation if name not in real]
        if missing:
            raise DatasetError(f"{raw}: no target of {', '.join(missing)}; put the files back")
        cases = tuple(real[name] for name in split.validation)
        groups.append(Group(f"fold_{fold}", (fold,), cases))
    words = f"validation cases of fold{'s' * (len(groups) > 1)} {', '.join(folds)}"
    return HeldOut(words, tuple(groups), real)


def _sound(found: tuple[list[CaseFiles], list[Complaint]], raw: Path) -> list[CaseFiles]:
    cases, complaints = found
    if complaints:
        more = len(complaints) - 1
        rest = f" (and {more} more; gdm_check lists all)" if more else ""
        raise DatasetError(f"{raw}: {complaints[0]}{rest}")
    return cases
