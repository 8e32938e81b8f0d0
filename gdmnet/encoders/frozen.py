"""An encoder that is used and never changed, where it came from, and its norms made constant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdmnet.geometry import Shape


@dataclass(frozen=True)
class EncoderReport:
    """Where an encoder's weights came from and how it sees a patch."""

    name: str
    file: str | None = None  # None for random weights
    sha256: str | None = None
    prefix: str = ""  # before the encoder's names in the file
    n_tensors: int = 0
    n_others: int = 0  # tensors in the file that are not the encoder's
    stages: tuple[int, ...] = ()  # whose maps are used, 0 is the finest
    channels: tuple[int, ...] = ()
    strides: tuple[Shape, ...] = ()  # voxels (z, y, x) of the network's grid from place to place
    zoom: tuple[float, float, float] = (1.0, 1.0, 1.0)  # such voxels per voxel of the patch
    outside: float = 0.0  # share of the target's range that the encoder cannot tell apart


class FrozenEncoder(nn.Module):
    """An encoder that stays as it is: no weight gradients, always eval; images get gradients."""

    def __init__(self, encoder: nn.Module, report: EncoderReport | None = None) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.report = report
        self.train(False)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in eval mode whatever the loop asks for."""
        del mode
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The encoder's feature maps, finest first."""
        return self.encoder(x)


@torch.no_grad()
def freeze_norms(encoder: nn.Module, patches: Iterable[Tensor]) -> int:
    """Make batch norms, which stand still, of all instance and group norms of an encoder.

    Such layers recompute their statistics on every patch and so hide the contrast and the strength
    of texture that regression loses (method 10). What they see of real targets, some 30 batches (b,
    1, z, y, x) on the encoder's device, becomes constant.

    Returns:
        The number of layers; 0 for a network without them.

    Raises:
        ValueError: no patches.
    """
    norms = {
        name: layer
        for name, layer in encoder.named_modules()
        if isinstance(layer, nn.InstanceNorm3d | nn.GroupNorm)
    }
    seen: dict[nn.Module, Tensor] = {}  # of each layer: number, sum, sum of squares a channel

    def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].float().movedim(1, 0).flatten(1)  # (c, n)
        means = [torch.ones_like(values[:, 0]), values.mean(1), values.square().mean(1)]
        seen[layer] = seen.get(layer, 0) + values.shape[1] * torch.stack(means).cpu().double()

    hooks = [layer.register_forward_pre_hook(add) for layer in norms.values()]
    device = torch.device("cpu")
    for patch in patches:
        encoder(patch)
        device = patch.device
    for hook in hooks:
        hook.remove()
    for name, layer in norms.items():
        if layer not in seen:
            raise ValueError("no patches to measure a normalisation layer on")
        parent, _, child = name.rpartition(".")
        setattr(encoder.get_submodule(parent), child, _standing(layer, seen[layer]).to(device))
    return len(norms)


def _standing(layer: nn.InstanceNorm3d | nn.GroupNorm, seen: Tensor) -> nn.BatchNorm3d:
    """A batch norm with the moments of what a layer saw, (3, c), pooled over its groups."""
    n_channels = seen.shape[1]
    n_groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else n_channels
    pooled = seen.unflatten(1, (n_groups, -1)).sum(2).repeat_interleave(n_channels // n_groups, 1)
    mean, square = pooled[1:] / pooled[0]
    norm = nn.BatchNorm3d(n_channels, eps=layer.eps, affine=layer.affine).eval()
    norm.running_mean = mean.float()
    norm.running_var = (square - mean.square()).clamp(min=0).float()
    if layer.affine:
        norm.weight, norm.bias = layer.weight, layer.bias
    return norm.requires_grad_(False)
