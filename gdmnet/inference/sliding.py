"""One volume through the network, window by window, blended by Gaussian weights in fp32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gdmnet.arrays.crop import Box, crop, pad_to
from gdmnet.geometry import shape_of
from gdmnet.inference.windows import (
    Estimate,
    Moments,
    Spread,
    Tiling,
    Window,
    gaussian_weight,
    mirrored_axes,
)
from gdmnet.models.card import PredictionSettings
from gdmnet.parallel import progress_bar

Network = Callable[[Tensor], Tensor]
ENSEMBLES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda outputs: outputs.mean(dim=0),
    "median": lambda outputs: _median(outputs),
}
"""How n opinions (n, b, z, y, x) about the same voxels become one (b, z, y, x)."""
_ROOM = 2  # times the memory of the sums must be free where the network computes
_SLAB = 32  # slices that are divided by their weights at a time


def predict_volume(
    network: Network,
    source: NDArray,
    tiling: Tiling,
    *,
    device: torch.device | str,
    settings: PredictionSettings | None = None,
    spread: Spread | None = None,
) -> Estimate:
    """Slide the network over a volume, with Gaussian blending in fp32.

    A GPU is given several windows or mirrored copies a call, and keeps source and sums where they
    fit: the prediction then comes back at once. Windows are added up in one order, so that the
    result does not depend on how many share a call. Every window that touches the body is computed,
    so that no voxel of it changes where others are skipped.

    The network takes (b, c, z, y, x) on the device to (n b, 1, z, y, x) of any floating type: n
    opinions about b patches, one a fold, fold by fold. The source is float32 (c, z, y, x), network
    units. The settings give step size, mirrored copies and ensemble.

    The spread is how far all opinions lie apart; or "mirrored": how far each fold's own lie apart
    in overlapping windows and their copies mirrored along x, as the root mean square over the
    folds, whatever the settings. The prediction is the same to the bit with and without.

    Raises:
        ValueError: shapes that do not fit, or a step size outside (0, 1].
    """
    settings, device = settings or PredictionSettings(), torch.device(device)
    patch_size = tiling.patch_size
    padded, box = pad_to(source, patch_size, tiling.fill)
    shape = shape_of(padded)
    chosen = tiling.windows(shape, settings.step_size)
    n_volumes = len(padded) + (8 if spread else 1)
    place = device if _fits(4 * n_volumes * math.prod(shape), device) else torch.device("cpu")
    volume = torch.from_numpy(np.ascontiguousarray(padded, dtype=np.float32)).to(place)
    total = torch.zeros(shape, dtype=torch.float32, device=place)
    weight = torch.from_numpy(gaussian_weight(patch_size)).to(place)
    moments: Moments | None = None
    flips = mirrored_axes(patch_size) if settings.tta else [()]
    n_windows = 1 if settings.tta else patches_a_call(device)
    groups = [chosen[first : first + n_windows] for first in range(0, len(chosen), n_windows)]
    with torch.inference_mode():
        for group in progress_bar(groups, "windows", delay=2):
            patches = torch.stack([volume[:, z, y, x] for z, y, x in group]).to(device)
            zeros = torch.zeros((1, len(group), *patch_size), device=device)
            opinions = Moments(zeros) if spread == "opinions" else None
            values, plain = _predict_windows(network, patches, flips, settings.ensemble, opinions)
            for window, value in zip(group, values.to(place), strict=True):
                total[window].addcmul_(value, weight)
            if spread is not None:
                if opinions is None:
                    means, variance = _with_mirrored(network, patches, plain)
                else:  # n_series, b, z, y, x; b, z, y, x
                    means, variance = opinions.means, opinions.variance()
                moments = moments or Moments(total.new_zeros((len(means), *shape)))
                found = means.to(place).unbind(1), variance.to(place)
                for window, mean, own in zip(group, *found, strict=True):
                    moments.add(mean, own, weight, window)
        _divide(total, chosen, weight, tiling.background)
        if spread is None:
            return Estimate(_cut(total, box))
        moments = moments or Moments(total.new_zeros((1, *shape)))
        return Estimate(_cut(total, box), _cut(moments.variance().sqrt(), box))


def _predict_windows(
    network: Network,
    patches: Tensor,
    flips: Sequence[tuple[int, ...]],
    ensemble: str,
    opinions: Moments | None,
) -> tuple[Tensor, Tensor]:
    """The values (b, z, y, x) of windows (b, c, z, y, x); all opinions join what is measured.

    And the folds' opinions (n, b, z, y, x) about the windows as they are, the first of the flips.
    """
    n_windows, size = len(patches), patches.shape[2:]
    at_once = max(1, patches_a_call(patches.device) // n_windows)
    values, plain = [], None
    for first in range(0, len(flips), at_once):
        some = flips[first : first + at_once]
        mirrored = [patches.flip(flip) if flip else patches for flip in some]
        batch = torch.cat(mirrored) if len(some) > 1 else mirrored[0]  # (k b, c, z, y, x)
        outputs = network(batch).float()  # (n k b, 1, z, y, x)
        if outputs.shape[1:] != (1, *size):
            raise ValueError(f"the network gave {tuple(outputs.shape)} for {tuple(batch.shape)}")
        copies = outputs.reshape(-1, len(some), n_windows, *size).unbind(1)
        for flip, folds in zip(some, copies, strict=True):
            own = folds.flip(flip) if flip else folds  # (n, b, z, y, x)
            plain = own if plain is None else plain
            values.append(ENSEMBLES[ensemble](own))  # (b, z, y, x)
            if opinions is not None:
                variance, mean = torch.var_mean(own, dim=0, correction=0)
                opinions.add(mean[None], variance, len(own))
    assert plain is not None
    return torch.stack(values).mean(dim=0) if len(values) > 1 else values[0], plain


def _with_mirrored(network: Network, patches: Tensor, plain: Tensor) -> tuple[Tensor, Tensor]:
    """Folds' opinions (n, b, z, y, x) and those of windows mirrored along x: mean, variance."""
    mirrored = network(patches.flip(-1)).float().reshape(plain.shape).flip(-1)
    variance, means = torch.var_mean(torch.stack([plain, mirrored]), dim=0, correction=0)
    return means, variance.mean(dim=0)  # n, b, z, y, x; b, z, y, x


