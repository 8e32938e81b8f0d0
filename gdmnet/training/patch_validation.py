"""Every epoch's validation: the averaged weights on fixed patches, against their targets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gdmnet.arrays.normalise import invert
from gdmnet.geometry import Spacing
from gdmnet.inference.windows import windows
from gdmnet.metrics.edges import gradient_magnitudes
from gdmnet.metrics.plausibility import NEGLIGIBLE_SHARE, value_range, wasserstein_1
from gdmnet.metrics.spectrum import log_distance, radial_power
from gdmnet.models import precision, seeds
from gdmnet.objectives.base import Batch, Objective
from gdmnet.objectives.sampling import Sampled
from gdmnet.plan import Recipe
from gdmnet.training.batches import Batches, patch_start

SAMPLER_STEPS = 4  # at most: every epoch pays for them
_NOISE = 4  # a stream of random numbers beside those of the batches and of the steps
N_WINDOWS = 8  # of a patch's spectrum: a few milliseconds
Patch = tuple[NDArray, NDArray, NDArray]  # prediction, target, what is inside


@dataclass(frozen=True)
class PatchQuality:
    """How good predictions are on the validation patches.

    Attributes:
        mae: mean absolute error inside the mask, network units.
        sharpness: mean |gradient of the prediction| / mean |gradient of the target| inside the
            mask; below 1 is blur, above 1.1 suspect texture.
        histogram_w1: how far the intensities are from the targets', network units.
        gradient_w1: the same of the gradient magnitudes, per mm.
        spectrum_distance: of the radial power spectra, dB.
        mae_hu: mae in HU, of CT; NaN of other targets.
        mae_file: mae in the units of the files of other targets, of a typical case where each has
            a scale of its own; NaN of CT.
    """

    mae: float = math.nan
    sharpness: float = math.nan
    histogram_w1: float = math.nan
    gradient_w1: float = math.nan
    spectrum_distance: float = math.nan
    mae_hu: float = math.nan
    mae_file: float = math.nan


@dataclass(frozen=True)
class TranslatedPlane:
    """An axial plane of a validation case, (y, x) in file units.

    Attributes:
        title: which case and plane.
        source: the first channel.
        prediction: by the averaged weights; the target's background outside the body.
        target: what was wanted.
        inside: True where the target counts.
        mae: mean absolute error inside the mask; NaN where nothing is.
        unit: of prediction, target and error.
        aspect: mm down / mm across.
    """

    title: str
    source: NDArray
    prediction: NDArray
    target: NDArray
    inside: NDArray
    mae: float
    unit: str
    aspect: float


@torch.no_grad()
def validate_patches(
    objective: Objective, network: nn.Module, batches: Batches, recipe: Recipe, device: torch.device
) -> PatchQuality:
    """Judge predictions on fixed patches: those of the batches' epoch 0, rank 0.

    Args:
        objective: translates as at prediction, but with few steps of a sampler.
        network: the averaged generator.
        batches: of the validation cases.
        recipe: its seed gives the noise, the same in every epoch; at least its number of
            validation patches is used.
        device: of the network.
    """
    patches = _predicted_patches(objective, network, batches, recipe, device)
    quality = judge_patches(patches, batches.configuration.spacing)
    target = batches.configuration.target
    name = "mae_hu" if target.scheme == "ct" else "mae_file"
    return replace(quality, **{name: quality.mae * target.scale})


@torch.no_grad()
def translate_plane(
    objective: Objective, network: nn.Module, batches: Batches, recipe: Recipe, device: torch.device
) -> TranslatedPlane:
    """The middle axial plane of the first validation case, by windows side by side.

    Args:
        objective: translates as at prediction, but with few steps of a sampler.
        network: the averaged generator.
        batches: of the validation cases.
        recipe: its precision, and its seed, which gives the noise.
        device: of the network.
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
        with precision.autocast(recipe.precision, device):
            output = _translate(objective, network, Batch(*parts).to(device), (recipe.seed, 0, 0))
        guess[z, y, x] = output[0, 0].float().cpu().numpy()
    level = middle[0] - start[0]
    inside, down, across = images[-1, level] > 0, *configuration.spacing[1:]
    truth = np.asarray(invert(images[-2, level], norm))
    prediction = np.where(inside, invert(guess[level], norm), norm.background)
    errors = np.abs(prediction - truth)[inside]
    return TranslatedPlane(
        f"{case.record.identifier}, axial plane {middle[0] + 1} of {shape[0]}",
        images[0, level],
        prediction,
        truth,
        inside,
        float(errors.mean()) if errors.size else math.nan,
        "HU" if norm.scheme == "ct" else "file units",
        down / across,
    )


def _predicted_patches(
    objective: Objective, network: nn.Module, batches: Batches, recipe: Recipe, device: torch.device
) -> Iterator[Patch]:
    for step in range(math.ceil(recipe.validation_patches / batches.configuration.batch_size)):
        batch = batches.batch(0, step)
        with precision.autocast(recipe.precision, device):
            guess = _translate(objective, network, batch.to(device), (recipe.seed, step, 0))
        images = guess.float().cpu().numpy(), batch.target.numpy(), batch.mask.numpy() > 0
        yield from zip(*(image[:, 0] for image in images), strict=True)


def _translate(
    objective: Objective, network: nn.Module, batch: Batch, numbers: tuple[int, ...]
) -> Tensor:
    """Patches (b, 1, z, y, x) of a batch; the numbers decide the noise."""
    noise = None
    if n_noise := objective.inputs.extra_channels:
        rng = seeds.reseed(torch.Generator(), *numbers, _NOISE)
        shape = (batch.source.shape[0], n_noise, *batch.source.shape[2:])
        noise = torch.randn(shape, generator=rng).to(batch.source.device)
    if not isinstance(objective, Sampled):
        return objective.translate(network, batch.source, noise)
    few = replace(objective.sampling, steps=min(SAMPLER_STEPS, objective.sampling.steps))
    return objective.translate(network, batch.source, noise, mask=batch.mask, sampling=few)


def judge_patches(patches: Iterable[Patch], spacing: Spacing) -> PatchQuality:
    """Errors, edges and look of patches, pooled over all of them; those without mask do not count.

    Args:
        patches: prediction, target and what is inside, each (z, y, x).
        spacing: mm (z, y, x).
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
    floor = (NEGLIGIBLE_SHARE * value_range(true_values)) ** 2
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
