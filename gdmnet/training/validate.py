"""The end of a training: whole validation cases predicted and scored, dial and finish set."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet import codec, folders
from gdmnet.arrays.normalise import invert
from gdmnet.charts import Chart, Curve
from gdmnet.data.case import Case, CaseFiles, Volume
from gdmnet.data.raw import read_description, training_cases
from gdmnet.data.store import StoredCase
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.inference.finish import STRENGTHS, FinishCase, apply_finish, fit_finish
from gdmnet.inference.translator import Translator, load_model
from gdmnet.metrics import evaluation
from gdmnet.metrics.conventions import GDMNET, EvaluationSettings
from gdmnet.metrics.evaluation import METRICS, ImagePair, find_mask, score
from gdmnet.metrics.image import match_linear
from gdmnet.metrics.statistics import Values, aggregate_cases
from gdmnet.metrics.summary import Summary
from gdmnet.metrics.titles import title_of
from gdmnet.models import checkpoint
from gdmnet.models.card import MOST_REALISM, PredictionSettings
from gdmnet.models.folder import DIAL_JSON, FINISH_JSON, DialChoice
from gdmnet.parallel import progress_bar
from gdmnet.plan import Configuration, SpectralFinish
from gdmnet.preprocessing import prepare
from gdmnet.training import log
from gdmnet.training.distributed import collected, made_by_leader, this_process
from gdmnet.training.expected_error import CaseErrors, sample_errors, save_errors, update_table
from gdmnet.training.progress import INTERNALS_PNG, draw_internals
from gdmnet.training.run import FoldTraining
from gdmnet.training.settings import TrainingSettings

FOLDER = "validation"
ON_TRAINING = "the cases were trained on: this says nothing about new patients"
SETTINGS = tuple(float(t) for t in np.arange(0.0, MOST_REALISM + 0.01, 0.25))
LOOK = ("histogram_w1", "gradient_w1", "spectrum_distance")  # lower is better
MOST_FINISHED = 8  # cases that a finish is fitted to
MOST_SHARPNESS = 1.1  # beyond it there is texture that the target does not have
ROUNDING = 1e-4  # of figures that are 0 but for the arithmetic: HU, dB
_log = logging.getLogger(__name__)


def validate_fold(training: FoldTraining, settings: TrainingSettings, raw: Path) -> Summary | None:
    """Predict every case of a fold with its final weights and score it as gdm_evaluate does.

    Predictions are written to the fold's validation folder, on the source's own grid, as
    gdm_predict would write them, and scored against the raw targets: inside the dataset's masks, or
    the body; in HU for CT. Targets without a physical unit are matched linearly first. Processes
    that train together share the cases; rank 0 tunes and scores.

    Args:
        training: that is finished; its split says whether the cases were trained on.
        settings: may ask for a spectral finish, and say what it and the dial may cost.
        raw: folder of the raw dataset, whose sources are predicted; those of the prepared cases
            where it is not there. Where it lacks a target nothing is scored, and said so.

    Returns:
        What was written to summary.json; None where nothing is scored.
    """
    home, cases, budget = training.folder, training.cases()[1], settings.fidelity_budget

    def tuned() -> dict[str, Values]:
        front = dial_fold(training, cases, budget)
        (home / FINISH_JSON).unlink(missing_ok=True)
        if settings.finish:
            finish_fold(training, cases, budget, front)
        return front

    front = made_by_leader(tuned)
    translator = _translator(training)
    known, process = _raw_cases(raw), this_process()
    on_training = training.split.validates_on_training
    measures = not on_training and translator.card.settings.sampler is None
    shared = cases[process.rank :: process.n_ranks]
    own = _predict(translator, shared, known, home / FOLDER, measures=measures)
    found = {name: result for part in collected(own) for name, result in part.items()}
    predictions = {name: path for name, (path, _) in found.items()}
    pairs = [
        ImagePair(name, prediction, target, known[name].mask)
        for name, prediction in sorted(predictions.items())
        if name in known and (target := known[name].target) is not None
    ]
    if len(pairs) < len(predictions):
        lacking = ", ".join(sorted(set(predictions) - {pair.identifier for pair in pairs}))
        text = f"{raw}: no target of {lacking}, so that {home / FOLDER} is not scored"
        _log.warning("warning: %s; name its place by --raw, and add --continue", text)
        return None
    matched = None if translator.configuration.target.scheme == "ct" else "linear"
    convention = EvaluationSettings(match_intensity=matched, allow_constant=True)
    note = ON_TRAINING if on_training else None
    errors = [error for _, error in found.values() if error is not None]

    def judged() -> Summary:
        summary = _score(pairs, home, convention, front, note)
        if errors:
            save_errors(errors, home)
        update_table(home.parent, translator.configuration)
        return summary

    return made_by_leader(judged)


def _translator(training: FoldTraining, settings: PredictionSettings | None = None) -> Translator:
    folder, device = training.folder.parent, str(training.process_device())
    return load_model(folder, settings, folds=[training.run.fold], device=device)


def _predict(
    translator: Translator,
    cases: Sequence[StoredCase],
    known: Mapping[str, CaseFiles],
    folder: Path,
    *,
    measures: bool,
) -> dict[str, tuple[Path, CaseErrors | None]]:
    """Predict cases from their raw sources, where those are there, as gdm_predict does.

    If it `measures`, also the errors of those that have a raw target.
    """
    folder.mkdir(parents=True, exist_ok=True)
    predictions = {}
    for stored in progress_bar(cases, "validation"):
        name = stored.record.identifier
        case = as_input(stored)
        if name in known:  # as at prediction: no mask is given, and the source's own grid is known
            files = CaseFiles(name, known[name].sources)
            case = prepare(files, translator.configuration)
        path = folder / f"{name}{translator.plan.file_ending}"
        estimate = translator.predict(case, spread="mirrored" if measures else None)
        volume = translator.restore(estimate, case)
        write_volume(path, volume, integer=translator.plan.integer_output)
        errors = None
        if estimate.std is not None and name in known and known[name].target is not None:
            difficulty = translator.difficulty(estimate, case)
            errors = _errors(volume, difficulty, known[name], translator.configuration)
        predictions[name] = path, errors
    return predictions


def _errors(
    volume: Volume, difficulty: Volume, files: CaseFiles, configuration: Configuration
) -> CaseErrors:
    """Errors of a prediction where its scores count; of an MR's after the linear match."""
    assert files.target is not None
    target, prediction = read_volume(files.target), volume.array[0]
    truth, mask = target.array[0], find_mask(files.mask, target, GDMNET)[0]
    if configuration.target.scheme != "ct":  # in the units of the prediction, which are one
        gain, offset = match_linear(prediction, truth, mask)
        truth = (truth - offset) / (gain or 1.0)
    return sample_errors(prediction, difficulty.array[0], truth, mask)


