"""Settings: frozen dataclasses whose fields carry help and bounds, for terminal, JSON and Python.

    @dataclass(frozen=True)
    class PredictionSettings(Settings):
        step_size: float = setting(0.5, "window distance as a share of the patch", above=0, most=1)

A field stands once. `add_settings` makes options of a parser from it (--step-size S),
`given_settings` takes what was typed, and every way to an instance, `codec.decode` included, goes
through the same check of type and bounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gdmnet.errors import SettingError

S = TypeVar("S", bound="Settings")


@dataclass(frozen=True)
class _Facts:
    """What a field knows of itself beside its type and default; see `setting`."""

    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: Collection[str] = ()
    flag: str = ""
    metavar: str = ""


def setting(default: Any, help: str, **facts: Any) -> Any:  # noqa: ANN401 (of the field's own type)
    """A field of a `Settings` dataclass.

    Args:
        default: None stands for a choice made later, and is never out of bounds.
        help: what it is, with its unit; argparse adds the default.
        facts: the bounds `least` and `most`, allowed themselves, and `above`, which is not (numbers
            are finite in any case); `choices`, of a tuple those of each entry; the option's `flag`,
            where it is not the field's name with dashes, and its value's `metavar` in help.
    """
    return dataclasses.field(default=default, metadata={"facts": _Facts(help, **facts)})


@dataclass(frozen=True)
class Settings:
    """A dataclass of settings; making one with a wrong value raises a SettingError."""

    def __post_init__(self) -> None:
        for name, (wanted, facts, default) in _settings_of(type(self)).items():
            value = getattr(self, name)
            if value is not None or default is not None:
                object.__setattr__(self, name, _checked(name, wanted, facts, value))


def make_settings(kind: type[S], given: Mapping[str, Any]) -> S:
    """A settings object from names and values, the rest as by default.

    Ints become floats, lists tuples and names of files paths where that is meant.

    Raises:
        SettingError: an unknown name (the known ones are listed), a value of another type, or one
            out of bounds.
    """
    known = _settings_of(kind)
    for name in given:
        if name not in known:
            raise SettingError(f"there is no setting {name!r}; known are {', '.join(known)}")
    return kind(**given)


def add_settings(
    parser: argparse._ActionsContainer,
    kind: type[Settings],
    names: Iterable[str] | None = None,
    *,
    without: Collection[str] = (),
    prefix: str = "",
) -> None:
    """An option for each setting, or for those named; what is not typed leaves no trace in args.

    A bool becomes a switch: --name where the default is False, --no-name where it is True. A
    `prefix` such as "encoder_" comes before every name: --encoder-weights.
    """
    known = _settings_of(kind)
    for name in names or [name for name in known if name not in without]:
        wanted, facts, default = known[name]
        dashed = f"{prefix}{name}".replace("_", "-")
        common: dict[str, Any] = {
            "dest": prefix + name,
            "default": argparse.SUPPRESS,
            "help": facts.help.replace("%", "%%"),
        }
        if wanted is bool:
            common["action"] = "store_false" if default else "store_true"
            parser.add_argument(facts.flag or f"--{'no-' * bool(default)}{dashed}", **common)
            continue
        several = typing.get_origin(wanted) is tuple
        item = typing.get_args(wanted)[0] if several else wanted
        if default is not None and default != () and default != "":
            shown = " ".join(map(str, default)) if several else default
            common["help"] += f" (default: {shown})"
        if facts.choices and not several:
            common["choices"] = list(facts.choices)
        if several:
            common |= {"nargs": "+", "action": _Several}
        if facts.metavar or not facts.choices:
            common["metavar"] = facts.metavar or _METAVARS.get(item, "X")
        common["type"] = _argument_type(name, item, facts, several=several)
        parser.add_argument(facts.flag or f"--{dashed}", **common)


def given_settings(
    args: argparse.Namespace, kind: type[Settings], *, prefix: str = ""
) -> dict[str, Any]:
    """Names and values of the settings that were typed; `prefix` as for `add_settings`."""
    typed = vars(args)
    return {name: typed[prefix + name] for name in _settings_of(kind) if prefix + name in typed}


def settings_from(args: argparse.Namespace, kind: type[S]) -> S:
    """A settings object of what was typed, the rest as by default."""
    return kind(**given_settings(args, kind))


def _settings_of(kind: type[Settings]) -> dict[str, tuple[Any, _Facts, Any]]:
    """Name -> type without None, facts, default; fields made without `setting` are left out."""
    hints = typing.get_type_hints(kind)
    found = {}
    for entry in dataclasses.fields(kind):
        if "facts" in entry.metadata:
            wanted = hints[entry.name]
            if typing.get_origin(wanted) in (typing.Union, types.UnionType):
                (wanted,) = (part for part in typing.get_args(wanted) if part is not type(None))
            found[entry.name] = (wanted, entry.metadata["facts"], entry.default)
    return found


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a name",
    Path: "a path",
}
_LARGEST = {int: 2**63, float: math.inf}
_METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH"}


def _checked(name: str, wanted: Any, facts: _Facts, value: Any) -> Any:  # noqa: ANN401
    if typing.get_origin(wanted) is tuple:
        if not isinstance(value, (list, tuple)):
            raise SettingError(f"{name} must be a list, not {value!r}")
        item = typing.get_args(wanted)[0]
        return tuple(_checked(name, item, facts, entry) for entry in value)
    if wanted is float and type(value) is int and abs(value) < _LARGEST[int]:
        value = float(value)
    if wanted is Path and isinstance(value, str):
        value = Path(value)
    if not isinstance(value, wanted) or (type(value) is bool and wanted is not bool):
        raise SettingError(f"{name} must be {_WORDS[wanted]}, not {value!r:.60}")
    if facts.choices and value not in facts.choices:
        raise SettingError(f"{name} {value!r} is unknown; take one of {', '.join(facts.choices)}")
    if wanted in (int, float):
        _require_bounds(name, value, facts)
    return value


def _require_bounds(name: str, value: float, facts: _Facts) -> None:
    bounds = []
    if facts.above is not None:
        bounds.append((value > facts.above, f"above {facts.above:g}"))
    if facts.least is not None:
        bounds.append((value >= facts.least, f"at least {facts.least:g}"))
    if facts.most is not None:
        bounds.append((value <= facts.most, f"at most {facts.most:g}"))
    if not (abs(value) < _LARGEST[type(value)] and all(holds for holds, _ in bounds)):
        said = " and ".join(text for _, text in bounds) or "finite"
        raise SettingError(f"{name} must be {said}, not {value!r:.40}")


class _Several(argparse.Action):
    """Values apart by blanks or, numbers, by commas."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:  # noqa: ANN401
        del parser, option
        setattr(namespace, self.dest, [value for group in values for value in group])


def _argument_type(
    name: str, wanted: type, facts: _Facts, *, several: bool
) -> Callable[[str], Any]:
    def convert(text: str) -> Any:  # noqa: ANN401
        is_number = wanted in (int, float)
        words = text.split(",") if several and is_number else [text]
        values: list[Any] = [_number(word, wanted) for word in words] if is_number else words
        try:
            values = [_checked(name, wanted, facts, value) for value in values]
        except SettingError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None
        return values if several else values[0]

    return convert


def _number(word: str, wanted: type) -> Any:  # noqa: ANN401
    """A number where the word is one."""
    try:
        return wanted(word)
    except ValueError:
        return word
