"""The end of a training: the validation cases as whole volumes, predicted and scored."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from gdmnet import codec, folders
from gdmnet.data.store import StoredCase
from gdmnet.data.volume import write_volume
from gdmnet.inference.model import load_model
from gdmnet.inference.translator import Translator
from gdmnet.metrics.score import METRICS
from gdmnet.metrics.statistics import Values
from gdmnet.metrics.summary import Summary, summarise
from gdmnet.training.dial import as_input, dial_fold, score_prepared

FOLDER = "validation"
_log = logging.getLogger(__name__)


def validate_fold(
    model: Path,
    fold: str,
    cases: Sequence[StoredCase],
    *,
    device: str,
    on_training: bool,
    fidelity_budget: float = 0.01,
) -> Summary:
    """Predict every case of a fold with its final weights and score it inside the body.

    Scores are taken on the prepared grid, in HU for CT; targets without a physical unit are scored
    in network units, each case with its own percentiles. Predictions are written to the fold's
    validation folder, on the source's own grid, as gdm_predict would write them.

    Args:
        model: the model's folder.
        fold: "0", "1", ... or "all".
        cases: of the fold's validation, with targets.
        device: as for `load_model`.
        on_training: the cases were trained on; the summary says so.
        fidelity_budget: share of the MAE that a realism dial's setting may cost; see `dial_fold`.

    Returns:
        What was written to summary.json.
    """
    home = folders.fold_folder(model, fold)
    front = dial_fold(model, fold, cases, device=device, budget=fidelity_budget)
    translator = load_model(model, folds=[fold], device=device)
    scores: dict[str, Values] = {}
    for case in tqdm(cases, desc="validation", disable=None, leave=False):
        scores[case.record.identifier] = _judge(translator, case, home / FOLDER)
    rules = sorted({case.record.mask_rule for case in cases})
    is_ct = translator.configuration.target.scheme == "ct"
    note = "the cases were trained on: this says nothing about new patients"
    summary = summarise(
        scores,
        units="HU" if is_ct else "network units (each case's own percentiles 1 and 99 are 0 and 1)",
        mask=f"the body as prepared ({', '.join(rules)})",
        note=note if on_training else None,
    )
    summary = dataclasses.replace(summary, realism=front)
    codec.save(summary, home / folders.SUMMARY_JSON, private=True)
    means = {m: summary.aggregate[m]["mean"] for m in METRICS}
    words = ", ".join(f"{name} {value:.4g}" for name, value in means.items() if value is not None)
    _log.info("validation of %d cases: %s", len(cases), words)
    return summary


def _judge(translator: Translator, stored: StoredCase, folder: Path) -> Values:
    """Predict a case, write it as gdm_predict would, and score it."""
    case = as_input(stored)
    estimate = translator.predict(case)
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(
        folder / f"{stored.record.identifier}{translator.plan.file_ending}",
        translator.restore(estimate, case),
        integer=translator.plan.integer_output,
    )
    return score_prepared(translator, stored, estimate.mean)
