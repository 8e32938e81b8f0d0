"""What a comparison found: methods on the same cases, what they cost, and who is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from gdmnet.compare.settings import ComparisonSettings
from gdmnet.compare.verdict import JudgeVerdict
from gdmnet.errors import DatasetError
from gdmnet.metrics.statistics import (
    Paired,
    Values,
    aggregate,
    bootstrap_interval,
    compare_paired,
    metric_names,
)
from gdmnet.metrics.titles import penalty

FIDELITY, PLAUSIBILITY = "fidelity", "plausibility"
CRITERIA = (FIDELITY, PLAUSIBILITY)
_MEASURED = ("psnr", "ssim", "ms_ssim", "sharpness", "histogram_w1", "spectrum_distance")
COMPARED = (FIDELITY, *_MEASURED, PLAUSIBILITY)
"""Metrics that every case has, in the order of the tables."""


@dataclass(frozen=True)
class MethodFacts:
    """What a method is and what it was given; None where nobody knows."""

    objective: str
    configuration: str
    options: dict[str, Any]
    model: str
    folds: tuple[str, ...]
    in_hu: bool
    command: str  # the gdm_predict that predicts with it
    encoder: str | None
    device: str  # that trained it
    precision: str
    training_steps: int | None  # of a fold
    training_seconds: float | None  # of a fold, the mean: epochs with validation, without encoder


@dataclass(frozen=True)
class MethodFigures:
    """A method on the cases of a comparison; costs are None where nobody measured."""

    cases: dict[str, Values]  # with the criteria `fidelity` and `plausibility` beside the metrics
    aggregate: dict[str, Values]
    verdict: JudgeVerdict
    seconds: float | None = None  # mean over the cases
    calls: float | None = None  # of the network, all folds together; mean over the cases
    peak_mb: float | None = None  # largest of the cases, 2^20 bytes
    parameters: int | None = None  # of one network


@dataclass(frozen=True)
class BestMethod:
    """The best method by one criterion, and rival -> the best minus the rival."""

    name: str
    against: dict[str, Paired]


@dataclass(frozen=True)
class Comparison:
    """What compare.json holds."""

    version: str  # of gdmnet
    dataset: str
    cases_from: str  # where the cases come from, in words
    cases: tuple[str, ...]  # that all methods were judged on, and none was trained on
    convention: str
    match_intensity: str | None
    units: str  # of `fidelity`: "HU", or "%" of each reference's range
    mask: str  # where errors count, in words
    facts: dict[str, MethodFacts]  # by method
    figures: dict[str, MethodFigures]  # by method
    reference: str  # the method that the others are tested against
    against: dict[str, dict[str, Paired]]  # rival -> metric -> the rival minus the reference
    best: dict[str, BestMethod]  # by criterion
    winners: dict[str, str]  # metric -> method, see `find_winners`
    front: tuple[str, ...]  # beaten by none in fidelity, plausibility and network calls at once
    settings: ComparisonSettings | None = None  # of all variants; None for models that were there
    notes: tuple[str, ...] = ()  # what was left out and what the figures cannot show
    made: dict[str, str] = field(default_factory=dict)  # the comparison's own command and date


# One distance from the real images for each aspect: values, their steps, texture, edges, detail.
_DISTANCES = ("histogram_w1", "gradient_w1", "spectrum_distance", "edge_width", "sharpness")

Cases = Mapping[str, Values]
"""Case -> metric -> value."""


def add_criteria(methods: Mapping[str, Cases], *, in_hu: bool) -> None:
    """Give every case of every method its `fidelity` and `plausibility`; for both, less is better.

    Fidelity is the mean absolute error: in HU, or in % of the reference's range, so that cases of
    different scales count alike. Plausibility is the distance from the real image as a share of
    that of the methods' mean, averaged over histogram, gradients, spectrum, edge width and
    sharpness (for ratios |log|): 1 is as near as the average method, 0.8 is nearer by a fifth.
    """
    for case in next(iter(methods.values())):
        rivals = {name: cases[case] for name, cases in methods.items()}
        shares: dict[str, list[float]] = {name: [] for name in rivals}
        for metric in _DISTANCES:
            distances = [penalty(metric, values.get(metric)) for values in rivals.values()]
            known = [d for d in distances if d is not None and isfinite(d)]
            if len(known) < len(distances):  # not defined for all: says nothing about this case
                continue
            mean = sum(known) / len(known)
            for name, distance in zip(rivals, known, strict=True):
                shares[name].append(distance / mean if mean > 0 else 1.0)
        for name, values in rivals.items():
            mae, span = values["mae"], values["data_range"]
            relative = None if mae is None or not span else 100 * mae / span
            values[FIDELITY] = mae if in_hu else relative
            own = shares[name]
            values[PLAUSIBILITY] = sum(own) / len(own) if own else None


def paired_metrics(
    first: Cases, second: Cases, metrics: Sequence[str] | None = None
) -> dict[str, Paired]:
    """Metrics of two methods, first minus second, over the cases where both have it."""
    found = {}
    for metric in metrics or metric_names(first):
        pairs = [(values.get(metric), second[case].get(metric)) for case, values in first.items()]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        if known:
            found[metric] = compare_paired(*zip(*known, strict=True))
    return found


def find_best(methods: Mapping[str, Cases], criterion: str) -> BestMethod:
    """The method whose mean of a criterion is least, and how it differs from each other one.

    Raises:
        DatasetError: the criterion is not defined for any case.
    """
    means = {
        name: aggregate(values[criterion] for values in cases.values())["mean"]
        for name, cases in methods.items()
    }
    ranked = sorted((mean, name) for name, mean in means.items() if mean is not None)
    if not ranked:
        raise DatasetError(f"{criterion} is not defined for any case: the references are flat")
    best = ranked[0][1]
    against = {
        rival: paired_metrics(methods[best], cases, [criterion]).get(criterion)
        for rival, cases in methods.items()
        if rival != best
    }
    return BestMethod(best, {rival: one for rival, one in against.items() if one is not None})


def find_winners(methods: Mapping[str, Cases], metrics: Sequence[str]) -> dict[str, str]:
    """Metric -> the method that is better than each other one, beyond chance; it may have none.

    Better is less of a penalty, case by case: the 95 % bootstrap interval of the mean difference
    lies below 0 against every other method.
    """
    winners = {}
    for metric in metrics:
        penalties = {
            name: [penalty(metric, values.get(metric)) for values in cases.values()]
            for name, cases in methods.items()
        }
        for name, own in penalties.items():
            rivals = [other for rival, other in penalties.items() if rival != name]
            if rivals and all(_is_less(own, other) for other in rivals):
                winners[metric] = name
    return winners


def pareto_front(points: Mapping[str, Sequence[float | None]]) -> tuple[str, ...]:
    """Names of the points that no other dominates; on every axis less is better.

    A point dominates another if it is nowhere worse and somewhere better (Pareto 1906); equal
    points do not. Points, all with as many coordinates, are left out where one is unknown.
    """
    known = {name: point for name, point in points.items() if None not in point}
    all_points = np.array(list(known.values()), dtype=np.float64)  # (n, axes)
    is_beaten = [
        ((all_points <= own).all(axis=1) & (all_points < own).any(axis=1)).any()
        for own in all_points
    ]
    return tuple(name for name, beaten in zip(known, is_beaten, strict=True) if not beaten)


def _is_less(first: Sequence[float | None], second: Sequence[float | None]) -> bool:
    pairs = zip(first, second, strict=True)
    known = [a - b for a, b in pairs if a is not None and b is not None and isfinite(a - b)]
    _, high = bootstrap_interval(np.array(known, dtype=np.float64))
    return high is not None and high < 0
