"""Which of several models is best? Compared on the same unseen cases, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import log

from gdmnet.compare.candidates import Candidate
from gdmnet.data.case import CaseFiles
from gdmnet.errors import DatasetError
from gdmnet.metrics.conventions import GDMNET
from gdmnet.metrics.folders import Options, evaluate_pair
from gdmnet.metrics.paired import Paired, compare_paired
from gdmnet.metrics.pairs import Pair
from gdmnet.metrics.statistics import Values, aggregate, aggregate_cases, metric_names
from gdmnet.parallel import map_cases

FIDELITY, PLAUSIBILITY = "fidelity", "plausibility"
CRITERIA = (FIDELITY, PLAUSIBILITY)
SYNTHRAD = ("synthrad2023", "synthrad2025")
SPARSE_CT = "sparse-ct"
# One distance from the real images for each aspect: values, their steps, texture, edges, detail.
_DISTANCES = ("histogram_w1", "gradient_w1", "spectrum_distance", "edge_width", "sharpness")
_RATIOS = ("edge_width", "sharpness")  # 1 is best

Scores = dict[str, dict[str, Values]]
"""Convention -> case -> metric -> value."""


@dataclass(frozen=True)
class Comparison:
    """One metric of the best model minus that of another, over the same cases."""

    convention: str
    metric: str
    paired: Paired


@dataclass(frozen=True)
class Verdict:
    """The best model by one criterion.

    Attributes:
        model: its name.
        criterion: "fidelity" or "plausibility", a metric of the convention gdmnet.
        differs: rival -> whether the criterion differs significantly from it.
        against: rival -> every metric of every convention, best minus rival.
        command: that predicts with it.
    """

    model: str
    criterion: str
    differs: dict[str, bool]
    against: dict[str, tuple[Comparison, ...]]
    command: str


@dataclass(frozen=True)
class ModelScores:
    """A model's figures: convention -> metric -> mean, std, ... over the cases."""

    folder: str
    folds: tuple[str, ...]
    aggregate: dict[str, dict[str, Values]]
    cases: Scores


@dataclass(frozen=True)
class Contest:
    """What find_best.json holds.

    Attributes:
        version: of gdmnet.
        dataset: name.
        cases: that all models were compared on; none of them was trained on these.
        units: of `fidelity`: "HU", or "%" of the reference's range.
        match_intensity: "linear" where the target has no unit: all models were fitted.
        models: name -> figures.
        best: the verdict by each criterion.
        notes: what was left out and what the figures cannot show.
    """

    version: str
    dataset: str
    cases: tuple[str, ...]
    units: str
    match_intensity: str | None
    models: dict[str, ModelScores]
    best: dict[str, Verdict]
    notes: tuple[str, ...]


