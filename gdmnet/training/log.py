"""The log of a training: log.jsonl for programs, log.txt for people; no epoch twice."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdmnet import codec
from gdmnet.errors import PlanError
from gdmnet.files import output_errors

STEPS_A_READ = 10
LOG_JSONL, LOG_TXT = "log.jsonl", "log.txt"
READABLE = {  # of a record's numbers, those for people; log.jsonl has all
    "fidelity": "fidelity {:.4f}",
    "loss": "loss {:.4f}",
    "perceptual": "perceptual {:.4f}",
    "adversarial": "adversarial {:.3f}",
    "critic": "critic {:.3f}",
    "ratio": "drift ratio {:.3f}",
    "validation_mae": "validation MAE {}",
    "validation_sharpness": "sharpness {:.3f}",
    "validation_spectrum_distance": "spectrum {:.1f} dB",
    "learning_rate": "learning rate {:.2e}",
    "seconds": "{:.1f} s",
}
MAE_UNITS = {"validation_mae_hu": "HU", "validation_mae_file": "file units"}
_LARGEST = 1e300  # a float holds less, and NaN is not less
_EPOCH_LINE = re.compile(r"epoch +(\d+)")


class StepMetrics:
    """The numbers of an epoch's steps; those that lie on a device are read ten steps at a time."""

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []
        self._waiting: list[Mapping[str, float | Tensor]] = []

    def add(self, metrics: Mapping[str, float | Tensor]) -> bool:
        """Take one step's numbers in; True where what was waiting has been read."""
        self._waiting.append(metrics)
        if len(self._waiting) < STEPS_A_READ:
            return False
        self.read()
        return True

    def read(self) -> list[dict[str, float]]:
        """The numbers of all steps so far, by their names."""
        waiting = [
            v for metrics in self._waiting for v in metrics.values() if isinstance(v, Tensor)
        ]
        numbers = iter(torch.stack(waiting).tolist() if waiting else ())
        for metrics in self._waiting:
            values = (
                (n, next(numbers) if isinstance(v, Tensor) else v) for n, v in metrics.items()
            )
            self.records.append(dict(values))
        self._waiting.clear()
        return self.records


def means(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number by its name over those that are finite; nan where none is."""
    found: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.items():
            found.setdefault(name, []).extend([value] if math.isfinite(value) else [])
    return {name: sum(v) / len(v) if v else math.nan for name, v in found.items()}


def append(folder: Path, record: dict[str, Any]) -> str:
    """Write one epoch's record to both files and return the line for people.

    It has JSON values with at least `epoch` (from 1) and `epochs`; numbers that are not finite
    become null.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    line = readable(finite)
    append_line(folder / LOG_JSONL, json.dumps(finite, allow_nan=False))
    append_line(folder / LOG_TXT, line)
    return line


def append_line(path: Path, line: str) -> None:
    """Write one more line to a file, or raise an OutputError."""
    with output_errors(path), path.open("a", encoding="utf-8") as handle:
        handle.write(line + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of log.jsonl; a last line that was cut off is left out.

    Raises:
        PlanError: a line is no record of an epoch.
    """
    path = folder / LOG_JSONL
    if not path.is_file():
        return []
    lines, records = path.read_text(encoding="utf-8", errors="replace").splitlines(), []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_record_of(line))
        except (ValueError, RecursionError) as problem:
            if number == len(lines) and not line.endswith("}"):
                break
            raise PlanError(
                f"{path}, line {number}: no record of an epoch ({problem}); move the file away: a"
                " training goes on without it, only its curves are lost"
            ) from None
    return records


def _record_of(line: str) -> dict[str, Any]:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("no names and values")
    for name in ("epoch", "epochs"):
        if type(record.get(name)) is not int or record[name] < 1:
            raise ValueError(f"{name} is {record.get(name)!r:.40}")
    for name, value in record.items():
        if value is not None and not (isinstance(value, (int, float)) and abs(value) < _LARGEST):
            raise ValueError(f"{name} is {value!r:.40}")
    return record


def truncate(folder: Path, epoch: int) -> None:
    """Forget the epochs after `epoch`: the resumed training will write them again."""
    kept = [record for record in read(folder) if record["epoch"] <= epoch]
    lines = "".join(json.dumps(record) + "\n" for record in kept)
    codec.write_text(folder / LOG_JSONL, lines)
    path = folder / LOG_TXT
    if path.is_file():
        text = path.read_text(encoding="utf-8").splitlines()
        told = [t for t in text if not (m := _EPOCH_LINE.match(t)) or int(m[1]) <= epoch]
        codec.write_text(path, "".join(line + "\n" for line in told))


def readable(record: dict[str, Any]) -> str:
    """One line for people: the epoch, the time, then what tells whether the training goes well."""
    width = len(str(record["epochs"]))
    words = [f"epoch {record['epoch']:>{width}}/{record['epochs']}", f"{datetime.now():%H:%M}"]
    for name, shown in READABLE.items():
        if record.get(name) is not None:
            number = record[name] if name != "validation_mae" else _mae_with_unit(record)
            words.append(shown.format(number))
    if record.get("skipped"):
        words.append(f"skipped {record['skipped']}")
    if record.get("best"):
        words.append("best so far")
    left = record["epochs"] - record["epoch"]
    if left and record.get("seconds"):
        seconds = left * record["seconds"]
        words.append(f"{duration(seconds)} to go, done about {clock_after(seconds)}")
    return "  ".join(words)


def _mae_with_unit(record: dict[str, Any]) -> str:
    """With as many decimals as three figures after the point of network units are worth."""
    unit, scale = unit_of(record)
    n_decimals = max(0, 3 - math.floor(math.log10(scale)))
    return f"{record['validation_mae'] * scale:.{n_decimals}f} {unit}"


def unit_of(record: dict[str, Any]) -> tuple[str, float]:
    """The unit that people read a record's errors in, and how many of it a network unit is."""
    mae = record.get("validation_mae")
    for name, unit in MAE_UNITS.items():
        if mae and record.get(name):
            return unit, record[name] / mae
    return "network units", 1.0


def short(value: float) -> str:
    """A number for people: whole from 100 on, else three figures."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """The two largest of days, hours and minutes, for example "1 h 10 min"; seconds below one."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def clock_after(seconds: float) -> str:
    """This machine's clock after some seconds, with the day of the week if that is another one."""
    now = datetime.now().astimezone()
    then = now + timedelta(seconds=seconds)
    return then.strftime("%H:%M" if then.date() == now.date() else "%a %H:%M")
