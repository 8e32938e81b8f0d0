"""What a comparison found: every method on the same held-out cases, with what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, ClassVar

from gdmnet.compare.contest import (
    FIDELITY,
    PLAUSIBILITY,
    Comparison,
    Scores,
    add_criteria,
    comparisons,
)
from gdmnet.compare.costs import Costs
from gdmnet.compare.pareto import pareto_front
from gdmnet.compare.verdict import Verdict
from gdmnet.metrics.conventions import GDMNET
from gdmnet.metrics.paired import SIGNIFICANT
from gdmnet.metrics.statistics import Values, aggregate_cases
from gdmnet.metrics.summary import Summary
from gdmnet.training.settings import EncoderSettings

VOLUME, SLAB = "volume", "slab"
"""What is judged: whole volumes, or the same central slab of each."""


@dataclass(frozen=True)
class Settings:
    """What all variants share, and what settings.json holds: a comparison goes on as it began.

    Attributes:
        dataset: name.
        configuration: of its plan.
        folds: that are trained; their networks are combined on test cases.
        epochs: of every variant, in equal-steps mode; None in equal-time mode.
        minutes: of training a fold, in equal-time mode.
        iterations: steps an epoch.
        learning_rate: None is the preset's.
        seed: of all trainings.
        precision: "auto" or as asked.
        encoder: of those that need one; its own number of steps is settled.
        step_size: of the sliding window.
        judge_iterations: steps of the judge's training.
    """

    SCHEMA: ClassVar[int] = 1
    schema: int
    dataset: str
    configuration: str
    folds: tuple[str, ...]
    epochs: int | None
    minutes: float | None
    iterations: int
    learning_rate: float | None
    seed: int
    precision: str
    encoder: EncoderSettings
    step_size: float
    judge_iterations: int


@dataclass(frozen=True)
class MethodFacts:
    """What a method is and what it was given.

    Attributes:
        objective: that trained it.
        options: of the objective.
        steps: of the sampler; None for its default, or for one that calls its network once.
        model: its folder.
        training_steps: of a fold.
        training_seconds: of a fold, the mean; epochs with their validation, without the encoder's.
        encoder: of the features, if it has any.
        parameters: of one network.
        calls_a_window: evaluations of one network for one window.
        folds: whose networks are combined for a volume.
        device: that predicted.
        precision: it computed in.
    """

    objective: str
    options: dict[str, Any]
    steps: int | None
    model: str
    training_steps: int
    training_seconds: float
    encoder: str | None
    parameters: int
    calls_a_window: int
    folds: int
    device: str
    precision: str


@dataclass(frozen=True)
class Figures:
    """A method on some cases.

    Attributes:
        cases: identifier -> metric -> value, with the criteria `fidelity` and `plausibility`.
        aggregate: metric -> the statistics over the cases.
        verdict: of the judge.
        seconds: a case, the mean.
        calls: of the network a case, the mean; all folds together.
        peak_mb: the largest.
    """

    cases: dict[str, Values]
    aggregate: dict[str, Values]
    verdict: Verdict
    seconds: float
    calls: float
    peak_mb: float | None


@dataclass(frozen=True)
class Scope:
    """All methods that were judged on the same images.

    Attributes:
        title: what these are, in words.
        mask: where errors count, in words.
        reference: the method that the others are tested against.
        methods: name -> figures.
        against: rival -> every metric, rival minus reference.
        front: the methods that no other beats in fidelity, plausibility and network calls at once.
    """

    title: str
    mask: str
    reference: str
    methods: dict[str, Figures]
    against: dict[str, tuple[Comparison, ...]]
    front: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """What compare.json holds.

    Attributes:
        version: of gdmnet.
        settings: that all variants share.
        held_out: where the cases come from, in words.
        cases: that all methods were judged on; none of them trained anything.
        convention: of the metrics.
        match_intensity: "linear" or None.
        units: of `fidelity`: "HU", or "%" of each reference's range.
        reference: the method that the others are tested against.
        methods: name -> what it is.
        scopes: "slab" or "volume" -> figures; the first one has all methods.
        encoder_seconds: fold -> seconds of the shared encoder's training.
        notes: what the figures cannot show.
        made: rows about the comparison itself: command, date, machine.
    """

    version: str
    settings: Settings
    held_out: str
    cases: tuple[str, ...]
    convention: str
    match_intensity: str | None
    units: str
    reference: str
    methods: dict[str, MethodFacts]
    scopes: dict[str, Scope]
    encoder_seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    made: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What was measured of one method on the images of one scope."""

    summary: Summary
    costs: Costs
    verdict: Verdict