def _raw_cases(raw: Path) -> dict[str, CaseFiles]:
    is_there = (raw / folders.DATASET_JSON).is_file()
    cases = training_cases(raw, read_description(raw))[0] if is_there else ()
    return {case.identifier: case for case in cases}


def _score(
    pairs: Sequence[ImagePair],
    home: Path,
    settings: EvaluationSettings,
    front: dict[str, Values],
    note: str | None,
) -> Summary:
    """Score predictions against the raw targets, and write summary.json."""
    scored = evaluation.evaluate_pairs(pairs, settings)
    names = [pair.identifier for pair in pairs]
    summary = evaluation.summarise_cases(dict(zip(names, scored, strict=True)), settings)
    summary = dataclasses.replace(summary, realism=front, note=note)
    codec.save(summary, home / folders.SUMMARY_JSON, private=True)
    means = {m: summary.aggregate[m]["mean"] for m in METRICS}
    words = ", ".join(
        f"{title_of(name, summary.unit)} {value:.4g}"
        for name, value in means.items()
        if value is not None
    )
    n_cases = f"{len(pairs)} case{'s' * (len(pairs) > 1)}"
    _log.info("validation of %s: %s; mask: %s", n_cases, words, summary.mask)
    return summary


def dial_fold(
    training: FoldTraining, cases: Sequence[StoredCase], budget: float
) -> dict[str, Values]:
    """Score a fold's validation at every setting T and write the chosen one into dial.json.

    Chosen is the largest T that costs neither MAE nor plausibility: `choose_setting`. The budget is
    a share of the twin's MAE.

    Returns:
        T as text -> metric -> mean over the cases; empty where the model has no twin.
    """
    home = training.folder
    if "twin" not in checkpoint.load(home / folders.FINAL):
        return {}
    front: dict[str, Values] = {}
    for setting in progress_bar(SETTINGS, "realism dial"):
        translator = _translator(training, PredictionSettings(realism=setting, finish=False))
        predicted = ((case, translator.predict(as_input(case)).mean) for case in cases)
        front[f"{setting:g}"] = _mean_scores(translator, predicted)
    chosen, reason = choose_setting(front, budget)
    codec.save(DialChoice(chosen, budget), home / DIAL_JSON)
    draw_internals(log.read(home), home / INTERNALS_PNG, more=[_chart(front, chosen)])
    _log.info("realism dial: %g is chosen; %s", chosen, reason)
    return front


