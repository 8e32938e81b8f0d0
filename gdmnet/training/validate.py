"""The end of a training: whole validation cases predicted and scored, and the realism dial set."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gdmnet import codec, folders
from gdmnet.arrays.normalise import invert
from gdmnet.charts import Chart, Curve
from gdmnet.data.case import Case
from gdmnet.data.store import StoredCase
from gdmnet.data.volume import write_volume
from gdmnet.inference.model import load_model
from gdmnet.inference.translator import Translator
from gdmnet.metrics.score import METRICS, score
from gdmnet.metrics.statistics import Values, aggregate_cases
from gdmnet.metrics.summary import Summary, summarise
from gdmnet.models import checkpoint
from gdmnet.models.card import MOST_REALISM, PredictionSettings
from gdmnet.models.folder import DIAL_JSON, DialChoice
from gdmnet.training import log
from gdmnet.training.progress import PROGRESS_PNG, draw_progress

FOLDER = "validation"
SETTINGS = tuple(float(t) for t in np.arange(0.0, MOST_REALISM + 0.01, 0.25))
LOOK = ("histogram_w1", "gradient_w1", "spectrum_distance")  # lower is better
MOST_SHARPNESS = 1.1  # beyond it there is texture that the target does not have
ROUNDING = 1e-4  # of figures that are 0 but for the arithmetic: HU, dB
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
    codec.save(summary, home / folders.SUMMARY_JSON)
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


def dial_fold(
    model: Path, fold: str, cases: Sequence[StoredCase], *, device: str, budget: float
) -> dict[str, Values]:
    """Score a fold's validation at every setting T and write the chosen one into dial.json.

    Chosen is the largest T that costs neither MAE nor plausibility: `choose_setting`.

    Args:
        model: the model's folder.
        fold: "0", "1", ... or "all".
        cases: of the fold's validation, with targets.
        device: as for `load_model`.
        budget: a share of the twin's MAE, for example 0.01.

    Returns:
        T as text -> metric -> mean over the cases; empty where the model has no twin.
    """
    home = folders.fold_folder(model, fold)
    if "twin" not in checkpoint.load(home / folders.FINAL):
        return {}
    front: dict[str, Values] = {}
    for setting in tqdm(SETTINGS, desc="realism dial", disable=None, leave=False):
        translator = load_model(
            model, PredictionSettings(realism=setting), folds=[fold], device=device
        )
        scores = {
            case.record.identifier: score_prepared(
                translator, case, translator.predict(as_input(case)).mean
            )
            for case in cases
        }
        means = aggregate_cases(scores)
        front[f"{setting:g}"] = {metric: values["mean"] for metric, values in means.items()}
    chosen, reason = choose_setting(front, budget)
    codec.save(DialChoice(chosen, budget), home / DIAL_JSON)
    draw_progress(log.read(home), home / PROGRESS_PNG, more=[_chart(front, chosen)])
    _log.info("realism dial: %g is chosen; %s", chosen, reason)
    return front


def choose_setting(front: Mapping[str, Values], budget: float) -> tuple[float, str]:
    """The largest T before the first setting that costs too much, and what stops the next one.

    A setting costs too much whose MAE exceeds the twin's (T = 0) by more than the budget, whose
    sharpness exceeds 1.1 and the twin's (texture that is not there), or one of whose figures of
    plausibility is worse than the twin's by more than the budget.

    Args:
        front: T as text, ascending from 0 -> metric -> mean over the cases.
        budget: a share, for example 0.01.
    """
    twin, chosen = front["0"], 0.0
    for setting, values in front.items():
        for name in ("mae", "sharpness", *LOOK):
            value, first = values.get(name), twin.get(name)
            if value is None or first is None:
                continue
            most = max(MOST_SHARPNESS, first) if name == "sharpness" else (1 + budget) * first
            if value > most + ROUNDING:
                return chosen, f"at {setting} {name} is {value:.4g}, at most {most:.4g} is allowed"
        chosen = float(setting)
    return chosen, "it is the largest one tried"


def as_input(stored: StoredCase) -> Case:
    """A prepared case without its target."""
    return Case(stored.record, stored.source[:], None, stored.body[:])


def score_prepared(translator: Translator, stored: StoredCase, prediction: NDArray) -> Values:
    """Score a prediction (1, z, y, x) in network units on the prepared grid: in HU for CT."""
    guess, truth = prediction[0], stored.target[:][0]
    target = translator.configuration.target
    if target.scheme == "ct":
        guess, truth = np.asarray(invert(guess, target)), np.asarray(invert(truth, target))
    return score(guess, truth, stored.body[:], stored.record.spacing)


def _chart(front: Mapping[str, Values], chosen: float) -> Chart:
    """Each figure relative to the twin's."""
    curves = [
        Curve(
            name.replace("_", " "),
            [(float(t), (values.get(name) or np.nan) / first) for t, values in front.items()],
        )
        for name in ("mae", *LOOK)
        if (first := front["0"].get(name))
    ]
    points = curves[0].points if curves else []
    return Chart(
        "Realism dial, relative to the twin (circle: chosen)",
        curves,
        marks=(1.0,),
        star=next((point for point in points if point[0] == chosen), None),
        x_title="realism T",
    )