def conventions_for(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """The own one; for CT those of SynthRAD too; from CT to CT that of sparse-view CT."""
    if not all(candidate.has_unit for candidate in candidates):
        return (GDMNET,)
    sparse = (SPARSE_CT,) if all(candidate.maps_ct for candidate in candidates) else ()
    return (GDMNET, *SYNTHRAD, *sparse)


def score_candidates(
    candidates: Sequence[Candidate],
    truths: Sequence[CaseFiles],
    *,
    match_intensity: str | None,
    n_processes: int,
) -> dict[str, Scores]:
    """Every metric of every model, convention and case; with the two criteria, see `add_criteria`.

    Args:
        candidates: with a prediction for each of the cases.
        truths: the cases to compare on, with targets.
        match_intensity: "linear" or None, for all.
        n_processes: that share the work.

    Raises:
        DatasetError: an image cannot be read or does not lie on its target's grid.
    """
    conventions = conventions_for(candidates)
    items = [
        (convention, candidate.name, _pair(candidate, files))
        for files in truths
        for candidate in candidates
        for convention in conventions
    ]
    values = map_cases(
        partial(_score, match_intensity),
        items,
        n_processes=n_processes,
        name=lambda item: f"{item[2].identifier} of {item[1]}",
        title="scoring",
    )
    scores: dict[str, Scores] = {
        candidate.name: {convention: {} for convention in conventions} for candidate in candidates
    }
    for (convention, model, pair), found in zip(items, values, strict=True):
        scores[model][convention][pair.identifier] = found
    add_criteria(scores, in_hu=match_intensity is None)
    return scores


def add_criteria(scores: Mapping[str, Scores], *, in_hu: bool) -> None:
    """Give every case its `fidelity` and its `plausibility`; for both, less is better.

    Fidelity is the mean absolute error: in HU, or in % of the reference's range, so that cases of
    different scales count alike. Plausibility is the distance from the real image as a share of
    that of the models' mean, averaged over histogram, gradients, spectrum, edge width and
    sharpness (for ratios |log|): 1 is as near as the average model, 0.8 is nearer by a fifth.
    """
    cases = next(iter(scores.values()))[GDMNET]
    for case in cases:
        rivals = {model: found[GDMNET][case] for model, found in scores.items()}
        shares: dict[str, list[float]] = {model: [] for model in rivals}
        for metric in _DISTANCES:
            distances = {m: _distance(metric, values.get(metric)) for m, values in rivals.items()}
            known = [distance for distance in distances.values() if distance is not None]
            if len(known) < len(distances):  # not defined for all: says nothing about this case
                continue
            mean = sum(known) / len(known)
            for model, distance in zip(distances, known, strict=True):
                shares[model].append(distance / mean if mean > 0 else 1.0)
        for model, values in rivals.items():
            mae, span = values["mae"], values["data_range"]
            relative = None if mae is None or not span else 100 * mae / span
            values[FIDELITY] = mae if in_hu else relative
            own = shares[model]
            values[PLAUSIBILITY] = sum(own) / len(own) if own else None


def decide(scores: Mapping[str, Scores], criterion: str, command: Mapping[str, str]) -> Verdict:
    """The model whose mean of a criterion is least, and how it compares with each other model."""
    means = {
        model: aggregate(values[criterion] for values in found[GDMNET].values())["mean"]
        for model, found in scores.items()
    }
    ranked = sorted((mean, model) for model, mean in means.items() if mean is not None)
    if not ranked:
        raise DatasetError(f"{criterion} is not defined for any case: the references are flat")
    best = ranked[0][1]
    against = {
        rival: tuple(comparisons(scores[best], found))
        for rival, found in scores.items()
        if rival != best
    }
    differs = {
        rival: any(c.paired.is_significant for c in found if c.metric == criterion)
        for rival, found in against.items()
    }
    return Verdict(best, criterion, differs, against, command[best])


def figures(candidate: Candidate, scores: Scores) -> ModelScores:
    """A candidate's figures for the record."""
    return ModelScores(
        folder=str(candidate.folder),
        folds=candidate.folds,
        aggregate={name: aggregate_cases(cases) for name, cases in scores.items()},
        cases=scores,
    )


def comparisons(best: Scores, rival: Scores) -> list[Comparison]:
    """Every metric of every convention, best minus rival, over the cases where both have it."""
    found = []
    for convention, cases in best.items():
        for metric in metric_names(cases):
            pairs = [
                (values.get(metric), rival[convention][case].get(metric))
                for case, values in cases.items()
            ]
            known = [(a, b) for a, b in pairs if a is not None and b is not None]
            if known:
                first, second = zip(*known, strict=True)
                found.append(Comparison(convention, metric, compare_paired(first, second)))
    return found


def _pair(candidate: Candidate, files: CaseFiles) -> Pair:
    assert files.target is not None
    prediction = candidate.predictions[files.identifier]
    return Pair(files.identifier, prediction, files.target, files.mask, None)


def _score(match_intensity: str | None, item: tuple[str, str, Pair]) -> Values:
    convention, _, pair = item
    options = Options(
        convention=convention,
        match_intensity=match_intensity,
        with_plausibility=convention == GDMNET,
        allow_constant=True,  # a model that has collapsed is a bad model, but no bad input
    )
    return evaluate_pair(options, pair).values


def _distance(metric: str, value: float | None) -> float | None:
    if value is None or metric not in _RATIOS:
        return value
    return abs(log(value)) if value > 0 else None
