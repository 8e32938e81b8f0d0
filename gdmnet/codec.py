"""Frozen dataclasses to JSON and back, strictly: every complaint names the key by its path."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
import zipfile
from pathlib import Path
from typing import Any, TypeVar

from gdmnet.errors import GdmnetError, PlanError, SettingError
from gdmnet.files import whole_file

T = TypeVar("T")
_MOST_DIGITS = 18  # of a whole number: it then fits 64 bits


def encode(value: Any) -> Any:  # noqa: ANN401 (JSON is untyped by nature)
    """A dataclass, or anything made of dataclasses and JSON values, as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def decode(kind: type[T], data: Any, where: str = "$") -> T:  # noqa: ANN401
    """Build `kind` from what `json.load` gave; complaints name the path `where`.

    A kind is a dataclass, or made of int, float, str, bool, None, tuple, dict, unions and literal
    strings.

    Raises:
        PlanError: an unknown, missing or ill-typed key, named by its path.
    """
    return typing.cast("T", _decode(kind, data, where))


def _decode(kind: Any, data: Any, where: str) -> Any:  # noqa: ANN401
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, where)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(kind), data, where)
    if origin is typing.Literal:
        if data not in typing.get_args(kind):
            raise _wrong(where, f"one of {', '.join(typing.get_args(kind))}", data)
        return data
    if origin is tuple:
        return _decode_tuple(typing.get_args(kind), data, where)
    if origin is dict:
        if not isinstance(data, dict):
            raise _wrong(where, "an object", data)
        item = typing.get_args(kind)[1]
        return {key: _decode(item, value, f"{where}.{key}") for key, value in data.items()}
    return _decode_scalar(kind, data, where)


def _decode_dataclass(kind: Any, data: Any, where: str) -> Any:  # noqa: ANN401
    if not isinstance(data, dict):
        raise _wrong(where, "an object", data)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            raise PlanError(f"{where}.{key}: unknown key; known are {', '.join(sorted(fields))}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise PlanError(f"{where}.{name}: this key is missing")
    try:
        return kind(**values)
    except SettingError as problem:
        raise PlanError(f"{where}: {problem}") from None


def _decode_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:  # noqa: ANN401
    if data is None and type(None) in kinds:
        return None
    complaints = []
    for kind in kinds:
        try:
            return _decode(kind, data, where)
        except PlanError as error:
            complaints.append(error)
    raise complaints[0]


def _decode_tuple(kinds: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:  # noqa: ANN401
    if not isinstance(data, list):
        raise _wrong(where, "a list", data)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(data)
    if len(data) != len(kinds):
        raise _wrong(where, f"a list of {len(kinds)}", data)
    return tuple(
        _decode(kind, item, f"{where}[{i}]")
        for i, (kind, item) in enumerate(zip(kinds, data, strict=True))
    )


def _decode_scalar(kind: Any, data: Any, where: str) -> Any:  # noqa: ANN401
    if kind is Any:
        return data
    if kind is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        try:
            return float(data)
        except OverflowError:
            raise _wrong(where, "a number that a float can hold", data) from None
    if kind is Path and isinstance(data, str):
        return Path(data)
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise _wrong(where, kind.__name__, data)
    return data


def _wrong(where: str, wanted: str, data: Any) -> PlanError:  # noqa: ANN401
    shown = json.dumps(data) if not isinstance(data, (dict, list)) else type(data).__name__
    return PlanError(f"{where}: expected {wanted}, found {shown[:80]}")


def read_json(path: Path | zipfile.Path, error: type[GdmnetError] = PlanError) -> Any:  # noqa: ANN401
    """The JSON values of a file; a missing or broken file raises `error` and names the line.

    A byte order mark is read over; numbers that are none, too large or endless nesting are refused.
    """
    try:
        if path.exists() and not path.is_file():
            raise error(f"{path}: is no plain file")
        text = path.read_text(encoding="utf-8-sig")
        data = json.loads(text, parse_constant=_no_number, parse_float=_real, parse_int=_whole)
        json.dumps(data, ensure_ascii=False).encode()  # half a character cannot be written again
    except FileNotFoundError:
        raise error(f"{path}: file not found") from None
    except (OSError, UnicodeError) as problem:
        raise error(f"{path}: cannot be read: {problem}") from None
    except json.JSONDecodeError as problem:
        raise error(
            f"{path}: not valid JSON, line {problem.lineno} column {problem.colno}: {problem.msg}"
        ) from None
    except (ValueError, RecursionError) as problem:
        what = "nested too deeply" if isinstance(problem, RecursionError) else problem
        raise error(f"{path}: not valid JSON: {what}") from None
    return data


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _real(word: str) -> float:
    if not math.isfinite(float(word)):
        raise ValueError(f"{word[:20]} is too large a number")
    return float(word)


def _whole(word: str) -> int:
    if len(word) > _MOST_DIGITS:
        raise ValueError(f"{word[:20]}... is too large a number")
    return int(word)


def load(kind: type[T], path: Path | zipfile.Path) -> T:
    """A dataclass from a JSON file; complaints carry the file and the key's path."""
    data = read_json(path)
    known = getattr(kind, "SCHEMA", None)
    schema = data.get("schema", known) if isinstance(data, dict) else known
    if known is not None and schema != known:
        raise PlanError(
            f"{path}: schema {schema} was written by another version of gdmnet (this one reads"
            f" schema {known}); make the file anew with this version"
        )
    return decode(kind, data, str(path))


def save(value: Any, path: Path, *, private: bool = False) -> None:  # noqa: ANN401
    """Write a dataclass or JSON values to a file, whole or not at all; `private` as write_text."""
    text = json.dumps(encode(value), indent=2, allow_nan=False) + "\n"
    write_text(path, text, private=private)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file, whole or not at all; `private`: it names patients, mode 0600."""
    with whole_file(path, private=private) as aside:
        aside.write_text(text, encoding="utf-8")
