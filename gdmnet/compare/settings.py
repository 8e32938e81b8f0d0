"""What is asked of judges and comparisons: settings, and the methods to compare."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from gdmnet.errors import SettingError
from gdmnet.metrics.conventions import CONVENTIONS, GDMNET, EvaluationSettings
from gdmnet.objectives.options import OPTIONS, parse_option, read_objective_options
from gdmnet.settings import Settings, setting
from gdmnet.training.settings import EncoderSettings

JUDGE_JSON = "judge.json"
JUDGE_KINDS = ("self", "random", "groupnorm")
JUDGE_ITERATIONS = 400  # about a minute of one core
_NEXT_OPTION = re.compile(r",(?=[A-Za-z_][\w-]*=)")  # a comma inside a value is followed by none
_NOT_IN_FOLDERS = re.compile(r"[^\w.,=+-]")


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


@dataclass(frozen=True)
class Method:
    """What is judged: an objective, its options apart from the defaults, its sampler's steps.

    Without steps the sampler takes its default. Such a method is also a variant: what is trained.
    """

    objective: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    steps: int | None = None

    @property
    def variant(self) -> Method:
        """What is trained for it."""
        return replace(self, steps=None)

    @property
    def name(self) -> str:
        """As a user writes it, and tables show it: "regression:perceptual=0.1", "flow, 4 steps"."""
        words = (f"{name}={_shown(value)}" for name, value in sorted(self.options.items()))
        name = f"{self.objective}:{','.join(words)}" if self.options else self.objective
        return name + (f", {self.steps} step{'s' * (self.steps > 1)}" if self.steps else "")

    @property
    def folder(self) -> str:
        """The name as a folder's."""
        name = _NOT_IN_FOLDERS.sub("_", self.variant.name.replace(":", "+"))
        return name + (f"+steps={self.steps}" if self.steps else "")


def parse_variant(text: str) -> Method:
    """A variant from NAME or NAME:option=value,option=value.

    Raises:
        SettingError: an unknown objective or option, options of another form, or a value out of
            bounds.
    """
    objective, colon, options = text.partition(":")
    if colon and not options:
        raise SettingError(f"{text}: options are missing after the colon; write NAME:option=value")
    pairs = [parse_option(part) for part in _NEXT_OPTION.split(options)] if options else []
    if len(dict(pairs)) < len(pairs):
        raise SettingError(f"{text}: an option is given twice")
    read_objective_options(objective, dict(pairs))
    return Method(objective, dict(pairs))


def parse_steps(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Numbers of steps by objective or variant, from NAME=1,4,16.

    Raises:
        SettingError: another form.
    """
    found = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        if not name or not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", numbers):
            raise SettingError(f"--steps {text}: write NAME=1,4,16, positive whole numbers")
        found[name] = tuple(dict.fromkeys(int(number) for number in numbers.split(",")))
    return found


def make_methods(variants: Sequence[Method], steps: Mapping[str, Sequence[int]]) -> list[Method]:
    """All methods of some variants; a variant's own entry in `steps` comes before its objective's.

    Raises:
        SettingError: steps of something that is not compared or has no sampler, or too many.
    """
    for name, numbers in steps.items():
        meant = [v for v in variants if name in (v.name, v.objective)]
        if not meant:
            there = ", ".join(variant.name for variant in variants)
            raise SettingError(f"--steps {name}: is not compared (there: {there})")
        for variant in meant:
            if "steps" not in OPTIONS[variant.objective].__dataclass_fields__:
                raise SettingError(
                    f"--steps {name}: calls its network once and has no steps; leave it out"
                )
            read_objective_options(variant.objective, {"steps": max(numbers)})
    return [
        replace(variant, steps=number)
        for variant in variants
        for number in steps.get(variant.name, steps.get(variant.objective, (None,)))
    ]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
