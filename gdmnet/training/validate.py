"""The end of a training: the validation cases as whole volumes, predicted and scored."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from gdmnet import codec, folders
from gdmnet.data.case import CaseFiles
from gdmnet.data.raw import read_description, training_cases
from gdmnet.data.store import StoredCase
from gdmnet.data.volume import write_volume
from gdmnet.inference.model import load_model
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.metrics.evaluation import ImagePair, evaluate_pairs, summarise_cases
from gdmnet.metrics.score import METRICS
from gdmnet.metrics.statistics import Values
from gdmnet.metrics.summary import Summary
from gdmnet.training.dial import as_input, dial_fold

FOLDER = "validation"
ON_TRAINING = "the cases were trained on: this says nothing about new patients"
_log = logging.getLogger(__name__)


def validate_fold(
    model: Path,
    fold: str,
    cases: Sequence[StoredCase],
    raw: Path,
    *,
    device: str,
    on_training: bool,
    fidelity_budget: float = 0.01,
) -> Summary | None:
    """Predict every case of a fold with its final weights and score it as gdm_evaluate does.

    Predictions are written to the fold's validation folder, on the source's own grid, as
    gdm_predict would write them, and scored against the raw targets: inside the dataset's masks,
    or the body; in HU for CT. Targets without a physical unit are matched linearly first.

    Args:
        model: the model's folder.
        fold: "0", "1", ... or "all".
        cases: of the fold's validation, with targets.
        raw: folder of the raw dataset. Where it lacks a target nothing is scored, and said so.
        device: as for `load_model`.
        on_training: the cases were trained on; the summary says so.
        fidelity_budget: share of the MAE that a realism dial's setting may cost; see `dial_fold`.

    Returns:
        What was written to summary.json; None where nothing is scored.
    """
    home = folders.fold_folder(model, fold)
    front = dial_fold(model, fold, cases, device=device, budget=fidelity_budget)
    translator = load_model(model, folds=[fold], device=device)
    (home / FOLDER).mkdir(parents=True, exist_ok=True)
    predictions = {}
    for stored in tqdm(cases, desc="validation", disable=None, leave=False):
        name, case = stored.record.identifier, as_input(stored)
        predictions[name] = home / FOLDER / f"{name}{translator.plan.file_ending}"
        volume = translator.restore(translator.predict(case), case)
        write_volume(predictions[name], volume, integer=translator.plan.integer_output)
    settings = EvaluationSettings(
        match_intensity=None if translator.configuration.target.scheme == "ct" else "linear",
        allow_constant=True,
    )
    return _score(predictions, raw, home, settings, front, ON_TRAINING if on_training else None)


def _score(
    predictions: Mapping[str, Path],
    raw: Path,
    home: Path,
    settings: EvaluationSettings,
    front: dict[str, Values],
    note: str | None,
) -> Summary | None:
    """Score predictions against the raw targets, and write summary.json."""
    cases: list[CaseFiles] = []
    if (raw / folders.DATASET_JSON).is_file():
        cases, _ = training_cases(raw, read_description(raw))
    pairs = [
        ImagePair(case.identifier, predictions[case.identifier], case.target, case.mask)
        for case in cases
        if case.identifier in predictions and case.target is not None
    ]
    if len(pairs) < len(predictions):
        lacking = ", ".join(sorted(set(predictions) - {pair.identifier for pair in pairs}))
        text = f"{raw}: no target of {lacking}, so that {home / FOLDER} is not scored"
        _log.warning("warning: %s; name its place by --raw, and add --continue", text)
        return None
    scored = evaluate_pairs(pairs, settings)
    names = [pair.identifier for pair in pairs]
    summary = summarise_cases(dict(zip(names, scored, strict=True)), settings)
    summary = dataclasses.replace(summary, realism=front, note=note)
    codec.save(summary, home / folders.SUMMARY_JSON, private=True)
    means = {m: summary.aggregate[m]["mean"] for m in METRICS}
    words = ", ".join(f"{name} {value:.4g}" for name, value in means.items() if value is not None)
    _log.info(
        "validation of %d cases: %s (%s, inside %s)", len(pairs), words, summary.units, summary.mask
    )
    return summary
