"""Predictions against references: every case scored, and all cases summarised."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet.arrays.body import body_mask, inscribed_circle
from gdmnet.data.case import Volume
from gdmnet.data.case_files import MatchedCase, images_by_case, match_cases
from gdmnet.data.volume import grid_complaints, read_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import Spacing
from gdmnet.metrics import image
from gdmnet.metrics.conventions import (
    CONVENTIONS,
    GDMNET,
    Convention,
    DataRange,
    EvaluationSettings,
    is_ct_like,
)
from gdmnet.metrics.plausibility import plausibility
from gdmnet.metrics.similarity import masked_ssim, ms_ssim, ssim
from gdmnet.metrics.statistics import Values
from gdmnet.metrics.structures import score_structures
from gdmnet.metrics.summary import HU, Summary, summarise
from gdmnet.parallel import map_cases
from gdmnet.tomography.water_equivalent import ELECTRON_DENSITY, depth_errors, read_density_table

METRICS = ("mae", "bias", "psnr", "ssim", "ms_ssim", "sharpness")
"""The metrics of every case; bands, windows and plausibility come beside them."""
_LEADING = ("prediction", "reference")  # their images say which cases there are
_ADVICE = "resample neither: predict on the right grid"
_MASKS = {"given": "given", "circle": "the field of view: the largest circle in each axial slice"}


@dataclass(frozen=True)
class EvaluationFolders:
    """What is compared with what; every folder holds CASE<ending>, in any of the four formats."""

    predictions: Path
    references: Path  # the cases of the predictions at least, on the same grids; so all below
    masks: Path | None = None  # None computes them by the convention's rule
    segmentations: tuple[Path, Path] | None = None  # label maps of predictions and references
    regions: Path | None = None  # label maps, each of whose labels is scored by itself


@dataclass(frozen=True)
class ImagePair:
    """The files of one case; see `EvaluationFolders`."""

    identifier: str
    prediction: Path
    reference: Path
    mask: Path | None = None
    segmentations: tuple[Path, Path] | None = None
    regions: Path | None = None

    def complaints(self) -> list[str]:
        """What is not on the grid of the reference, or cannot be read; reads headers only."""
        partners = self.prediction, self.mask, *(self.segmentations or ()), self.regions
        try:
            found = grid_complaints(self.reference, [path for path in partners if path is not None])
        except DatasetError as problem:
            return [str(problem)]
        return [f"{complaint}; {_ADVICE}" for complaint in found]


@dataclass(frozen=True)
class EvaluatedCase:
    """A case's values, or why it has none."""

    values: Values
    mask_rule: str = ""  # as of `find_mask`
    ct_like: bool = True  # the reference looks like HU
    failure: str | None = None


def evaluate_folders(
    folders: EvaluationFolders, settings: EvaluationSettings, *, n_processes: int = 1
) -> Summary:
    """Score every prediction against the reference of its name.

    Raises:
        DatasetError: a folder is missing; or, unless it keeps going, a partner is missing, two
            grids differ (all are listed), or an image cannot be scored. Also if no case is left.
    """
    every = settings.every_reference
    pairs, failed = sound_pairs(folders, keep_going=settings.keep_going, every_reference=every)
    found = evaluate_pairs(pairs, settings, n_processes=n_processes)
    cases = {pair.identifier: case for pair, case in zip(pairs, found, strict=True)}
    failed |= {name: case.failure for name, case in cases.items() if case.failure is not None}
    evaluated = {name: case for name, case in cases.items() if case.failure is None}
    if not evaluated:
        raise DatasetError("no case could be evaluated: " + "; ".join(failed.values()))
    masks = None if folders.masks is None else str(folders.masks)
    failed = dict(sorted(failed.items()))
    summary = summarise_cases(evaluated, settings, masks=masks, failed=failed)
    references = images_by_case(folders.references).keys()
    unused = references - cases.keys() - failed.keys()
    if unused:
        n_used, n = len(references) - len(unused), len(references)
        used = f"{n_used} of {n} references used: the others have no prediction"
        note = used if summary.note is None else f"{summary.note}; {used}"
        summary = dataclasses.replace(summary, note=note)
    return summary


