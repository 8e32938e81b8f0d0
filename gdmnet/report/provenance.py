"""Where predictions come from: predictions.json, the model's folder, the sources' checksums.

predictions.json is read leniently, not by `codec`: a report shows what is there, also of files that
another version wrote, and must not need torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from gdmnet.codec import read_json
from gdmnet.files import file_sha256
from gdmnet.folders import PLAN_JSON, RUN_JSON, fold_folder
from gdmnet.report.figures import training_figures
from gdmnet.training import log

DIFFERS = "DIFFERS"  # stands in verdicts that must not be overlooked
MODEL_FOLDER = "The model's folder"  # title of a table
Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CaseOrigin:
    """What predictions.json says about one case.

    Attributes:
        warnings: for a person to read before using the prediction.
        error: why it failed, or None.
        inputs: file name -> SHA-256 of each source.
        findings: for every way in which the input is unlike the training data: what, value,
            training range, accepted range; None where nothing was compared.
    """

    warnings: tuple[str, ...] = ()
    error: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    findings: tuple[tuple[str, str, str, str], ...] | None = None


@dataclass(frozen=True)
class Origin:
    """Where the predictions of a folder come from.

    Attributes:
        tables: title -> rows of names and values.
        cases: identifier -> what is known about it.
        channel_names: of the sources; () where the model's folder is not found.
        training: fold -> HTML of its charts.
    """

    tables: dict[str, Rows]
    cases: dict[str, CaseOrigin]
    channel_names: tuple[str, ...]
    training: dict[str, tuple[str, ...]]


def read_origin(predictions: Path) -> Origin:
    """What is known from the predictions' folder and the model's folder, if it is there.

    Raises:
        PlanError: predictions.json is no JSON.
    """
    tables: dict[str, Rows] = {}
    cases: dict[str, CaseOrigin] = {}
    model: dict[str, Any] = {}
    for path in sorted(predictions.glob("predictions*.json")):
        record = _object(read_json(path))
        changed = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        rows = [("last changed", changed.isoformat(" ", "minutes"))]
        rows += _rows({key: value for key, value in record.items() if key != "cases"})
        tables[path.name] = tuple(rows)
        model = _object(record.get("model")) or model
        for name, result in _object(record.get("cases")).items():
            cases[name] = _case(_object(result))
    folder = _model_folder(predictions, model)
    folds = list(_object(model.get("checkpoints")))
    channel_names: tuple[str, ...] = ()
    if folder is not None:
        plan = _json_if_there(folder / PLAN_JSON)
        channel_names = tuple(str(name) for name in plan.get("channel_names") or ())
        tables[MODEL_FOLDER] = _checkpoint_rows(folder, model)
        tables[f"{PLAN_JSON} of the model"] = _plan_rows(plan, str(model.get("configuration")))
        for fold in folds:
            run = _json_if_there(fold_folder(folder, fold) / RUN_JSON)
            tables[f"{RUN_JSON} of fold {fold}"] = tuple(_rows(run))
    curves = {} if folder is None else {f: log.read(fold_folder(folder, f)) for f in folds}
    training = {fold: tuple(training_figures(r)) for fold, r in curves.items() if r}
    return Origin({t: r for t, r in tables.items() if r}, cases, channel_names, training)


def check_inputs(origin: CaseOrigin, sources: Sequence[Path]) -> list[tuple[str, str, str]]:
    """File name, SHA-256 and verdict of every source that is recorded or there."""
    there = {path.name: file_sha256(path) for path in sources}
    rows = []
    for name in dict.fromkeys((*origin.inputs, *there)):
        recorded, found = origin.inputs.get(name), there.get(name)
        if recorded is None:
            verdict = "not recorded"
        elif found is None:
            verdict = "recorded, not compared"
        elif found == recorded:
            verdict = "as translated"
        else:
            verdict = f"{DIFFERS} from what was translated"
        rows.append((name, found or recorded or "", verdict))
    return rows


def _model_folder(predictions: Path, model: dict[str, Any]) -> Path | None:
    """The model's folder, if it is there: as named, from here or from above the predictions."""
    name = model.get("folder")
    if not isinstance(name, str) or not name:
        return None
    whole = predictions.resolve()
    places = (Path(name), *(above / name for above in (whole, *whole.parents)))
    return next((place for place in places if (place / PLAN_JSON).is_file()), None)


def _checkpoint_rows(folder: Path, model: dict[str, Any]) -> Rows:
    """Whether the model's checkpoints still are those that predicted."""
    rows = [("found at", str(folder))]
    kind = _object(model.get("settings")).get("checkpoint") or model.get("checkpoint")
    for fold, recorded in _object(model.get("checkpoints")).items():
        path = fold_folder(folder, fold) / f"checkpoint_{kind}.pt"
        verdict = "is not there"
        if path.is_file():
            same = file_sha256(path) == recorded
            verdict = "as recorded" if same else f"{DIFFERS}: trained anew since the prediction"
        rows.append((f"checkpoint of fold {fold}", verdict))
    return tuple(rows)


def _case(result: dict[str, Any]) -> CaseOrigin:
    findings = result.get("input_check")
    error = result.get("error")
    return CaseOrigin(
        warnings=tuple(str(warning) for warning in result.get("warnings") or ()),
        error=None if error is None else str(error),
        inputs={str(name): str(digest) for name, digest in _object(result.get("inputs")).items()},
        findings=None
        if not isinstance(findings, list)
        else tuple(_finding(_object(finding)) for finding in findings),
    )


def _finding(finding: dict[str, Any]) -> tuple[str, str, str, str]:
    unit = str(finding.get("unit") or "")
    training, accepted = (_ends(finding.get(key)) for key in ("training", "accepted"))
    value = f"{_text(finding.get('value'))} {unit}".strip()
    return str(finding.get("what")), value, training, accepted


def _ends(value: object) -> str:
    return " to ".join(_text(end) for end in value) if isinstance(value, list) else _text(value)


def _plan_rows(plan: dict[str, Any], configuration: str) -> Rows:
    chosen = _object(_object(plan.get("configurations")).get(configuration))
    said = {k: v for k, v in plan.items() if k not in ("configurations", "reasons")}
    own = {configuration: {k: v for k, v in chosen.items() if k != "reasons"}}
    return tuple(_rows({**said, **own}))


def _rows(data: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested objects as rows with dotted names."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            rows += _rows(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _text(value)))
    return rows


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(
            f"({_text(item)})" if isinstance(item, list) else _text(item) for item in value
        )
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _json_if_there(path: Path) -> dict[str, Any]:
    return _object(read_json(path)) if path.is_file() else {}
