"""Every epoch's validation: the averaged weights on fixed patches, against their targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gdmnet.arrays.normalise import invert
from gdmnet.charts import Picture
from gdmnet.geometry import Spacing
from gdmnet.inference.windows import windows
from gdmnet.metrics.edges import gradient_magnitudes
from gdmnet.metrics.image import value_range
from gdmnet.metrics.plausibility import NEGLIGIBLE_SHARE, wasserstein_1
from gdmnet.metrics.spectrum import log_distance, radial_power
from gdmnet.models import precision, seeds
from gdmnet.objectives.base import Batch
from gdmnet.objectives.sampling import Sampled
from gdmnet.training.batches import Batches, patch_start
from gdmnet.training.log import short
from gdmnet.training.state import Training

SAMPLER_STEPS = 4  # at most: every epoch pays for them
_NOISE = 4  # a stream of random numbers beside those of the batches and of the steps
N_WINDOWS = 8  # of a patch's spectrum: a few milliseconds
Patch = tuple[NDArray, NDArray, NDArray]  # prediction, target, what is inside


@dataclass(frozen=True)
class PatchQuality:
    """How good predictions are on the validation patches, inside the mask.

    `sharpness` is mean |gradient of the prediction| / mean |gradient of the target|; below 1 is
    blur, above 1.1 suspect texture.
    """

    mae: float = math.nan  # network units
    sharpness: float = math.nan
    histogram_w1: float = math.nan  # between intensities, network units
    gradient_w1: float = math.nan  # between gradient magnitudes, network units a mm
    spectrum_distance: float = math.nan  # between radial power spectra, dB
    mae_hu: float = math.nan  # of CT
    mae_file: float = math.nan  # of others, file units; of a typical case if each has its scale


def validate_patches(training: Training, batches: Batches) -> PatchQuality:
    """Judge predictions on fixed patches of validation cases: of the batches' epoch 0, rank 0.

    The objective translates with the averaged generator as at prediction, but with few steps of a
    sampler; the recipe's seed gives the noise, the same in every epoch, and at least its number of
    validation patches is used.
    """
    patches = _predicted_patches(training, batches)
    quality = judge_patches(patches, batches.configuration.spacing)
    target = batches.configuration.target
    name = "mae_hu" if target.scheme == "ct" else "mae_file"
    return replace(quality, **{name: quality.mae * target.scale})


def translate_plane(training: Training, batches: Batches) -> tuple[str, list[Picture]]:
    """The middle axial plane of the first validation case, by windows side by side.

    Returns:
        What it is and its error inside the mask; source, prediction and target, (y, x) in file
        units, the last two in the target's window, with its background outside the body.
    """
    case, configuration = batches.cases[0], batches.configuration
    patch, shape, norm = configuration.patch_size, case.record.shape, case.record.target
    assert norm is not None  # batches refuse cases without a target
    middle = np.median(case.centres, axis=0).astype(int)
    size = (patch[0], max(patch[1], shape[1]), max(patch[2], shape[2]))
    start = patch_start(middle, size, shape)
    images = batches.read(case, start, size)  # (c + 2, *size)
    guess = np.empty(size, dtype=np.float32)
    for z, y, x in windows(size, patch, 1.0):
        parts = torch.from_numpy(np.ascontiguousarray(images[None, :, z, y, x])).split(
            [len(images) - 2, 1, 1], dim=1
        )
        guess[z, y, x] = _translate(training, Batch(*parts), 0)[0]
    level = middle[0] - start[0]
    inside, down, across = images[-1, level] > 0, *configuration.spacing[1:]
    truth = np.asarray(invert(images[-2, level], norm))
    prediction = np.where(inside, invert(guess[level], norm), norm.background)
    errors = np.abs(prediction - truth)[inside]
    mae = float(errors.mean()) if errors.size else math.nan
    unit = "HU" if norm.scheme == "ct" else "file units"
    low, high = _window(truth, inside)
    planes = {
        "source": (images[0, level], *_window(images[0, level], inside)),
        f"prediction, {short(low)} to {short(high)} {unit}": (prediction, low, high),
        "target, same window": (truth, low, high),
    }
    pictures = [Picture(name, *plane, down / across) for name, plane in planes.items()]
    title = f"{case.record.identifier}, axial plane {middle[0] + 1} of {shape[0]}"
    return f"{title}: MAE {short(mae)} {unit} in this plane", pictures


def _window(image: NDArray, inside: NDArray) -> tuple[float, float]:
    low, high = np.percentile(image[inside] if inside.any() else image, (1, 99.5))
    return float(low), float(high)


def _predicted_patches(training: Training, batches: Batches) -> Iterator[Patch]:
    n_patches, size = training.recipe.validation_patches, batches.configuration.batch_size
    for step in range(math.ceil(n_patches / size)):
        batch = batches.batch(0, step)
        truth, inside = batch.target[:, 0].numpy(), batch.mask[:, 0].numpy() > 0
        yield from zip(_translate(training, batch, step), truth, inside, strict=True)


@torch.no_grad()
def _translate(training: Training, batch: Batch, step: int) -> NDArray:
    """Patches (b, z, y, x) of a batch by the averaged generator; the step decides the noise."""
    objective, noise, batch = training.objective, None, batch.to(training.device)
    translate: Callable[..., Tensor] = objective.translate
    if n_noise := objective.inputs.extra_channels:
        rng = seeds.reseed(torch.Generator(), training.recipe.seed, step, 0, _NOISE)
        shape = (batch.source.shape[0], n_noise, *batch.source.shape[2:])
        noise = torch.randn(shape, generator=rng).to(batch.source.device)
    if isinstance(objective, Sampled):
        few = replace(objective.sampling, steps=min(SAMPLER_STEPS, objective.sampling.steps))
        translate = partial(objective.translate, mask=batch.mask, sampling=few)
    with precision.autocast(training.recipe.precision, training.device):
        guess = translate(training.optimizer.average.network, batch.source, noise)
    return guess[:, 0].float().cpu().numpy()


def judge_patches(patches: Iterable[Patch], spacing: Spacing) -> PatchQuality:
    """Errors, edges and look of patches, pooled over all of them; those without mask do not count.

    A patch is the prediction, the target and what is inside, each (z, y, x); spacing in mm.
    """
    error, n_voxels, edges = 0.0, 0, [0.0, 0.0]  # of predictions, of targets
    values: list[list[NDArray]] = [[], []]
    gradients: list[list[NDArray]] = [[], []]
    powers: list[list[NDArray]] = [[], []]
    for guess, truth, inside in patches:
        if not inside.any():
            continue
        error += float(np.abs(guess - truth)[inside].sum(dtype=np.float64))
        n_voxels += int(np.count_nonzero(inside))
        for i, image in enumerate((np.where(inside, guess, truth), truth)):
            edges[i] += gradient_sum(image, inside)
            values[i].append(image[inside])
            gradients[i].append(gradient_magnitudes(image, inside, spacing))
            powers[i].append(radial_power(image, inside, spacing, n_windows=N_WINDOWS))
    if not n_voxels:
        return PatchQuality()
    pooled, true_values = (np.concatenate(parts) for parts in values)
    floor = (NEGLIGIBLE_SHARE * value_range(true_values).width) ** 2
    power, true_power = (np.mean(parts, axis=0) for parts in powers)
    distance = log_distance(power, true_power, floor) if floor > 0 else None
    return PatchQuality(
        mae=error / n_voxels,
        sharpness=edges[0] / edges[1] if edges[1] else math.nan,
        histogram_w1=wasserstein_1(pooled, true_values),
        gradient_w1=wasserstein_1(*(np.concatenate(parts) for parts in gradients)),
        spectrum_distance=math.nan if distance is None else distance,
    )


def gradient_sum(image: NDArray, inside: NDArray) -> float:
    """Sum of |forward differences| of (z, y, x) along all axes where both voxels are inside."""
    known = np.where(inside, image, np.float32(np.nan))  # a difference with one outside is nan
    steps = (np.abs(np.diff(known, axis=axis)) for axis in range(3))
    return sum(float(np.nansum(step, dtype=np.float64)) for step in steps)
