"""What a comparison found: every method on the same cases, with what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gdmnet.compare.settings import ComparisonSettings
from gdmnet.compare.verdict import JudgeVerdict
from gdmnet.metrics.statistics import Paired, Values

FIDELITY, PLAUSIBILITY = "fidelity", "plausibility"
CRITERIA = (FIDELITY, PLAUSIBILITY)
COMPARED = (
    FIDELITY,
    "psnr",
    "ssim",
    "ms_ssim",
    "sharpness",
    "histogram_w1",
    "spectrum_distance",
    PLAUSIBILITY,
)
"""Metrics that every case has, in the order of the tables."""


@dataclass(frozen=True)
class MethodFacts:
    """What a method is and what it was given; None where nobody knows.

    Attributes:
        objective: that trained it.
        configuration: of the plan.
        options: of the objective.
        model: its folder.
        folds: whose predictions are looked at.
        in_hu: whether its target is in HU.
        command: of gdm_predict, that predicts with it.
        encoder: of the features, if it has any.
        device: that trained: "cpu" or "cuda".
        precision: of the training.
        training_steps: of a fold.
        training_seconds: of a fold, the mean; epochs with their validation, without the encoder's.
    """

    objective: str
    configuration: str
    options: dict[str, Any]
    model: str
    folds: tuple[str, ...]
    in_hu: bool
    command: str
    encoder: str | None
    device: str
    precision: str
    training_steps: int | None
    training_seconds: float | None


@dataclass(frozen=True)
class MethodFigures:
    """A method on the cases of a comparison.

    Attributes:
        cases: identifier -> metric -> value, with the criteria `fidelity` and `plausibility`.
        aggregate: metric -> the statistics over the cases.
        verdict: of the judge.
        seconds: a case, the mean; None, as those below, where nobody measured.
        calls: of the network a case, the mean; all folds together.
        peak_mb: the largest, 2^20 bytes.
        parameters: of one network.
    """

    cases: dict[str, Values]
    aggregate: dict[str, Values]
    verdict: JudgeVerdict
    seconds: float | None = None
    calls: float | None = None
    peak_mb: float | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class BestMethod:
    """The best method by one criterion, and rival -> the best minus the rival."""

    name: str
    against: dict[str, Paired]


@dataclass(frozen=True)
class Comparison:
    """What compare.json holds.

    Attributes:
        version: of gdmnet.
        dataset: its full name.
        cases_from: where the cases come from, in words.
        cases: that all methods were judged on; none of them was trained on these.
        convention: of the metrics.
        match_intensity: "linear" or None, for all methods.
        units: of `fidelity`: "HU", or "%" of each reference's range.
        mask: where errors count, in words.
        facts: method -> what it is.
        figures: method -> what was measured of it.
        reference: the method that the others are tested against.
        against: rival -> metric -> the rival minus the reference.
        best: criterion -> the best method.
        winners: metric -> the method that is better than each other one: the paired interval of
            their difference excludes 0.
        front: the methods that no other beats in fidelity, plausibility and network calls at once.
        settings: that all variants share; None for models that were there.
        notes: what was left out and what the figures cannot show.
        made: rows about the comparison itself: command and date.
    """

    version: str
    dataset: str
    cases_from: str
    cases: tuple[str, ...]
    convention: str
    match_intensity: str | None
    units: str
    mask: str
    facts: dict[str, MethodFacts]
    figures: dict[str, MethodFigures]
    reference: str
    against: dict[str, dict[str, Paired]]
    best: dict[str, BestMethod]
    winners: dict[str, str]
    front: tuple[str, ...]
    settings: ComparisonSettings | None = None
    notes: tuple[str, ...] = ()
    made: dict[str, str] = field(default_factory=dict)
