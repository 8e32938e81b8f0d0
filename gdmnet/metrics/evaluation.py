"""Predictions against references: every case scored, and all cases summarised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet.arrays.body import body_mask, inscribed_circle
from gdmnet.data.case import Volume
from gdmnet.data.volume import read_volume
from gdmnet.errors import DatasetError
from gdmnet.metrics.conventions import CONVENTIONS, EvaluationSettings
from gdmnet.metrics.image import match_linear, match_mean_and_std
from gdmnet.metrics.pairs import EvaluationFolders, ImagePair, sound_pairs
from gdmnet.metrics.score import is_ct_like, score
from gdmnet.metrics.statistics import Values
from gdmnet.metrics.structures import score_structures
from gdmnet.metrics.summary import Summary, summarise
from gdmnet.parallel import map_cases


@dataclass(frozen=True)
class EvaluatedCase:
    """A case's values, where its mask came from, whether it looks like HU; or why it has none."""

    values: Values
    mask_rule: str = ""
    ct_like: bool = True
    failure: str | None = None


def evaluate_folders(
    folders: EvaluationFolders, settings: EvaluationSettings, *, n_processes: int = 1
) -> Summary:
    """Score every prediction against the reference of its name.

    Raises:
        DatasetError: a folder is missing; or, unless it keeps going, a partner is missing, two
            grids differ (all are listed), or an image cannot be scored. Also if no case is left.
    """
    pairs, failed = sound_pairs(folders, keep_going=settings.keep_going)
    found = evaluate_pairs(pairs, settings, n_processes=n_processes)
    cases = {pair.identifier: case for pair, case in zip(pairs, found, strict=True)}
    failed |= {name: case.failure for name, case in cases.items() if case.failure is not None}
    evaluated = {name: case for name, case in cases.items() if case.failure is None}
    if not evaluated:
        raise DatasetError("no case could be evaluated: " + "; ".join(failed.values()))
    masks = None if folders.masks is None else str(folders.masks)
    return summarise_cases(evaluated, settings, masks=masks, failed=dict(sorted(failed.items())))


def evaluate_pairs(
    pairs: Sequence[ImagePair], settings: EvaluationSettings, *, n_processes: int = 1
) -> list[EvaluatedCase]:
    """Score cases in several processes, and return them in their order.

    Raises:
        DatasetError: an image cannot be read or scored, unless it keeps going.
    """
    return map_cases(
        partial(_attempt if settings.keep_going else evaluate_pair, settings),
        pairs,
        n_processes=n_processes,
        name=lambda pair: pair.identifier,
        title="evaluating",
    )


def summarise_cases(
    cases: Mapping[str, EvaluatedCase],
    settings: EvaluationSettings,
    *,
    masks: str | None = None,
    failed: Mapping[str, str] | None = None,
) -> Summary:
    """The summary of evaluated cases; `masks` is where given masks come from."""
    rules = sorted({case.mask_rule for case in cases.values()})
    return summarise(
        {name: case.values for name, case in cases.items()},
        convention=settings.convention,
        units="as in the references' files (CT: HU)",
        mask=masks or _mask_in_words(rules),
        match_intensity=settings.match_intensity,
        failed=failed,
        note=_note(settings, [name for name, case in cases.items() if not case.ct_like]),
    )


def _attempt(settings: EvaluationSettings, pair: ImagePair) -> EvaluatedCase:
    try:
        return evaluate_pair(settings, pair)
    except DatasetError as problem:
        return EvaluatedCase({}, failure=str(problem))


def evaluate_pair(settings: EvaluationSettings, pair: ImagePair) -> EvaluatedCase:
    """Score one case whose files lie on one grid.

    Raises:
        DatasetError: an image cannot be read or scored.
    """
    volume = read_volume(pair.reference)
    reference, spacing = volume.array[0], volume.geometry.spacing
    mask, mask_rule = find_mask(pair.mask, volume, settings.convention)
    prediction = read_volume(pair.prediction).array[0]
    if not settings.allow_constant:
        _refuse_constant(pair.prediction, prediction[mask != 0])
    matched: Values = {}
    look = None
    if settings.match_intensity == "linear":
        gain, offset = match_linear(prediction, reference, mask)
        look = match_mean_and_std(prediction, reference, mask != 0)
        prediction = gain * prediction + offset
        matched = {"gain": gain, "offset": offset}
    scores = score(
        prediction,
        reference,
        mask,
        spacing,
        convention=settings.convention,
        with_plausibility=settings.plausibility,
        look=look,
    )
    ct_like = is_ct_like(reference)
    del prediction, look, reference, volume
    if pair.segmentations is not None:
        predicted, segmented = map(_labels, pair.segmentations)
        scores |= score_structures(predicted, segmented, spacing)
    return EvaluatedCase({**scores, **matched}, mask_rule, ct_like)


def find_mask(path: Path | None, reference: Volume, convention: str) -> tuple[NDArray, str]:
    """Where errors count, uint8 (z, y, x), and the rule: "given", "circle" or one of `body_mask`.

    Raises:
        DatasetError: the mask at `path` is empty or cannot be read.
    """
    geometry = reference.geometry
    if path is not None:
        mask = (read_volume(path).array[0] > 0).astype(np.uint8)
        if not mask.any():
            raise DatasetError(f"{path}: the mask is empty; mark the region to be scored")
        return mask, "given"
    if CONVENTIONS[convention].in_circle:
        return inscribed_circle(geometry.shape, geometry.spacing), "circle"
    return body_mask(reference.array, geometry.spacing, [is_ct_like(reference.array)])


def _labels(path: Path) -> NDArray:
    values = read_volume(path).array[0]
    labels = np.rint(values).astype(np.int32)
    if labels.min() < 0 or not np.array_equal(labels, values):
        raise DatasetError(f"{path}: a segmentation holds whole numbers from 0; this one does not")
    return labels


def _refuse_constant(path: Path, values: NDArray) -> None:
    if values.min() == values.max():
        raise DatasetError(
            f"{path}: is {values[0]:g} everywhere inside the mask; predict this case anew, or give"
            " --allow-constant if it is a baseline"
        )


def _mask_in_words(rules: list[str]) -> str:
    if rules == ["given"]:
        return "given"
    if rules == ["circle"]:
        return "the field of view: the largest circle in each axial slice"
    return f"the body, computed from the reference ({', '.join(rules)})"


def _note(settings: EvaluationSettings, others: list[str]) -> str | None:
    if CONVENTIONS[settings.convention].span is None or not others:
        return None
    return (
        f"{settings.convention} is for CT in HU, but these references never go below -500:"
        f" {', '.join(others)}"
    )
