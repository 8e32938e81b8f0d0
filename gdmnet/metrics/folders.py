"""A folder of predictions against a folder of references: every case, then their summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gdmnet.arrays.body import body_mask
from gdmnet.data.volume import FORMATS, read_geometry, read_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference
from gdmnet.metrics.image import CT_LIKE_MINIMUM, CT_RANGE, match_linear
from gdmnet.metrics.score import METRICS, score
from gdmnet.parallel import map_cases

CONVENTION = "gdmnet"
MATCHES = ("linear",)

Values = dict[str, float | None]


@dataclass(frozen=True)
class Summary:
    """What summary.json holds.

    Attributes:
        convention: "gdmnet": errors inside the mask, nothing clipped, SSIM over the full map.
        units: of prediction and reference.
        data_range: of PSNR and SSIM where all cases share it, else how each case's was found.
        mask: where the masks come from.
        match_intensity: None, or "linear" where predictions were fitted to the references first.
        cases: identifier -> metric -> value; None where a metric is not defined. Each case has
            its `data_range`, and with a match its `gain` and `offset`.
        aggregate: metric -> mean, std (of the population), median, min, max, count of the cases
            where it is defined.
        note: what a reader must know beside the figures, if anything.
    """

    convention: str
    units: str
    data_range: float | str
    mask: str
    match_intensity: str | None
    cases: dict[str, Values]
    aggregate: dict[str, Values]
    note: str | None = None


@dataclass(frozen=True)
class _Pair:
    identifier: str
    prediction: Path
    reference: Path
    mask: Path | None
    match_intensity: str | None


def evaluate_folders(
    predictions: Path,
    references: Path,
    masks: Path | None = None,
    *,
    match_intensity: str | None = None,
    n_processes: int = 1,
) -> Summary:
    """Score every prediction against the reference of its name.

    Args:
        predictions: folder of CASE<ending>, in any of the four formats.
        references: the same cases, on the same grids.
        masks: folder of masks that hold at least these cases; None computes the body of each
            reference.
        match_intensity: "linear" fits gain >= 0 and offset to each reference first.
        n_processes: that work on cases.

    Raises:
        DatasetError: a folder or a partner is missing, or two grids differ; all are listed.
        ValueError: an unknown match.
    """
    if match_intensity not in (None, *MATCHES):
        raise ValueError(f"unknown match {match_intensity!r}; known: {', '.join(MATCHES)}")
    pairs = _pairs(predictions, references, masks, match_intensity)
    _require_same_grids(pairs)
    results = map_cases(
        _evaluate,
        pairs,
        n_processes=n_processes,
        name=lambda pair: pair.identifier,
        title="evaluating",
    )
    cases = {pair.identifier: values for pair, (values, _) in zip(pairs, results, strict=True)}
    rules = sorted({rule for _, rule in results})
    computed = f"the body, computed from the reference ({', '.join(rules)})"
    return Summary(
        convention=CONVENTION,
        units="as in the references' files (CT: HU)",
        data_range=shared_range(cases),
        mask=computed if masks is None else str(masks),
        match_intensity=match_intensity,
        cases=cases,
        aggregate={
            metric: aggregate([case[metric] for case in cases.values()]) for metric in METRICS
        },
    )


def aggregate(values: list[float | None]) -> Values:
    """Mean, std (of the population), median, min, max and count of the values that are defined."""
    defined = np.array([value for value in values if value is not None])
    if defined.size == 0:
        return {"mean": None, "std": None, "median": None, "min": None, "max": None, "count": 0}
    return {
        "mean": float(defined.mean()),
        "std": float(defined.std()),
        "median": float(np.median(defined)),
        "min": float(defined.min()),
        "max": float(defined.max()),
        "count": int(defined.size),
    }


def images_by_case(folder: Path) -> dict[str, Path]:
    """The images of a folder by case name; other files are left alone.

    Raises:
        DatasetError: no such folder, no image in it, or a case in two formats.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in FORMATS if path.name.endswith(ending)), None)
        if ending is None or path.name.startswith(".") or not path.is_file():
            continue
        name = path.name.removesuffix(ending)
        if name in found:
            raise DatasetError(f"{path}: {found[name].name} is the same case; keep one of the two")
        found[name] = path
    if not found:
        raise DatasetError(f"{folder}: no image here ({', '.join(FORMATS)})")
    return found


def _pairs(
    predictions: Path, references: Path, masks: Path | None, match_intensity: str | None
) -> list[_Pair]:
    guesses, truths = images_by_case(predictions), images_by_case(references)
    regions = None if masks is None else images_by_case(masks)
    complaints = [
        _missing(predictions, sorted(set(truths) - set(guesses))),
        _missing(references, sorted(set(guesses) - set(truths))),
    ]
    if masks is not None and regions is not None:
        complaints.append(_missing(masks, sorted(set(truths) - set(regions))))
    told = [complaint for complaint in complaints if complaint]
    if told:
        raise DatasetError("; ".join(told) + "; every case needs its partner of the same name")
    return [
        _Pair(name, guesses[name], truths[name], (regions or {}).get(name), match_intensity)
        for name in sorted(truths)
    ]


def _missing(folder: Path, names: list[str]) -> str:
    return f"{folder}: no image of {', '.join(names)}" if names else ""


def _require_same_grids(pairs: list[_Pair]) -> None:
    complaints = []
    for pair in pairs:
        wanted = read_geometry(pair.reference)
        for path in (pair.prediction, pair.mask):
            difference = None if path is None else grid_difference(read_geometry(path), wanted)
            if difference is not None:
                complaints.append(f"{path} is not on the grid of {pair.reference}: {difference}")
    if complaints:
        raise DatasetError("; ".join(complaints) + "; resample neither: predict on the right grid")


def _evaluate(pair: _Pair) -> tuple[Values, str]:
    prediction = read_volume(pair.prediction).array[0]
    volume = read_volume(pair.reference)
    reference, spacing = volume.array[0], volume.geometry.spacing
    if pair.mask is None:
        is_ct = float(reference.min()) <= CT_LIKE_MINIMUM
        mask, rule = body_mask(volume.array, spacing, [is_ct])
    else:
        mask, rule = (read_volume(pair.mask).array[0] > 0).astype(np.uint8), "given"
        if not mask.any():
            raise DatasetError(f"{pair.mask}: the mask is empty; mark the region to be scored")
    matched: Values = {}
    if pair.match_intensity == "linear":
        gain, offset = match_linear(prediction, reference, mask)
        prediction = gain * prediction + offset
        matched = {"gain": gain, "offset": offset}
    return {**score(prediction, reference, mask, spacing), **matched}, rule


def shared_range(cases: dict[str, Values]) -> float | str:
    """The data range that all cases share, or how each case's own was found."""
    if all(case["data_range"] == CT_RANGE for case in cases.values()):
        return CT_RANGE
    return "per case: percentiles 0.5 to 99.5 of the reference inside the mask (HU: 4095)"
