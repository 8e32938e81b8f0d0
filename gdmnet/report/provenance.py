"""Where predictions come from: predictions.json, the model's folder, the sources' checksums.

predictions.json is read leniently, not by `codec`: a report shows what is there, also of files that
another version wrote, and must not need torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdmnet.codec import read_json
from gdmnet.files import file_sha256
from gdmnet.folders import PLAN_JSON, RUN_JSON, fold_folder

DIFFERS = "DIFFERS"  # stands in verdicts that must not be overlooked
Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CaseOrigin:
    """What is known about one case."""

    warnings: tuple[str, ...] = ()  # for a person to read before using the prediction
    error: str | None = None  # why it failed
    inputs: Rows = ()  # file name of each source, and its SHA-256 with a verdict
    # every way in which the input is unlike the training data: what, value, training range,
    # accepted range; None where nothing was compared
    findings: tuple[tuple[str, str, str, str], ...] | None = None
    coverage: float | None = None  # share of the voxels that half-widths of a map shall hold
    expected_mae: float | None = None  # without a reference, file units
    validation_mae: tuple[float, ...] = ()  # lowest and highest of the model's validation cases


@dataclass(frozen=True)
class Origin:
    """Where the predictions of a folder come from."""

    rows: Rows = ()  # files, model, settings, versions; () where nothing is recorded
    cases: Mapping[str, CaseOrigin] = field(default_factory=dict)  # by identifier
    channel_names: tuple[str, ...] = ()  # of the sources; () where the model is not found


def read_origin(predictions: Path, sources: Mapping[str, Sequence[Path]] | None = None) -> Origin:
    """What is known from the predictions' folder and the model's folder, if it is there.

    Of several records of a case the newest counts. `sources`, by identifier, are the files that are
    held against the recorded checksums.

    Raises:
        PlanError: predictions.json is no JSON.
    """
    rows: list[tuple[str, str]] = []
    cases: dict[str, CaseOrigin] = {}
    names: tuple[str, ...] = ()
    paths = sorted(predictions.glob("predictions*.json"))
    records = [(path.name, _object(read_json(path))) for path in paths]
    for file, record in sorted(records, key=lambda one: str(one[1].get("date") or "")):
        model = _object(record.get("model"))
        folder = _model_folder(predictions, model)
        names = _channel_names(folder) if folder else names
        rows += [(name, text) for name, text in _rows(file, record, model, folder) if text]
        for name, result in _object(record.get("cases")).items():
            cases[name] = _case(_object(result), (sources or {}).get(name, ()))
    fold = predictions.resolve().parent
    if not rows and (fold / RUN_JSON).is_file():  # the validation of a training
        names = _channel_names(fold.parent)
        run = _object(read_json(fold / RUN_JSON))
        about = {key: value for key, value in run.items() if not key.endswith("_cases")}
        rows = [("model", str(fold.parent)), ("training", _text(about))]
    return Origin(tuple(rows), cases, names)


def _rows(
    name: str, record: dict[str, Any], model: dict[str, Any], folder: Path | None
) -> Iterator[tuple[str, str]]:
    """What one predictions.json says of files, model, settings and versions."""
    settings = _object(model.get("settings"))
    kind = settings.get("checkpoint") or model.get("checkpoint")
    about = {k: v for k, v in model.items() if k not in ("settings", "checkpoints")}
    yield name, _text({key: record.get(key) for key in ("date", "command")})
    yield "model", _text(about)
    yield "model found at", str(folder or "")
    for fold, digest in _object(model.get("checkpoints")).items():
        verdict = "is not there"
        path = None if folder is None else fold_folder(folder, fold) / f"checkpoint_{kind}.pt"
        if path is not None and path.is_file():
            same = file_sha256(path) == digest
            verdict = "as recorded" if same else f"{DIFFERS}: trained anew since the prediction"
        yield f"checkpoint of fold {fold}", f"SHA-256 {digest} ({verdict})"
    yield "settings", _text(settings)
    yield "versions", _text({"gdmnet": record.get("version"), **_object(record.get("versions"))})


def _channel_names(model: Path) -> tuple[str, ...]:
    return tuple(map(str, _list(_object(read_json(model / PLAN_JSON)).get("channel_names"))))


def _model_folder(predictions: Path, model: dict[str, Any]) -> Path | None:
    """The model's folder, if it is there: as named, from here or from above the predictions."""
    name = model.get("folder")
    if not isinstance(name, str) or not name:
        return None
    whole = predictions.resolve()
    places = (Path(name), *(above / name for above in (whole, *whole.parents)))
    is_there = os.path.isfile  # Path.is_file raises where a name is too long
    return next((place for place in places if is_there(place / PLAN_JSON)), None)


def _case(result: dict[str, Any], sources: Sequence[Path]) -> CaseOrigin:
    recorded = {str(name): str(digest) for name, digest in _object(result.get("inputs")).items()}
    found = {path.name: file_sha256(path) for path in sources}
    names = dict.fromkeys((*recorded, *found))
    verdicts = {name: _verdict(recorded.get(name), found.get(name)) for name in names}
    warnings = [str(warning) for warning in _list(result.get("warnings"))]
    warnings += [f"{name} {verdict}" for name, verdict in verdicts.items() if DIFFERS in verdict]
    series = [_object(own) for own in _list(result.get("series"))]
    inputs = [("DICOM series", f"{s.get('description')} in {s.get('folder')}") for s in series]
    inputs += [
        (name, f"SHA-256 {found.get(name) or recorded[name]} ({verdict})")
        for name, verdict in verdicts.items()
    ]
    error, findings = result.get("error"), result.get("input_check")
    stated = _object(result.get("uncertainty"))
    ends = map(_number, _list(stated.get("validation_mae")))
    return CaseOrigin(
        warnings=tuple(warnings),
        error=None if error is None else str(error),
        inputs=tuple(inputs),
        findings=tuple(map(_finding, findings)) if isinstance(findings, list) else None,
        coverage=_number(stated.get("coverage")),
        expected_mae=_number(stated.get("expected_mae")),
        validation_mae=tuple(end for end in ends if end is not None),
    )


def _verdict(recorded: str | None, found: str | None) -> str:
    if recorded is None:
        return "not recorded"
    if found is None:
        return "recorded, not compared"
    return "as translated" if found == recorded else f"{DIFFERS} from what was translated"


def _finding(value: object) -> tuple[str, str, str, str]:
    finding = _object(value)
    training, accepted = (
        " to ".join(map(_text, ends)) if isinstance(ends, list) else _text(ends)
        for ends in (finding.get("training"), finding.get("accepted"))
    )
    found = f"{_text(finding.get('value'))} {finding.get('unit') or ''}".strip()
    return str(finding.get("what")), found, training, accepted


def _text(value: object) -> str:
    """JSON in words; of an object what is said and not empty."""
    if isinstance(value, dict):
        said = {
            key: text for key, item in value.items() if item is not None and (text := _text(item))
        }
        return ", ".join(f"{key} {text}" for key, text in said.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
