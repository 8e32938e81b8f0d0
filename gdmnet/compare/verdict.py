"""What a judge says of predictions: distances to the real images, with a floor and a ceiling."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gdmnet import codec, folders
from gdmnet.compare import judge as judges
from gdmnet.compare.judge import MOST_SUBJECTS, Judge, Subject, Subjects, make_judge
from gdmnet.compare.settings import JudgeSettings
from gdmnet.data.case import CaseFiles
from gdmnet.data.case_files import images_by_case
from gdmnet.errors import TrainingError
from gdmnet.inference.record import read_records
from gdmnet.metrics.evaluation import ImagePair
from gdmnet.metrics.frechet import Distance, Distances, Projection, compare, principal_axes
from gdmnet.metrics.image import match_mean_and_std
from gdmnet.models.checkpoint import weights_sha256
from gdmnet.models.seeds import numpy_rng
from gdmnet.plan import Run
from gdmnet.table import text_table

N_PATCHES = 2000  # of all subjects together, at least
FEWEST_A_SUBJECT = 64
BLUR = 1.0  # voxels: sigma of the ceiling
N_SPLITS = 10  # of the subjects into halves, for a floor without other subjects
_PLACES, _HALVES = 1, 2  # streams of randomness
_log = logging.getLogger(__name__)

Sets = dict[str, list[NDArray]]


@dataclass(frozen=True)
class JudgeVerdict:
    """Distances in a judge's features; smaller is more like the real images."""

    judge: str  # see `describe_judge`
    n_subjects: int  # with a prediction and a real image
    n_patches: int  # of each kind of image, at the same places
    n_dimensions: int  # principal axes of the real patches
    matched: bool  # whether predictions were given the real mean and standard deviation first
    prediction: Distances  # predictions against the real images of the same subjects
    floor: Distances | None  # real images against other real ones; None where there are no others
    floor_from: str  # who the others are
    ceiling: Distances  # real images against the same, blurred by a Gaussian of 1 voxel
    note: str = (
        "where judges and the encoder-free block of gdm_evaluate disagree, the encoder-free block"
        " decides"
    )


def give_verdict(
    judge: Judge,
    subjects: Sequence[Subject],
    others: Sequence[Subject] = (),
    *,
    match: bool = False,
    seed: int = 0,
) -> JudgeVerdict:
    """Judge predictions against the real images of the same subjects, read one after the other.

    `others` are further real images for the floor; without any, the subjects are split into halves.
    With `match`, each prediction first gets the mean and the standard deviation of its real image
    inside the mask (targets without a unit). `seed` is of the places.
    """
    found: Sets = {"prediction": [], "real": [], "blurred": []}
    each = max(FEWEST_A_SUBJECT, math.ceil(N_PATCHES / len(subjects)))
    for i, subject in enumerate(subjects):
        rows = subject_features(
            judge, subject, n_patches=each, rng=numpy_rng(seed, _PLACES, i), match=match
        )
        for name, features in rows.items():
            found[name].append(features)
    axes = principal_axes(np.concatenate(found["real"]))
    projected = {name: [axes(one) for one in features] for name, features in found.items()}
    floor, floor_from = _floor(judge, projected["real"], others, axes, seed)
    to_real, ceiling = (
        compare(projected[name], projected["real"], paired=True)
        for name in ("prediction", "blurred")
    )
    sizes = len(subjects), each * len(subjects), axes.axes.shape[1]
    return JudgeVerdict(judge.description, *sizes, match, to_real, floor, floor_from, ceiling)


def subject_features(
    judge: Judge, subject: Subject, *, n_patches: int, rng: np.random.Generator, match: bool
) -> dict[str, NDArray]:
    """Features of a subject's real image, its blurred copy and its prediction at the same places.

    Outside the mask the prediction is taken to be right. "real", "blurred" and "prediction" are
    float64 (n_patches, d); a subject without a prediction has only "real".
    """
    inside = subject.mask != 0
    real = judges.in_own_units(subject.real, subject.real, inside)
    images = {"real": real}
    if subject.prediction is not None:
        blurred = gaussian_filter(real, BLUR, mode="nearest")
        images["blurred"] = np.where(inside, blurred, real)
        guess = judges.in_own_units(subject.prediction, subject.real, inside)
        if match:
            guess = match_mean_and_std(guess, real, inside)
        images["prediction"] = np.where(inside, guess, real)
    starts = judges.patch_starts(inside, judge.patch, n_patches, rng)
    return {name: judge.features(image, starts) for name, image in images.items()}


