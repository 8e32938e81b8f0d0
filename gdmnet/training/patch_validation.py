"""Every epoch's validation: the averaged weights on fixed patches, against their targets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gdmnet.geometry import Spacing
from gdmnet.metrics.edges import gradient_magnitudes
from gdmnet.metrics.plausibility import NEGLIGIBLE_SHARE, value_range, wasserstein_1
from gdmnet.metrics.spectrum import log_distance, radial_power
from gdmnet.models import precision, seeds
from gdmnet.objectives.base import Batch, Objective
from gdmnet.objectives.sampling import Sampled
from gdmnet.plan import Recipe
from gdmnet.training.batches import Batches

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
    """

    mae: float = math.nan
    sharpness: float = math.nan
    histogram_w1: float = math.nan
    gradient_w1: float = math.nan
    spectrum_distance: float = math.nan
    mae_hu: float = math.nan


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
    return replace(quality, mae_hu=quality.mae * target.scale) if target.scheme == "ct" else quality


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
