"""One volume through the network, window by window, blended by Gaussian weights in fp32."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gdmnet.arrays.crop import Box, crop, pad_to
from gdmnet.geometry import Shape, shape_of
from gdmnet.models.card import PredictionSettings
from gdmnet.parallel import progress_bar

SIGMA_SHARE = 1 / 8  # of the patch: a window counts for little where it lacks context
WEIGHT_FLOOR = 1e-3  # of the peak: keeps w * p / w well conditioned where one window stands alone
# Windows that come no nearer to the body than this are skipped. Cubic resampling back to the
# source grid weighs a voxel that far away by 0.27 ** 8 = 3e-5.
BODY_MARGIN = 8

Window = tuple[slice, slice, slice]
Network = Callable[[Tensor], Tensor]
Spread = Literal["opinions", "mirrored"]
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


@dataclass(frozen=True, eq=False)
class Estimate:
    """A predicted volume: float32 (1, z, y, x), network units.

    Attributes:
        mean: the prediction.
        std: how far folds, mirrored copies and overlapping windows lie apart at each voxel, as a
            standard deviation; 0 where there is only one opinion; None if it was not asked for.
    """

    mean: NDArray
    std: NDArray | None


@dataclass(frozen=True)
class BodyRegion:
    """Where predictions are wanted.

    Attributes:
        body: (z, y, x), non-zero inside the body.
        background: what voxels are given that no window near the body covers, network units.
    """

    body: NDArray
    background: float


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
        spread: measure how far all opinions lie apart; or "mirrored": how far each fold's own lie
            apart in overlapping windows and their copies mirrored along x, as the root mean square
            over the folds, whatever the settings. The prediction is the same to the bit.

    Raises:
        ValueError: shapes that do not fit, or a step size outside (0, 1].
    """
    settings = settings or PredictionSettings()
    padded, box = pad_to(source, patch_size, fill)
    shape = shape_of(padded)
    chosen = [
        window
        for window in windows(shape, patch_size, settings.step_size)
        if region is None or _comes_near(region.body, window)
    ]
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
            value = _predict_window(network, patch, settings, opinions)
            total[window] += value.cpu() * weight
            weights[window] += weight
            if opinions is not None:
                moments = moments or Moments(shape)
                moments.add(opinions.means.cpu(), opinions.variance().cpu(), weight, window)
            if spread == "mirrored":
                variance, means = _of_each_fold(network, patch)
                moments = moments or Moments(shape, n_series=len(means))
                moments.add(means.cpu(), variance.cpu(), weight, window)
    background = 0.0 if region is None else region.background
    mean = torch.where(weights > 0, total / weights, background)
    std = _cut((moments or Moments(shape)).variance().sqrt(), box) if spread else None
    return Estimate(_cut(mean, box), std)


def window_starts(size: int, patch: int, step_size: float) -> list[int]:
    """First voxels of evenly spread windows along one axis that together cover it.

    Args:
        size: voxels of the axis, at least `patch`.
        patch: voxels of a window.
        step_size: largest distance of neighbours as a share of `patch`, in (0, 1].
    """
    if not 0 < step_size <= 1:
        raise ValueError(f"the step size must lie in (0, 1], not {step_size}")
    if size < patch:
        raise ValueError(f"an axis of {size} voxels is smaller than the window of {patch}")
    step = max(1.0, patch * step_size)
    n_gaps = math.ceil((size - patch) / step)
    if n_gaps == 0:
        return [0]
    return [round(i * (size - patch) / n_gaps) for i in range(n_gaps + 1)]


def windows(shape: Shape, patch_size: Shape, step_size: float) -> Iterator[Window]:
    """All windows (z, y, x) of a volume; see `window_starts`."""
    axes = (
        [slice(start, start + patch) for start in window_starts(size, patch, step_size)]
        for size, patch in zip(shape, patch_size, strict=True)
    )
    yield from itertools.product(*axes)


@lru_cache(maxsize=4)
def gaussian_weight(patch_size: Shape) -> NDArray:
    """float32 (z, y, x): a Gaussian about the middle, peak 1, sigma patch / 8, with a floor."""
    weight = np.ones((), dtype=np.float64)
    for size in patch_size:
        position = (np.arange(size) - (size - 1) / 2) / (size * SIGMA_SHARE)
        weight = weight[..., None] * np.exp(-0.5 * position**2)
    weight /= weight.max()
    return np.maximum(weight, WEIGHT_FLOOR).astype(np.float32)


def _predict_window(
    network: Network, patch: Tensor, settings: PredictionSettings, opinions: Moments | None
) -> Tensor:
    """The value (z, y, x) of one window; all opinions about it join what is measured of them."""
    combine = ENSEMBLES[settings.ensemble]
    copies = []
    for flip in _flips(patch) if settings.tta else [()]:
        outputs = network(patch.flip(flip)).flip(flip).float()
        if outputs.shape[1:] != (1, *patch.shape[2:]):
            raise ValueError(f"the network gave {tuple(outputs.shape)} for {tuple(patch.shape)}")
        copies.append(combine(outputs[:, 0]))  # (z, y, x)
        if opinions is not None:
            variance, mean = torch.var_mean(outputs[:, 0], dim=0, correction=0)
            opinions.add(mean[None], variance, len(outputs))
    return torch.stack(copies).mean(dim=0) if settings.tta else copies[0]


def _of_each_fold(network: Network, patch: Tensor) -> tuple[Tensor, Tensor]:
    """Of a window and its copy mirrored along x: variance (z, y, x), means (n, z, y, x)."""
    both = torch.stack([network(patch), network(patch.flip(-1)).flip(-1)])[:, :, 0].float()
    variance, means = torch.var_mean(both, dim=0, correction=0)  # n, z, y, x
    return variance.mean(dim=0), means


def _flips(patch: Tensor) -> list[tuple[int, ...]]:
    axes = [axis for axis in (2, 3, 4) if patch.shape[axis] > 1]
    return [flip for n in range(len(axes) + 1) for flip in itertools.combinations(axes, n)]


def _middle(outputs: Tensor) -> Tensor:
    """The one or two values (1 or 2, z, y, x) in the middle of n sorted ones."""
    n = len(outputs)
    return outputs.sort(dim=0).values[(n - 1) // 2 : n // 2 + 1]


def _cut(volume: Tensor, box: Box) -> NDArray:
    return np.ascontiguousarray(crop(volume.numpy(), box))[None]


def _comes_near(body: NDArray, window: Window) -> bool:
    """A window of the padded volume: along a padded axis there is one, and it holds the body."""
    wider = tuple(slice(max(0, s.start - BODY_MARGIN), s.stop + BODY_MARGIN) for s in window)
    return bool(body[wider].any())
