"""A folder of predictions against a folder of references: every case, then their summary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet.arrays.body import body_mask
from gdmnet.arrays.region import inscribed_circle
from gdmnet.data.case import Volume
from gdmnet.data.volume import read_volume
from gdmnet.errors import DatasetError
from gdmnet.metrics.conventions import CONVENTIONS, GDMNET
from gdmnet.metrics.image import match_linear, match_mean_and_std
from gdmnet.metrics.pairs import Folders, Pair, sound_pairs
from gdmnet.metrics.score import is_ct_like, score
from gdmnet.metrics.statistics import Values
from gdmnet.metrics.structures import score_structures
from gdmnet.metrics.summary import Summary, summarise
from gdmnet.parallel import map_cases

MATCHES = ("linear",)


@dataclass(frozen=True)
class Options:
    """How it is compared.

    Attributes:
        convention: a name of `CONVENTIONS`.
        match_intensity: "linear" fits gain >= 0 and offset to each reference first; sharpness and
            plausibility see the prediction with the reference's mean and standard deviation.
        with_plausibility: also `PLAUSIBILITY`.
        allow_constant: a prediction with a single value in the mask is scored, as a baseline.
        keep_going: a case that cannot be evaluated is noted, not raised.
        n_processes: that work on cases.

    Raises:
        ValueError: an unknown convention or match.
    """

    convention: str = GDMNET
    match_intensity: str | None = None
    with_plausibility: bool = True
    allow_constant: bool = False
    keep_going: bool = False
    n_processes: int = 1

    def __post_init__(self) -> None:
        if self.match_intensity not in (None, *MATCHES):
            raise ValueError(f"unknown match {self.match_intensity!r}; known: {', '.join(MATCHES)}")
        if self.convention not in CONVENTIONS:
            known = ", ".join(CONVENTIONS)
            raise ValueError(f"unknown convention {self.convention!r}; known: {known}")


@dataclass(frozen=True)
class Scored:
    """A case's values, where its mask came from, whether it looks like HU; or why it has none."""

    values: Values
    rule: str = ""
    ct_like: bool = True
    failure: str | None = None


DEFAULTS = Options()


def evaluate_folders(folders: Folders, options: Options = DEFAULTS) -> Summary:
    """Score every prediction against the reference of its name.

    Raises:
        DatasetError: a folder is missing; or, unless it keeps going, a partner is missing, two
            grids differ (all are listed), or an image cannot be scored. Also if no case is left.
    """
    pairs, failed = sound_pairs(folders, keep_going=options.keep_going)
    results = map_cases(
        partial(_attempt if options.keep_going else evaluate_pair, options),
        pairs,
        n_processes=options.n_processes,
        name=lambda pair: pair.identifier,
        title="evaluating",
    )
    scored = {}
    for pair, result in zip(pairs, results, strict=True):
        if result.failure is None:
            scored[pair.identifier] = result
        else:
            failed[pair.identifier] = result.failure
    if not scored:
        raise DatasetError("no case could be evaluated: " + "; ".join(failed.values()))
    return summarise(
        {name: result.values for name, result in scored.items()},
        convention=options.convention,
        units="as in the references' files (CT: HU)",
        mask=_mask_in_words(folders, sorted({result.rule for result in scored.values()})),
        match_intensity=options.match_intensity,
        failed=dict(sorted(failed.items())),
        note=_note(options, [name for name, result in scored.items() if not result.ct_like]),
    )


def _attempt(options: Options, pair: Pair) -> Scored:
    try:
        return evaluate_pair(options, pair)
    except DatasetError as problem:
        return Scored({}, failure=str(problem))


def evaluate_pair(options: Options, pair: Pair) -> Scored:
    """Score one case whose files lie on one grid.

    Raises:
        DatasetError: an image cannot be read or scored.
    """
    volume = read_volume(pair.reference)
    reference, spacing = volume.array[0], volume.geometry.spacing
    mask, rule = find_mask(pair.mask, volume, options.convention)
    prediction = read_volume(pair.prediction).array[0]
    values = prediction[mask != 0]
    if values.min() == values.max() and not options.allow_constant:
        raise DatasetError(
            f"{pair.prediction}: is {values[0]:g} everywhere inside the mask; predict this case"
            " anew, or give --allow-constant if it is a baseline"
        )
    del values
    matched: Values = {}
    look = None
    if options.match_intensity == "linear":
        gain, offset = match_linear(prediction, reference, mask)
        look = match_mean_and_std(prediction, reference, mask != 0)
        prediction = gain * prediction + offset
        matched = {"gain": gain, "offset": offset}
    scores = score(
        prediction,
        reference,
        mask,
        spacing,
        convention=options.convention,
        with_plausibility=options.with_plausibility,
        look=look,
    )
    ct_like = is_ct_like(reference)
    del prediction, look, reference, volume
    structures: Values = {}
    if pair.segmentations is not None:
        predicted, segmented = map(_labels, pair.segmentations)
        structures = score_structures(predicted, segmented, spacing)
    return Scored({**scores, **structures, **matched}, rule, ct_like)


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


def _mask_in_words(folders: Folders, rules: list[str]) -> str:
    if folders.masks is not None:
        return str(folders.masks)
    if rules == ["circle"]:
        return "the field of view: the largest circle in each axial slice"
    return f"the body, computed from the reference ({', '.join(rules)})"


def _note(options: Options, others: list[str]) -> str | None:
    if CONVENTIONS[options.convention].span is None or not others:
        return None
    return (
        f"{options.convention} is for CT in HU, but these references never go below -500:"
        f" {', '.join(others)}"
    )
