"""Every epoch's validation: the averaged weights on fixed patches, against their targets."""

from __future__ import annotations

import math
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
    """

    mae: float = math.nan
    sharpness: float = math.nan
    histogram_w1: float = math.nan
    gradient_w1: float = math.nan
    spectrum_distance: float = math.nan


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
    error = voxels = edges = target_edges = 0.0
    look = PatchPlausibility(batches.configuration.spacing)
    for step in range(math.ceil(recipe.validation_patches / batches.configuration.batch_size)):
        batch = batches.batch(0, step)
        with precision.autocast(recipe.precision, device):
            prediction = _translate(objective, network, batch.to(device), (recipe.seed, step, 0))
        prediction = prediction.float().cpu()
        error += float(((prediction - batch.target).abs() * batch.mask).sum(dtype=torch.float64))
        voxels += float(batch.mask.sum(dtype=torch.float64))
        edges += gradient_sum(prediction, batch.mask)
        target_edges += gradient_sum(batch.target, batch.mask)
        look.add(prediction, batch.target, batch.mask)
    return PatchQuality(
        mae=error / voxels if voxels else math.nan,
        sharpness=edges / target_edges if target_edges else math.nan,
        **look.result(),
    )


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


def gradient_sum(image: Tensor, mask: Tensor) -> float:
    """Sum of |forward differences| along z, y and x where both voxels lie in the mask.

    Args:
        image: (b, 1, z, y, x).
        mask: the same shape, 0 or 1.
    """
    total = 0.0
    for axis in (2, 3, 4):
        length = image.shape[axis] - 1
        both = mask.narrow(axis, 1, length) * mask.narrow(axis, 0, length)
        total += float((image.diff(dim=axis).abs() * both).sum(dtype=torch.float64))
    return total


class PatchPlausibility:
    """Whether patches look like the targets': metrics without encoder, pooled over all batches.

    Args:
        spacing: mm (z, y, x).
    """

    def __init__(self, spacing: Spacing) -> None:
        self.spacing = spacing
        self._values: list[list[NDArray]] = [[], []]  # of predictions, of targets
        self._gradients: list[list[NDArray]] = [[], []]
        self._powers: list[list[NDArray]] = [[], []]

    def add(self, prediction: Tensor, target: Tensor, mask: Tensor) -> None:
        """Take a batch in: (b, 1, z, y, x) on the CPU; patches without mask do not count."""
        for guess, truth, inside in zip(
            prediction.numpy()[:, 0], target.numpy()[:, 0], mask.numpy()[:, 0] > 0, strict=True
        ):
            if inside.any():
                self._add_patch((np.where(inside, guess, truth), truth), inside)

    def _add_patch(self, images: tuple[NDArray, NDArray], inside: NDArray) -> None:
        for i, image in enumerate(images):
            self._values[i].append(image[inside])
            self._gradients[i].append(gradient_magnitudes(image, inside, self.spacing))
            power = radial_power(image, inside, self.spacing, n_windows=N_WINDOWS)
            self._powers[i].append(power)

    def result(self) -> dict[str, float]:
        """histogram_w1, gradient_w1 (per mm) and spectrum_distance (dB); nan where undefined."""
        if not self._values[0]:
            return dict.fromkeys(("histogram_w1", "gradient_w1", "spectrum_distance"), math.nan)
        values, true_values = (np.concatenate(parts) for parts in self._values)
        steepness, true_steepness = (np.concatenate(parts) for parts in self._gradients)
        power, true_power = (np.mean(parts, axis=0) for parts in self._powers)
        floor = (NEGLIGIBLE_SHARE * value_range(true_values)) ** 2
        distance = log_distance(power, true_power, floor) if floor > 0 else None
        return {
            "histogram_w1": wasserstein_1(values, true_values),
            "gradient_w1": wasserstein_1(steepness, true_steepness),
            "spectrum_distance": math.nan if distance is None else distance,
        }