def judge_pairs(
    pairs: Sequence[ImagePair], settings: JudgeSettings, train_on: Path | None, *, match: bool
) -> JudgeVerdict:
    """Judge predictions against the real images of their names.

    The judge learns from the real images in the folder `train_on`, and those that are not among the
    pairs give the floor; None takes the pairs' real images. `match` as for `give_verdict`.

    Raises:
        DatasetError: the folder is missing, or an image cannot be read.
        CheckpointError: the encoder's file cannot be used.
    """
    cases = [CaseFiles(pair.identifier, (), pair.reference, pair.mask) for pair in pairs]
    subjects = Subjects(cases, {pair.identifier: pair.prediction for pair in pairs})
    images = {} if train_on is None else images_by_case(train_on)
    reals = [CaseFiles(name, (), path) for name, path in images.items()]
    known = {pair.identifier for pair in pairs}
    others = Subjects([case for case in reals if case.identifier not in known])
    judge = make_judge(Subjects(reals or cases), settings)
    return give_verdict(judge, subjects, others, match=match, seed=settings.seed)


def verdict_lines(verdict: JudgeVerdict) -> list[str]:
    """A judge's verdict as text."""
    rows: list[tuple[str, ...]] = [("", "Frechet [95 %]", "kernel [95 %]")]
    for name, distances in (
        ("predictions", verdict.prediction),
        ("floor: other real images", verdict.floor),
        ("ceiling: real images, blurred", verdict.ceiling),
    ):
        pair = (None, None) if distances is None else (distances.frechet, distances.kernel)
        rows.append((name, *("-" if one is None else str(one) for one in pair)))
    matched = ", mean and spread matched" if verdict.matched else ""
    return [
        f"judge: {verdict.judge}",
        f"{verdict.n_patches} patches of {verdict.n_subjects} subjects in"
        f" {verdict.n_dimensions} dimensions{matched}",
        *text_table(rows, n_left=None),
        f"floor from {verdict.floor_from}",
        verdict.note,
    ]


def refuse_own_encoder(predictions: Path, file: Path) -> None:
    """Complain if an encoder drove the training of the model of a folder of predictions.

    Raises:
        TrainingError: it did.
        CheckpointError: its file cannot be used.
    """
    digest = weights_sha256(judges.read_encoder(file))
    models = {Path(record.model.folder): record for record in read_records(predictions).values()}
    runs = {
        folders.fold_folder(model, fold) / folders.RUN_JSON: model
        for model, record in models.items()
        for fold in record.model.checkpoints
    }
    there = [path for path in runs if path.is_file()]
    for path in there:
        if codec.load(Run, path).encoder_sha256 == digest:
            raise TrainingError(
                f"{file}: this encoder drove the training of {runs[path]}, which has optimised its"
                " features: it would flatter. Leave --judge-encoder out, so that a judge is"
                " trained, or give the encoder of another training"
            )
    if not there:
        _log.warning(
            "warning: %s does not lead to its model's run.json: make sure that %s is not the"
            " encoder that drove its training",
            predictions,
            file,
        )


def _floor(
    judge: Judge, real: list[NDArray], others: Sequence[Subject], axes: Projection, seed: int
) -> tuple[Distances | None, str]:
    if others:
        each = max(FEWEST_A_SUBJECT, math.ceil(N_PATCHES / min(len(others), MOST_SUBJECTS)))
        features = []
        for i, other in enumerate(judges.thin_subjects(others)):
            rng = numpy_rng(seed, _PLACES, len(real) + i)
            rows = subject_features(judge, other, n_patches=each, rng=rng, match=False)
            features.append(axes(rows["real"]))
        return compare(features, real), f"{len(features)} other real images"
    if len(real) < 2:
        return None, "no other real images: give some by --train-on"
    rng = numpy_rng(seed, _HALVES)
    found = []
    for _ in range(N_SPLITS):
        order = rng.permutation(len(real))
        halves = order[: len(real) // 2], order[len(real) // 2 :]
        first, second = ([real[i] for i in half] for half in halves)
        found.append(compare(first, second))
    return Distances(
        _mean([one.frechet for one in found]), _mean([one.kernel for one in found])
    ), f"halves of the {len(real)} real images, mean and range of {N_SPLITS} splits"


def _mean(distances: list[Distance]) -> Distance:
    values = [distance.value for distance in distances]
    return Distance(float(np.mean(values)), min(values), max(values))
