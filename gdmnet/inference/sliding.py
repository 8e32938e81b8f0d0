"""One volume through a network in torch: `blend` with tensors, on a GPU where they fit."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gdmnet.geometry import shape_of
from gdmnet.inference.windows import Estimate, Network, Spread, Tiling, blend
from gdmnet.models.card import PredictionSettings

_ROOM = 2  # times the memory of the sums must be free beside the network's maps


def predict_volume(
    network: Network,
    source: NDArray,
    tiling: Tiling,
    *,
    device: torch.device | str,
    settings: PredictionSettings | None = None,
    spread: Spread | None = None,
) -> Estimate:
    """Slide the network over a volume (c, z, y, x), network units, as `blend` does.

    A GPU is given several windows or mirrored copies a call, and keeps source and sums where they
    fit: the prediction then comes back at once. The network takes tensors on the device, and may
    give any floating type.

    Raises:
        ValueError: shapes that do not fit, or a step size outside (0, 1].
    """
    device, n_volumes = torch.device(device), len(source) + (8 if spread else 1)
    n_bytes = 4 * n_volumes * math.prod(map(max, shape_of(source), tiling.patch_size))
    fits = device.type == "cuda" and torch.cuda.mem_get_info(device)[0] > _ROOM * n_bytes
    arrays = _Tensors(device if fits else torch.device("cpu"))

    def call(patches: Tensor) -> Tensor:
        outputs: Tensor = network(patches.to(device))
        return outputs.to(arrays.device, torch.float32)

    settings, n_together = settings or PredictionSettings(), patches_a_call(device)
    with torch.inference_mode():
        found = blend(call, source, tiling, settings, arrays, spread=spread, n_together=n_together)
    return Estimate(*(np.ascontiguousarray(volume.cpu().numpy())[None] for volume in found))


class _Tensors:
    """The functions of numpy that `blend` needs, of tensors on a device."""

    mean, flip, stack = torch.mean, torch.flip, torch.stack
    concatenate, zeros_like = torch.cat, torch.zeros_like

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def asarray(self, array: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)

    def median(self, values: Tensor, axis: int) -> Tensor:
        """Of two in the middle torch.median takes the lower: of two folds that is one fold."""
        n = values.shape[axis]
        return values.sort(axis).values.narrow(axis, (n - 1) // 2, 2 - n % 2).mean(axis)


def patches_a_call(device: torch.device) -> int:
    """Windows or mirrored copies: on a GPU 4, whose maps are smaller than a training step's."""
    return 1 if device.type == "cpu" else 4
