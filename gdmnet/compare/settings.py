"""The settings of judges and comparisons; what a command says once stands here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from gdmnet.metrics.conventions import CONVENTIONS, GDMNET, EvaluationSettings
from gdmnet.settings import Settings, setting
from gdmnet.training.settings import EncoderSettings

JUDGE_JSON = "judge.json"
JUDGE_KINDS = ("self", "random", "groupnorm")
JUDGE_ITERATIONS = 400  # about a minute of one core


@dataclass(frozen=True)
class JudgeSettings(Settings):
    """A judge that is made for the purpose, or another training's encoder."""

    kind: str = setting(
        "self",
        "trained without normalisation layers, with random weights, trained with group norm",
        choices=JUDGE_KINDS,
        flag="--judge",
    )
    encoder: Path | None = setting(
        None, "another training's encoder.pt as the judge", flag="--judge-encoder", metavar="FILE"
    )
    iterations: int = setting(
        JUDGE_ITERATIONS, "steps of the judge's training", least=1, flag="--judge-iterations"
    )
    seed: int = setting(0, "of the judge")


@dataclass(frozen=True)
class JudgingSettings(Settings):
    """How the methods of a comparison are judged."""

    convention: str = setting(GDMNET, "of the metrics", choices=tuple(CONVENTIONS))
    match_intensity: str | None = setting(
        None,
        "fit gain >= 0 and offset to each target first (default: linear where the target has no"
        " unit, none for CT)",
        choices=("linear", "none"),
    )
    judge_iterations: int = setting(JUDGE_ITERATIONS, "steps of the judge's training", least=1)

    def evaluation(self, *, in_hu: bool) -> EvaluationSettings:
        """How predictions are scored: one that has collapsed is bad, but no bad input."""
        match = self.match_intensity or ("none" if in_hu else "linear")
        linear = "linear" if match == "linear" else None
        return EvaluationSettings(self.convention, linear, allow_constant=True)


@dataclass(frozen=True)
class MethodSettings(Settings):
    """Which methods a comparison trains and judges."""

    objectives: tuple[str, ...] = setting(
        (), "NAME or NAME:option=value,... (default: all objectives)"
    )
    steps: tuple[str, ...] = setting(
        (),
        "steps of the samplers to judge, for example flow=1,4,16 (default: as trained)",
        metavar="NAME=N,N",
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1", metavar="DEVICE")


@dataclass(frozen=True)
class ComparisonSettings(Settings):
    """What all variants of a comparison share; settings.json keeps it."""

    SCHEMA: ClassVar[int] = 2
    schema: int
    dataset: str
    configuration: str
    folds: tuple[str, ...] = setting(("0",), "folds to train", flag="-f", metavar="FOLD")
    epochs: int | None = setting(None, "(default: 80 of the preset cpu, else 400)", least=1)
    iterations: int | None = setting(
        None, "steps an epoch (default: 50 of the preset cpu, else 250)", least=1
    )
    learning_rate: float | None = setting(
        None, "(default: 3e-3 of the preset cpu, else 1e-3)", above=0
    )
    seed: int = setting(0, "of all trainings and of the judge")
    precision: str = setting("auto", "of all trainings", choices=("auto", "fp32", "bf16", "fp16"))
    step_size: float = setting(
        0.5, "distance of windows as a share of the patch", above=0, most=1, metavar="S"
    )
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
