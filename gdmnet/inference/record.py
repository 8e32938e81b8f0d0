"""predictions.json: what was predicted in a folder, by which model, from which files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gdmnet import codec
from gdmnet.errors import OutputError
from gdmnet.inference.input_check import Finding, InputCheck
from gdmnet.models.card import ModelCard

OUTDATED = "outdated"
_SETTINGS_OF_1 = {"checkpoint", "step_size", "tta", "ensemble", "steps", "sampler", "seed"}


@dataclass(frozen=True)
class UncertaintyMap:
    """The uncertainty map of one case, in the target's units.

    Attributes:
        output: the map's file, seen from the output folder.
        sources: what the opinions come from: folds, mirrored copies, overlapping windows.
        mean: of the map inside the body.
        single_opinion: share of the body where there was only one opinion (or none differed): 0 in
            a map of standard deviations says nothing there.
        coverage: share of the voxels that is expected within +- the map; None for a map of
            standard deviations, of a model without an `ExpectedError` that fits.
        expected_mae: in the body of the prediction; None as above.
        validation_mae: lowest and highest MAE of the model's validation cases; None as above.
    """

    output: str
    sources: str
    mean: float
    single_opinion: float
    coverage: float | None = None
    expected_mae: float | None = None
    validation_mae: tuple[float, float] | None = None


@dataclass(frozen=True)
class SourceSeries:
    """A DICOM series: where it lay and what it is called; its UIDs as hashes.

    Attributes:
        folder: it lay in.
        description: modality and SeriesDescription.
        name: as `data.dicom.case_name`.
        frame: as `data.dicom.frame_name`.
    """

    folder: str
    description: str
    name: str
    frame: str


@dataclass(frozen=True)
class CaseResult:
    """What became of one case.

    Attributes:
        status: "done"; "failed"; or "outdated": an earlier run's file is still there, which
            --overwrite was to replace, and the next run will.
        output: file name of the prediction.
        inputs: file name -> SHA-256 of each source.
        seconds: of the translation, without reading ahead; None where an earlier run did it.
        mask_rule: how the body was found.
        warnings: what a person should know before using the result.
        error: why it is not done.
        traceback: of an error that nobody foresaw.
        input_check: each way in which the input is unlike the training data, () if it is not;
            None where the model's folder does not say what it was trained on.
        uncertainty: None if it was not asked for.
        series: the DICOM series it was made of, a channel each: folder and what it is called.
    """

    status: str
    output: str
    inputs: dict[str, str]
    seconds: float | None = None
    mask_rule: str | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None
    traceback: str | None = None
    input_check: tuple[Finding, ...] | None = None
    uncertainty: UncertaintyMap | None = None
    series: tuple[SourceSeries, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """The contents of predictions.json.

    Attributes:
        schema: of the file.
        version: of gdmnet.
        model: which weights, and how they are used.
        versions: of the libraries.
        cases: identifier -> what became of it.
        input_check: what inputs are compared with.
        date: when the last run over the folder began, ISO 8601 in UTC.
        command: that run's command line.
    """

    SCHEMA: ClassVar[int] = 2
    schema: int
    version: str
    model: ModelCard
    versions: dict[str, str]
    cases: dict[str, CaseResult]
    input_check: InputCheck | None = None
    date: str | None = None
    command: str | None = None


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
