"""One volume through the network, window by window, blended by Gaussian weights in fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gdmnet.arrays.crop import Box, crop, pad_to
from gdmnet.geometry import Shape, shape_of
from gdmnet.inference.windows import (
    BodyRegion,
    Estimate,
    Spread,
    Window,
    gaussian_weight,
    mirrored_axes,
    near_windows,
)
from gdmnet.models.card import PredictionSettings
from gdmnet.parallel import progress_bar

Network = Callable[[Tensor], Tensor]
ENSEMBLES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda outputs: outputs.mean(dim=0),
    # torch.median takes the lower of the two in the middle; of two folds that would be one fold
    "median": lambda outputs: _middle(outputs).mean(dim=0),
}
"""How n opinions (n, z, y, x) about the same voxels become one (z, y, x)."""


class Moments:
    """Weighted mean and variance of voxels, group by group, without a stack of volumes.

    Chan, Golub and LeVeque 1979 (updating formulae), with weights: a group of weight w_b, mean m_b
    and variance v_b joins what has w, m and the sum of squares q = w v by

        d = m_b - m,   m += d w_b / (w + w_b),   q += w_b v_b + d^2 w w_b / (w + w_b)

    No large squares are subtracted, so that fp32 holds small variances beside large means. Of
    several series of opinions each has its own mean, and the variances are averaged.
    """

    def __init__(
        self, shape: Shape | torch.Size, device: torch.device | str = "cpu", n_series: int = 1
    ) -> None:
        self.weight = torch.zeros(tuple(shape), dtype=torch.float32, device=device)
        self.means = self.weight.new_zeros((n_series, *shape))
        self._squares = torch.zeros_like(self.weight)  # mean over the series

    def add(
        self,
        mean: Tensor,
        variance: Tensor | float,
        weight: Tensor | float,
        window: Window = (slice(None),) * 3,
    ) -> None:
        """A group of opinions joins.

        Args:
            mean: (n_series, z, y, x) of the window.
            variance: (z, y, x), of the population; 0 for a single opinion.
            weight: of the group, above 0: (z, y, x) or one number.
            window: where the group lies; by default it covers all voxels.
        """
        before = self.weight[window]  # z, y, x
        share = weight / (before + weight)
        z, y, x = window
        means = self.means[:, z, y, x]  # n_series, z, y, x: a view
        distance = mean - means
        squares = distance.square().mean(dim=0)
        self._squares[window] += weight * variance + squares * before * share
        means += distance * share
        self.weight[window] += weight

    def variance(self) -> Tensor:
        """(z, y, x), of the population; 0 where no or one opinion is."""
        return torch.where(self.weight > 0, self._squares / self.weight, 0.0)


def predict_volume(
    network: Network,
    source: NDArray,
    patch_size: Shape,
    *,
    fill: Sequence[float],
    device: torch.device | str,
    settings: PredictionSettings | None = None,
    region: BodyRegion | None = None,
    spread: Spread | None = None,
) -> Estimate:
    """Slide the network over a volume: one call a window, Gaussian blending in fp32.

    With a `region`, windows that do not come near the body are skipped. Every window that touches
    the body is computed all the same, so that no voxel of the body changes.

    Args:
        network: (1, c, z, y, x) to (n, 1, z, y, x) on `device`, any floating type: n opinions,
            one a fold.
        source: float32 (c, z, y, x), network units.
        patch_size: voxels (z, y, x) of a window.
        fill: what surrounds the volume, one number a channel, network units.
        device: where the network lies; the accumulators stay in main memory.
        settings: step size, mirrored copies, ensemble; None is the default of each.
        region: skip what is far from the body.
        spread: measure how far all opinions lie apart, or the overlapping windows of each fold
            alone, without mirrored copies (the root mean square over the folds); the prediction is
            the same to the bit.

    Raises:
        ValueError: shapes that do not fit, or a step size outside (0, 1].
    """
    settings = settings or PredictionSettings()
    padded, box = pad_to(source, patch_size, fill)
    shape = shape_of(padded)
    chosen = near_windows(shape, patch_size, settings.step_size, region)
    weight = torch.from_numpy(gaussian_weight(patch_size))
    total = torch.zeros(shape, dtype=torch.float32)
    weights = torch.zeros(shape, dtype=torch.float32)
    moments: Moments | None = None
    volume = torch.from_numpy(np.ascontiguousarray(padded, dtype=np.float32))
    with torch.inference_mode():
        for window in progress_bar(chosen, "windows", delay=2):
            z, y, x = window
            patch = volume[None, :, z, y, x].to(device)  # (1, c, z, y, x)
            opinions = Moments(patch_size, device) if spread == "opinions" else None
            value, plain = _predict_window(network, patch, settings, opinions)
            total[window] += value.cpu() * weight
            weights[window] += weight
            if opinions is not None:
                moments = moments or Moments(shape)
                moments.add(opinions.means.cpu(), opinions.variance().cpu(), weight, window)
            if spread == "windows":
                moments = moments or Moments(shape, n_series=len(plain))
                moments.add(plain.cpu(), 0.0, weight, window)
    background = 0.0 if region is None else region.background
    mean = torch.where(weights > 0, total / weights, background)
    std = _cut((moments or Moments(shape)).variance().sqrt(), box) if spread else None
    return Estimate(_cut(mean, box), std)


def _predict_window(
    network: Network, patch: Tensor, settings: PredictionSettings, opinions: Moments | None
) -> tuple[Tensor, Tensor]:
    """The value (z, y, x) of one window; all opinions about it join what is measured of them.

    And the folds' opinions (n, z, y, x) about the window as it is, without mirrored copies.
    """
    combine = ENSEMBLES[settings.ensemble]
    copies, plain = [], None
    for flip in mirrored_axes(patch.shape[2:]) if settings.tta else [()]:
        outputs = network(patch.flip(flip)).flip(flip).float()
        if outputs.shape[1:] != (1, *patch.shape[2:]):
            raise ValueError(f"the network gave {tuple(outputs.shape)} for {tuple(patch.shape)}")
        plain = outputs[:, 0] if plain is None else plain  # the first flip is none
        copies.append(combine(outputs[:, 0]))  # (z, y, x)
        if opinions is not None:
            variance, mean = torch.var_mean(outputs[:, 0], dim=0, correction=0)
            opinions.add(mean[None], variance, len(outputs))
    assert plain is not None
    return torch.stack(copies).mean(dim=0) if settings.tta else copies[0], plain


def _middle(outputs: Tensor) -> Tensor:
    """The one or two values (1 or 2, z, y, x) in the middle of n sorted ones."""
    n = len(outputs)
    return outputs.sort(dim=0).values[(n - 1) // 2 : n // 2 + 1]


def _cut(volume: Tensor, box: Box) -> NDArray:
    return np.ascontiguousarray(crop(volume.numpy(), box))[None]
