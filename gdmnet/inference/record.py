"""predictions.json: what was predicted in a folder, by which model, from which files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gdmnet import codec
from gdmnet.errors import OutputError
from gdmnet.inference.input_check import Finding, InputCheck
from gdmnet.models.card import ModelCard

OUTDATED = "outdated"  # an earlier run's file is there, which the next run will replace
_SETTINGS_OF_1 = {"checkpoint", "step_size", "tta", "ensemble", "steps", "sampler", "seed"}


@dataclass(frozen=True)
class UncertaintyMap:
    """The uncertainty map of one case, in the target's units."""

    output: str  # the map's file, seen from the output folder
    sources: str  # what the opinions come from: folds, mirrored copies, overlapping windows
    mean: float  # of the map inside the body
    single_opinion: float  # share of the body where only one is, or none differ: a map of 0
    # None for a map of standard deviations, of a model without an `ExpectedError` that fits:
    coverage: float | None = None  # share of the voxels that is expected within +- the map
    expected_mae: float | None = None  # in the body of the prediction
    validation_mae: tuple[float, float] | None = None  # lowest and highest of validation cases


@dataclass(frozen=True)
class SourceSeries:
    """A DICOM series: where it lay and what it is called; its UIDs as hashes."""

    folder: str
    description: str  # modality and SeriesDescription
    name: str  # as `data.dicom.case_name`
    frame: str  # as `data.dicom.frame_name`


@dataclass(frozen=True)
class CaseResult:
    """What became of one case."""

    status: str  # "done"; "failed"; or `OUTDATED`
    output: str  # file name of the prediction
    inputs: dict[str, str]  # file name -> SHA-256 of each source
    seconds: float | None = None  # without reading ahead; None where an earlier run did it
    mask_rule: str | None = None  # how the body was found
    warnings: tuple[str, ...] = ()  # what a person should know before using the result
    error: str | None = None  # why it is not done
    traceback: str | None = None  # of an error that nobody foresaw
    # how the input is unlike the training data; None where that is not known
    input_check: tuple[Finding, ...] | None = None
    uncertainty: UncertaintyMap | None = None  # None if it was not asked for
    series: tuple[SourceSeries, ...] = ()  # that it was made of, one a channel


@dataclass(frozen=True)
class Predictions:
    """The contents of predictions.json."""

    SCHEMA: ClassVar[int] = 2
    schema: int
    version: str  # of gdmnet
    model: ModelCard
    versions: dict[str, str]  # of the libraries
    cases: dict[str, CaseResult]  # by identifier
    input_check: InputCheck | None = None
    date: str | None = None  # when the last run over the folder began, ISO 8601 in UTC
    command: str | None = None  # of that run


def record_name(part_id: int, n_parts: int) -> str:
    """predictions.json, or predictions_0_of_4.json where several processes share the cases."""
    return "predictions.json" if n_parts == 1 else f"predictions_{part_id}_of_{n_parts}.json"


def read_records(folder: Path) -> dict[str, Predictions]:
    """All records of an output folder by their file name.

    Raises:
        PlanError: one is damaged or was written by another version.
    """
    return {path.name: _read_record(path) for path in sorted(folder.glob("predictions*.json"))}


def earlier_results(folder: Path, card: ModelCard) -> dict[str, tuple[str, CaseResult]]:
    """What is known of each case, and the name of the newest record that says so.

    Raises:
        OutputError: predictions come from other weights or settings than the card's.
        PlanError: a record is damaged or was written by another version.
    """
    newest: dict[str, tuple[str, Predictions]] = {}
    for name, record in sorted(read_records(folder).items(), key=lambda item: item[1].date or ""):
        newest.update(dict.fromkeys(record.cases, (name, record)))
    for name, record in newest.values():
        difference = card.difference(record.model)
        if difference is not None:
            raise OutputError(
                f"{folder / name}: the predictions there come from another model or settings"
                f" ({record.model.folder}, other {difference}); give another output folder, or"
                " --overwrite"
            )
    return {case: (name, record.cases[case]) for case, (name, record) in newest.items()}


def _read_record(path: Path) -> Predictions:
    data = codec.read_json(path)
    if not (isinstance(data, dict) and data.get("schema") == 1):
        return codec.load(Predictions, path)
    card = data.get("model")
    if isinstance(card, dict):  # in schema 1 the settings stood beside the rest of the card
        settings = {name: card.pop(name) for name in _SETTINGS_OF_1 & set(card)}
        data |= {"schema": Predictions.SCHEMA, "model": {**card, "settings": settings}}
    return codec.decode(Predictions, data, str(path))