def make_scope(title: str, found: Mapping[str, Found], reference: str, *, in_hu: bool) -> Scope:
    """Put the methods of one scope beside each other.

    Args:
        title: what the images are.
        found: method -> what was measured, all on the same cases.
        reference: the method that the others are tested against, one of these.
        in_hu: whether `fidelity` is in HU, else in % of the reference's range.
    """
    scores: dict[str, Scores] = {
        name: {GDMNET: {case: dict(values) for case, values in one.summary.cases.items()}}
        for name, one in found.items()
    }
    add_criteria(scores, in_hu=in_hu)
    methods = {
        name: _figures(scores[name][GDMNET], one.costs, one.verdict) for name, one in found.items()
    }
    return Scope(
        title=title,
        mask=found[reference].summary.mask,
        reference=reference,
        methods=methods,
        against={
            name: tuple(comparisons(scores[name], scores[reference]))
            for name in found
            if name != reference
        },
        front=pareto_front({name: coordinates(figures) for name, figures in methods.items()}),
    )


def coordinates(figures: Figures) -> tuple[float | None, float | None, float]:
    """Fidelity, implausibility and network calls of a case: less is better.

    Calls, not seconds: two methods of equal cost must not differ by the noise of a clock.
    """
    means = figures.aggregate
    return means[FIDELITY]["mean"], means[PLAUSIBILITY]["mean"], figures.calls


def limits(study: Study) -> tuple[str, ...]:
    """What the figures cannot show, for `notes`."""
    notes = []
    n_cases = len(study.cases)
    least = 2.0 ** (1 - n_cases)
    if least >= SIGNIFICANT:
        cases = f"{n_cases} case{'s' * (n_cases > 1)}"
        notes.append(f"with {cases} p cannot be below {least:g}: no difference can be significant")
    notes.append(
        "differences are method minus"
        f" {study.reference}, with the 95 % bootstrap interval of their mean and p of Wilcoxon's"
        " signed-rank test over the cases, not corrected for the number of comparisons"
    )
    notes.append(
        "one training a variant: differences between seeds are not measured, and may be as large"
    )
    if study.units == "%":
        notes.append("MAE in % of each reference's range (its percentiles 0.5 to 99.5)")
        if study.match_intensity is None:
            notes.append(
                "the target has no unit: errors hold every difference of overall brightness and"
                " contrast; --match-intensity linear takes it out"
            )
    if study.match_intensity is not None:
        notes.append(
            "errors are those after a linear fit to each target; sharpness, plausibility, Frechet"
            " and pictures have the target's mean and standard deviation instead, because a fit"
            " dulls what agrees less"
        )
    if SLAB in study.scopes:
        notes.append(
            "on the slab every method translated the slab alone, as if nothing else had been"
            " scanned: alike for all, and a little worse at its ends than in the whole volume"
        )
    return tuple(notes)


def _figures(cases: dict[str, Values], costs: Costs, verdict: Verdict) -> Figures:
    spent = [costs.cases[case] for case in cases]
    peaks = [one.peak_mb for one in spent if one.peak_mb is not None]
    return Figures(
        cases=cases,
        aggregate=aggregate_cases(cases),
        verdict=verdict,
        seconds=fmean(one.seconds for one in spent),
        calls=fmean(one.calls for one in spent),
        peak_mb=max(peaks) if peaks else None,
    )
