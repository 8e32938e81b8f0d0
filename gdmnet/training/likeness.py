"""Do validation patches look like the targets'? The encoder-free metrics, pooled over patches."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gdmnet.geometry import Spacing
from gdmnet.metrics.edges import gradient_magnitudes
from gdmnet.metrics.plausibility import NEGLIGIBLE_SHARE, value_range, wasserstein_1
from gdmnet.metrics.spectrum import log_distance, radial_power

N_WINDOWS = 8  # of a patch's spectrum: a few milliseconds


class Likeness:
    """Gathers patches one batch at a time; network units.

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
