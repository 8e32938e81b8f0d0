"""An objective's options: a frozen dataclass filled from names and plain values."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from gdmnet.errors import TrainingError

Options = TypeVar("Options")


def read_options(kind: type[Options], given: Mapping[str, Any], *, objective: str) -> Options:
    """Fill a dataclass of options, with the type of each default as the type to be given.

    Args:
        kind: a frozen dataclass whose fields all have defaults.
        given: options by name; lists stand for tuples, as JSON has no tuples.
        objective: its name, for the error's text.

    Raises:
        TrainingError: an unknown name (the known ones are listed) or a value of another type.
    """
    known = {entry.name: entry.default for entry in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise TrainingError(
                f"objective {objective} has no option {name!r}; it knows {', '.join(known)}"
            )
        values[name] = _typed(name, value, known[name], objective)
    return kind(**values)


def parse_option(text: str) -> tuple[str, Any]:
    """An option from NAME=VALUE: a number, true, false or a list as in JSON, else a name.

    Raises:
        TrainingError: another form.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise TrainingError(f"{text} is not NAME=VALUE")
    try:
        return name.replace("-", "_"), json.loads(value)
    except json.JSONDecodeError:
        return name.replace("-", "_"), value


def require_known(value: str, known: Collection[str], *, what: str) -> None:
    """Raise a TrainingError that lists the known names unless `value` is one of them."""
    if value not in known:
        raise TrainingError(f"{what} {value!r} is unknown; take one of {', '.join(known)}")


def _typed(name: str, value: object, default: object, objective: str) -> object:
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        return tuple(_typed(name, item, default[0], objective) for item in value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise TrainingError(
            f"option {name} of objective {objective} must be {_kind(default)}, not {value!r}"
        )
    return value


def _kind(default: object) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}
    if isinstance(default, tuple):
        return f"a list, each entry {_kind(default[0])}"
    return words[type(default)]
