"""Subjects of a judge: a real image, its mask and perhaps a prediction; from files when needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from gdmnet.data.case import CaseFiles
from gdmnet.data.volume import read_volume
from gdmnet.geometry import Spacing
from gdmnet.metrics.conventions import GDMNET
from gdmnet.metrics.evaluation import find_mask

MOST_SUBJECTS = 32  # that a judge is trained on, or that give a floor


@dataclass(frozen=True)
class Subject:
    """One subject's images on one grid, in file units.

    Attributes:
        identifier: of the case.
        real: (z, y, x).
        mask: (z, y, x), non-zero where it counts; not empty.
        spacing: mm (z, y, x).
        prediction: (z, y, x), or None.
    """

    identifier: str
    real: NDArray
    mask: NDArray
    spacing: Spacing
    prediction: NDArray | None = None


@dataclass(frozen=True)
class SubjectFiles:
    """Images on one grid; without a mask the body is computed from the real one."""

    identifier: str
    real: Path
    prediction: Path | None = None
    mask: Path | None = None


class Subjects(Sequence[Subject]):
    """Subjects that are read when they are asked for, so that one at a time is in memory."""

    def __init__(self, files: Sequence[SubjectFiles]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Subject:  # type: ignore[override]
        files = self._files[index]
        real = read_volume(files.real)
        mask, _ = find_mask(files.mask, real, GDMNET)
        prediction = None if files.prediction is None else read_volume(files.prediction).array[0]
        spacing = real.geometry.spacing
        return Subject(files.identifier, real.array[0], mask, spacing, prediction)


def subject_files(case: CaseFiles, prediction: Path | None = None) -> SubjectFiles:
    """A case with a target as a subject."""
    assert case.target is not None
    return SubjectFiles(case.identifier, case.target, prediction, case.mask)


def evenly_spread(subjects: Sequence[Subject], most: int = MOST_SUBJECTS) -> Iterator[Subject]:
    """At most so many of the subjects, spread evenly, one at a time."""
    n = len(subjects)
    for i in range(min(n, most)):
        yield subjects[i * n // min(n, most)]