def finish_fold(
    training: FoldTraining, cases: Sequence[StoredCase], budget: float, front: Mapping[str, Values]
) -> SpectralFinish:
    """Fit a fold's spectral finish to its validation, and write it to finish.json.

    Its strength is the largest that costs neither MAE nor plausibility (`choose_setting`), of at
    most eight cases; 0 leaves predictions as they are. The budget is a share of the MAE without the
    filter, or of the twin's, where the `front` of a dial has one.
    """
    home, translator, few = training.folder, _translator(training), cases[:MOST_FINISHED]
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        places = [Path(scratch) / f"{number}.npy" for number in range(len(few))]
        for case, place in zip(few, places, strict=True):
            np.save(place, translator.predict(as_input(case)).mean[0])

        def known() -> Iterator[FinishCase]:
            for c, place in zip(few, places, strict=True):
                spacing = c.record.spacing
                yield FinishCase(np.load(place), c.target[:][0], c.body[:] > 0, spacing)

        finish = fit_finish(known())
        tried: dict[str, Values] = {}
        for strength in STRENGTHS:
            attempt = dataclasses.replace(finish, strength=strength)
            finished = (
                (c, apply_finish(attempt, own.prediction, own.body, own.spacing)[None])
                for c, own in zip(few, known(), strict=True)
            )
            tried[f"{strength:g}"] = _mean_scores(translator, finished)
    if front:
        tried["0"]["mae"] = front["0"]["mae"]  # the budget is one, of dial and finish together
    strength, reason = choose_setting(tried, budget)
    finish = dataclasses.replace(finish, strength=strength)
    codec.save(finish, home / FINISH_JSON)
    _log.info("spectral finish: strength %g is chosen; %s", strength, reason)
    return finish


def choose_setting(front: Mapping[str, Values], budget: float) -> tuple[float, str]:
    """The largest T before the first setting that costs too much, and what stops the next one.

    A setting costs too much whose MAE exceeds the twin's (T = 0) by more than the budget, a share,
    whose sharpness exceeds 1.1 and the twin's (texture that is not there), or one of whose figures
    of plausibility is worse than the twin's by more than the budget. The front has T as text,
    ascending from 0 -> metric -> mean over the cases.
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


def _mean_scores(translator: Translator, predicted: Iterable[tuple[StoredCase, NDArray]]) -> Values:
    """Metric -> mean over cases with their predictions, see `score_prepared`."""
    scores = {c.record.identifier: score_prepared(translator, c, image) for c, image in predicted}
    return {metric: values["mean"] for metric, values in aggregate_cases(scores).items()}


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
