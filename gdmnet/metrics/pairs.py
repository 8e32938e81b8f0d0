"""Which file belongs to which: folders of images to cases with all their partners."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gdmnet.data.case_files import MatchedCase, match_cases
from gdmnet.data.volume import grid_complaints
from gdmnet.errors import DatasetError

_LEADING = ("prediction", "reference")  # their images say which cases there are
_ADVICE = "resample neither: predict on the right grid"


@dataclass(frozen=True)
class EvaluationFolders:
    """What is compared with what; every folder holds CASE<ending>, in any of the four formats.

    Attributes:
        predictions: images.
        references: the same cases, on the same grids.
        masks: at least these cases; None computes them by the convention's rule.
        segmentations: label maps of predictions and of references, at least these cases.
    """

    predictions: Path
    references: Path
    masks: Path | None = None
    segmentations: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class ImagePair:
    """The files of one case."""

    identifier: str
    prediction: Path
    reference: Path
    mask: Path | None = None
    segmentations: tuple[Path, Path] | None = None


def sound_pairs(
    folders: EvaluationFolders, *, keep_going: bool
) -> tuple[list[ImagePair], dict[str, str]]:
    """The cases that have all partners on one grid, and of all others what they lack.

    Raises:
        DatasetError: no such folder or no image in it; and, unless it keeps going, everything that
            any case lacks.
    """
    predicted, segmented = folders.segmentations or (None, None)
    cases, missing = match_cases(
        {
            "prediction": folders.predictions,
            "reference": folders.references,
            "mask": folders.masks,
            "predicted labels": predicted,
            "reference labels": segmented,
        },
        leading=_LEADING,
    )
    failed: dict[str, str] = {}
    for folder, names in missing.items():
        failed |= {name: f"{folder}: no image of {name}" for name in names}
    if missing and not keep_going:
        lacking = [f"{folder}: no image of {', '.join(names)}" for folder, names in missing.items()]
        raise DatasetError("; ".join(lacking) + "; every case needs its partner of the same name")
    complaints = {c.identifier: _grid_complaints(c) for c in cases if c.identifier not in failed}
    failed |= {name: "; ".join(texts) for name, texts in complaints.items() if texts}
    if not keep_going and any(complaints.values()):
        raise DatasetError("; ".join(text for texts in complaints.values() for text in texts))
    return [_pair(case) for case in cases if case.identifier not in failed], failed


def _pair(case: MatchedCase) -> ImagePair:
    prediction, reference = case.one("prediction"), case.one("reference")
    predicted, segmented = case.one("predicted labels"), case.one("reference labels")
    assert prediction is not None
    assert reference is not None
    labels = None if predicted is None or segmented is None else (predicted, segmented)
    return ImagePair(case.identifier, prediction, reference, case.one("mask"), labels)


def _grid_complaints(case: MatchedCase) -> list[str]:
    reference = case.one("reference")
    assert reference is not None
    try:
        found = grid_complaints(reference, case.others("reference"))
    except DatasetError as problem:
        return [str(problem)]
    return [f"{complaint}; {_ADVICE}" for complaint in found]