def _divide(total: Tensor, chosen: Sequence[Window], weight: Tensor, background: float) -> None:
    """Sums to means in place, some slices at a time; background where no window was."""
    for first in range(0, len(total), _SLAB):
        rows = total[first : first + _SLAB]
        weights = torch.zeros_like(rows)
        for z, y, x in chosen:
            begin, end = max(z.start, first), min(z.stop, first + len(rows))
            if begin < end:
                part = weight[begin - z.start : end - z.start]
                weights[begin - first : end - first, y, x] += part
        rows.div_(weights).masked_fill_(weights == 0, background)


def patches_a_call(device: torch.device) -> int:
    """Windows or mirrored copies: on a GPU 4, whose maps are smaller than a training step's."""
    return 1 if device.type == "cpu" else 4


def _fits(n_bytes: int, device: torch.device) -> bool:
    """Whether a GPU has room for the sums beside the network's maps."""
    return device.type == "cuda" and torch.cuda.mem_get_info(device)[0] > _ROOM * n_bytes


def _median(outputs: Tensor) -> Tensor:
    """Of two in the middle torch.median takes the lower: of two folds that would be one fold."""
    n = len(outputs)
    return outputs.sort(dim=0).values[(n - 1) // 2 : n // 2 + 1].mean(dim=0)


def _cut(volume: Tensor, box: Box) -> NDArray:
    return np.ascontiguousarray(crop(volume.cpu().numpy(), box))[None]
