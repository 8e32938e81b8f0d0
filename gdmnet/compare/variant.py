"""What a comparison compares: an objective with its options, and the steps of its sampler."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gdmnet.errors import SettingError
from gdmnet.objectives.options import OPTIONS, parse_option, read_objective_options

_NEXT_OPTION = re.compile(r",(?=[A-Za-z_][\w-]*=)")  # a comma inside a value is followed by none
_NOT_IN_FOLDERS = re.compile(r"[^\w.,=+-]")


@dataclass(frozen=True)
class Variant:
    """What is trained: an objective with its options, apart from the defaults."""

    objective: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """As a user writes it: "gdm", "regression:perceptual=0.1"."""
        if not self.options:
            return self.objective
        words = (f"{name}={_shown(value)}" for name, value in sorted(self.options.items()))
        return f"{self.objective}:{','.join(words)}"

    @property
    def folder(self) -> str:
        """The name as a folder's."""
        return _NOT_IN_FOLDERS.sub("_", self.name.replace(":", "+"))


@dataclass(frozen=True)
class Method:
    """What is judged: a trained variant, with so many steps of its sampler (None: its default)."""

    variant: Variant
    steps: int | None = None

    @property
    def name(self) -> str:
        """As tables show it: "flow, 4 steps"."""
        if self.steps is None:
            return self.variant.name
        return f"{self.variant.name}, {self.steps} step{'s' * (self.steps > 1)}"

    @property
    def folder(self) -> str:
        """The name as a folder's."""
        return self.variant.folder + ("" if self.steps is None else f"+steps={self.steps}")


def parse_variant(text: str) -> Variant:
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
    return Variant(objective, dict(pairs))


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


def make_methods(variants: Sequence[Variant], steps: Mapping[str, Sequence[int]]) -> list[Method]:
    """All methods of some variants.

    Args:
        variants: to compare.
        steps: of `parse_steps`; a variant's own entry comes before that of its objective.

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
        Method(variant, number)
        for variant in variants
        for number in steps.get(variant.name, steps.get(variant.objective, (None,)))
    ]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
