"""Subjects of a judge that lie in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet.arrays.body import body_mask
from gdmnet.compare.judge import Subject
from gdmnet.data.volume import read_volume
from gdmnet.errors import DatasetError
from gdmnet.metrics.image import CT_LIKE_MINIMUM


@dataclass(frozen=True)
class SubjectFiles:
    """Images on one grid; without a mask the body is computed from the real one."""

    real: Path
    prediction: Path | None = None
    mask: Path | None = None


class Subjects(Sequence[Subject]):
    """Subjects that are read when they are asked for, so that one at a time is in memory."""

    def __init__(self, files: Mapping[str, SubjectFiles]) -> None:
        self._files = list(files.items())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Subject:  # type: ignore[override]
        identifier, files = self._files[index]
        real = read_volume(files.real)
        spacing = real.geometry.spacing
        if files.mask is None:
            mask, _ = body_mask(real.array, spacing, [real.array.min() <= CT_LIKE_MINIMUM])
        else:
            mask = read_volume(files.mask).array[0]
            if not mask.any():
                raise DatasetError(f"{files.mask}: the mask is empty; mark what is to be judged")
        prediction = None if files.prediction is None else read_volume(files.prediction).array[0]
        return Subject(identifier, real.array[0], mask, spacing, prediction)