def sound_pairs(
    folders: EvaluationFolders, *, keep_going: bool, every_reference: bool = False
) -> tuple[list[ImagePair], dict[str, str]]:
    """The predictions that have all partners on one grid, and of all others what they lack.

    With `every_reference`, a reference without a prediction lacks something, too.

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
            "regions": folders.regions,
        },
        leading=_LEADING if every_reference else _LEADING[:1],
    )
    failed: dict[str, str] = {}
    for folder, names in missing.items():
        failed |= {name: f"{folder}: no image of {name}" for name in names}
    if missing and not keep_going:
        lacking = [f"{folder}: no image of {', '.join(names)}" for folder, names in missing.items()]
        raise DatasetError("; ".join(lacking) + "; every case needs its partner of the same name")
    pairs = [_pair(case) for case in cases if case.identifier not in failed]
    complaints = {pair.identifier: "; ".join(pair.complaints()) for pair in pairs}
    wrong = {name: text for name, text in complaints.items() if text}
    if wrong and not keep_going:
        raise DatasetError("; ".join(wrong.values()))
    return [pair for pair in pairs if pair.identifier not in wrong], failed | wrong


def evaluate_pairs(
    pairs: Sequence[ImagePair], settings: EvaluationSettings, *, n_processes: int = 1
) -> list[EvaluatedCase]:
    """Score cases in several processes, and return them in their order.

    Raises:
        DatasetError: an image cannot be read or scored, unless it keeps going.
    """
    evaluate = partial(_attempt if settings.keep_going else evaluate_pair, settings)
    return map_cases(evaluate, pairs, n_processes=n_processes, title="evaluating")


def summarise_cases(
    cases: Mapping[str, EvaluatedCase],
    settings: EvaluationSettings,
    *,
    masks: str | None = None,
    failed: Mapping[str, str] | None = None,
) -> Summary:
    """The summary of evaluated cases; `masks` is where given masks come from."""
    rules = ", ".join(sorted({case.mask_rule for case in cases.values()}))
    return summarise(
        {name: case.values for name, case in cases.items()},
        convention=settings.convention,
        units=HU if all(case.ct_like for case in cases.values()) else "targets' units",
        mask=masks or describe_mask(rules),
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
    """Score one case.

    Raises:
        DatasetError: an image cannot be read or scored, or is not on the grid of the reference.
    """
    complaints = pair.complaints()
    if complaints:
        raise DatasetError("; ".join(complaints))
    volume = read_volume(pair.reference)
    reference, spacing = volume.array[0], volume.geometry.spacing
    mask, mask_rule = find_mask(pair.mask, volume, settings.convention)
    prediction = read_volume(pair.prediction).array[0]
    if not settings.allow_constant:
        _refuse_constant(pair.prediction, prediction[mask != 0])
    matched: Values = {}
    look = None
    if settings.match_intensity == "linear":
        gain, offset = image.match_linear(prediction, reference, mask)
        look = image.match_mean_and_std(prediction, reference, mask != 0)
        prediction = gain * prediction + offset
        matched = {"gain": gain, "offset": offset}
    rules, also = settings.convention, settings.plausibility
    images = prediction, reference, mask
    scores = score(*images, spacing, convention=rules, with_plausibility=also, look=look)
    too_large = [name for name, value in scores.items() if not math.isfinite(value or 0)]
    if too_large:
        names = ", ".join(too_large)
        raise DatasetError(f"{pair.prediction}: its values are too large for {names}")
    ct_like = is_ct_like(reference)
    regions = None if pair.regions is None else _labels(pair.regions)
    if regions is not None:
        scores |= score_regions(prediction, reference, regions)
    if settings.wepl:
        if not ct_like:
            raise DatasetError(f"{pair.reference}: is no CT in HU: depths (--wepl) need one")
        scores |= _depths((*images, spacing), settings, regions)
    del prediction, look, reference, volume, images
    if pair.segmentations is not None:
        predicted, segmented = map(_labels, pair.segmentations)
        scores |= score_structures(predicted, segmented, spacing)
    return EvaluatedCase({**scores, **matched}, mask_rule, ct_like)


def score_regions(prediction: NDArray, reference: NDArray, labels: NDArray) -> Values:
    """MAE and bias within every label above 0: mae_region_<label> and bias_region_<label>."""
    values: Values = {}
    for label in (int(number) for number in np.unique(labels) if number > 0):
        errors = (prediction[labels == label] - reference[labels == label]).astype(np.float64)
        values[f"mae_region_{label}"] = float(np.abs(errors).mean())
        values[f"bias_region_{label}"] = float(errors.mean())
    return values


def _depths(
    images: tuple[NDArray, NDArray, NDArray, Spacing],
    settings: EvaluationSettings,
    regions: NDArray | None,
) -> Values:
    """wepl_p95, the mean over the angles; for each wepl_p95_<angle>, wepl_bias_<angle>; regions."""
    path = settings.density_table
    table = ELECTRON_DENSITY if path is None else read_density_table(path)
    found = depth_errors(*images, settings.wepl, table=table, regions=regions)
    values: Values = {"wepl_p95": float(np.mean([errors.p95 for errors in found.values()]))}
    for angle, errors in found.items():
        values |= {f"wepl_bias_{angle:g}": errors.mean, f"wepl_p95_{angle:g}": errors.p95}
        for label, error in errors.to_centre.items():
            values[f"wepl_region_{label}_{angle:g}"] = error
    return values


def find_mask(path: Path | None, reference: Volume, convention: str) -> tuple[NDArray, str]:
    """Where errors count, uint8 (z, y, x), and the rule: "given", "circle" or one of `body_mask`.

    Raises:
        DatasetError: the mask is empty, or the one at `path` cannot be read.
    """
    shape, spacing = reference.geometry.shape, reference.geometry.spacing
    if path is not None:
        mask, rule = (read_volume(path).array[0] > 0).astype(np.uint8), "given"
    elif CONVENTIONS[convention].in_circle:
        mask, rule = inscribed_circle(shape, spacing), "circle"
    else:
        mask, rule = body_mask(reference.array, spacing, [is_ct_like(reference.array)])
    if not mask.any():
        where = path or describe_mask(rule)
        raise DatasetError(f"{where}: the mask is empty; mark the region to be scored")
    return mask, rule


def describe_mask(rule: str, whose: str = "reference") -> str:
    """The rule of `find_mask` in words; `whose` is the image that a body is computed from."""
    return _MASKS.get(rule, f"the body, computed from the {whose} ({rule})")


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


def _note(settings: EvaluationSettings, others: list[str]) -> str | None:
    if CONVENTIONS[settings.convention].span is None or not others:
        return None
    return (
        f"{settings.convention} is for CT in HU, but these references never go below -500:"
        f" {', '.join(others)}"
    )


def _pair(case: MatchedCase) -> ImagePair:
    """The files of a case that lacks none."""
    (prediction,), (reference,) = case.images["prediction"], case.images["reference"]
    predicted, segmented = case.one("predicted labels"), case.one("reference labels")
    labels = None if predicted is None or segmented is None else (predicted, segmented)
    mask, regions = case.one("mask"), case.one("regions")
    return ImagePair(case.identifier, prediction, reference, mask, labels, regions)


def score(
    prediction: NDArray,
    reference: NDArray,
    mask: NDArray,
    spacing: Spacing,
    *,
    convention: str = GDMNET,
    with_plausibility: bool = True,
    look: NDArray | None = None,
) -> Values:
    """Every metric of `METRICS`, the tissue bands, the convention's windows, plausibility.

    Args:
        prediction: (z, y, x), file units (CT: HU).
        reference: (z, y, x), the same; in HU the bands are measured too.
        mask: (z, y, x), non-zero where errors count; not empty.
        spacing: mm (z, y, x).
        convention: a name of `CONVENTIONS`.
        with_plausibility: also the metrics of `PLAUSIBILITY`.
        look: the prediction as sharpness and plausibility see it, if its intensities were matched
            in another way for them.

    Returns:
        Metric -> value, and `data_range`, that of PSNR, SSIM and MS-SSIM. None where a metric is
        not defined (PSNR of a perfect prediction).
    """
    look = prediction if look is None else look
    rules = CONVENTIONS[convention]
    hounsfield = rules.span is not None or is_ct_like(reference)
    span = rules.span or image.data_range(reference, mask)
    values: Values = dict.fromkeys(METRICS)
    values["bias"] = image.bias(prediction, reference, mask)
    values["sharpness"] = image.sharpness(look, reference, mask, spacing)
    values |= _errors_and_ssim(prediction, reference, mask, span, rules)
    values["ms_ssim"] = ms_ssim(prediction, reference, mask, span)
    values["data_range"] = span.width
    for name, window in rules.windows.items():
        inner = _errors_and_ssim(prediction, reference, mask, window, rules)
        values |= {f"{metric}_window_{name}": value for metric, value in inner.items()}
    if hounsfield:
        values |= image.bands(prediction, reference, mask)
    if with_plausibility:
        values |= plausibility(look, reference, mask, spacing, hounsfield=hounsfield)
    return values


def _errors_and_ssim(
    prediction: NDArray, reference: NDArray, mask: NDArray, span: DataRange, rules: Convention
) -> Values:
    images = prediction, reference
    if rules.clips_psnr:
        clip = partial(np.clip, a_min=span.low, a_max=span.low + span.width)
        images = clip(prediction), clip(reference)
    similarity = masked_ssim if rules.inner_ssim else ssim
    return {
        "mae": image.mae(*(images if rules.clips_mae else (prediction, reference)), mask),
        "psnr": image.psnr(*images, mask, span.width),
        "ssim": similarity(*images, mask, span),
    }
