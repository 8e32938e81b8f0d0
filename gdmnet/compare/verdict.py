"""What a judge says of predictions: distances to the real images, with a floor and a ceiling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gdmnet.compare.judge import Judge, in_own_units, patch_starts
from gdmnet.compare.subjects import MOST_SUBJECTS, Subject, evenly_spread
from gdmnet.metrics.frechet import Distance, Distances, Projection, compare, principal_axes
from gdmnet.metrics.image import match_mean_and_std
from gdmnet.models.seeds import numpy_rng

N_PATCHES = 2000  # of all subjects together, at least
FEWEST_A_SUBJECT = 64
BLUR = 1.0  # voxels: sigma of the ceiling
N_SPLITS = 10  # of the subjects into halves, for a floor without other subjects
_PLACES, _HALVES = 1, 2  # streams of randomness

Sets = dict[str, list[NDArray]]


@dataclass(frozen=True)
class JudgeVerdict:
    """Distances in a judge's features; smaller is more like the real images.

    Attributes:
        judge: which encoder.
        n_subjects: with a prediction and a real image.
        n_patches: of each kind of image, at the same places.
        n_dimensions: principal axes of the real patches.
        matched: whether predictions were given the real mean and standard deviation first.
        prediction: predictions against the real images of the same subjects.
        floor: real images against other real ones; None where there are no others.
        floor_from: who the others are.
        ceiling: real images against the same, blurred by a Gaussian of 1 voxel.
        note: how to read it.
    """

    judge: str
    n_subjects: int
    n_patches: int
    n_dimensions: int
    matched: bool
    prediction: Distances
    floor: Distances | None
    floor_from: str
    ceiling: Distances
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
    """Judge predictions against the real images of the same subjects.

    Args:
        judge: of `make_judge`.
        subjects: with predictions; read one after the other.
        others: further real images for the floor; without any, the subjects are split into halves.
        match: give each prediction the mean and the standard deviation of its real image inside
            the mask first (targets without a unit).
        seed: of the places.
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
    return JudgeVerdict(
        judge=judge.description,
        n_subjects=len(subjects),
        n_patches=each * len(subjects),
        n_dimensions=axes.axes.shape[1],
        matched=match,
        prediction=compare(projected["prediction"], projected["real"], paired=True),
        floor=floor,
        floor_from=floor_from,
        ceiling=compare(projected["blurred"], projected["real"], paired=True),
    )


def subject_features(
    judge: Judge, subject: Subject, *, n_patches: int, rng: np.random.Generator, match: bool
) -> dict[str, NDArray]:
    """Features of a subject's real image, its blurred copy and its prediction at the same places.

    Outside the mask the prediction is taken to be right.

    Returns:
        "real", "blurred" and "prediction" -> float64 (n_patches, d); only "real" for a subject
        without a prediction.
    """
    inside = subject.mask != 0
    real = in_own_units(subject.real, subject.real, inside)
    images = {"real": real}
    if subject.prediction is not None:
        blurred = gaussian_filter(real, BLUR, mode="nearest")
        images["blurred"] = np.where(inside, blurred, real)
        guess = in_own_units(subject.prediction, subject.real, inside)
        if match:
            guess = match_mean_and_std(guess, real, inside)
        images["prediction"] = np.where(inside, guess, real)
    starts = patch_starts(inside, judge.patch, n_patches, rng)
    return {name: judge.features(image, starts) for name, image in images.items()}


def _floor(
    judge: Judge, real: list[NDArray], others: Sequence[Subject], axes: Projection, seed: int
) -> tuple[Distances | None, str]:
    if others:
        each = max(FEWEST_A_SUBJECT, math.ceil(N_PATCHES / min(len(others), MOST_SUBJECTS)))
        features = []
        for i, other in enumerate(evenly_spread(others)):
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
