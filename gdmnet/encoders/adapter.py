"""A public network as a feature encoder of patches in the target's network units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gdmnet.encoders.grid import UNCHANGED, AxisLayout, Zoom, cut_padding, fit
from gdmnet.encoders.intensity import IntensityMap
from gdmnet.geometry import Shape


class EncoderAdapter(nn.Module):
    """A network with what stands between it and gdmnet's patches; maps come back in our axes.

    Args:
        network: (b, 1, d, h, w) -> a list of maps (b, c, d', h', w'), finest first.
        strides: of the stages in use, finest first, along the network's axes.
        intensities: from the target's network units to the network's.
        layout: of the network's axes.
        zoom: voxels of the network per voxel of the patch, along the network's axes.
    """

    def __init__(
        self,
        network: nn.Module,
        strides: Mapping[int, Shape],
        *,
        intensities: IntensityMap,
        layout: AxisLayout,
        zoom: Zoom = UNCHANGED,
    ) -> None:
        super().__init__()
        self.network, self.strides = network, strides
        self.intensities, self.layout, self.zoom = intensities, layout, zoom

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps, finest first.

        Args:
            x: (b, 1, z, y, x) in network units of the target.

        Returns:
            float32 (b, c, z', y', x') of every stage in use; the i-th of n locations along an axis
            lies over the i-th n-th of the patch.
        """
        values = self.intensities
        with torch.autocast(x.device.type, enabled=False):
            seen = values.scale * x.float() + values.offset
            seen = self.layout.to_network(seen.clamp(values.low, values.high))
            shape = seen.shape[2:]
            seen = fit(seen, self.zoom, list(self.strides.values())[-1])
        maps = self.network(seen)
        found = []
        for stage, stride in self.strides.items():
            feature_map = maps[stage].float()
            if self.zoom == UNCHANGED:
                feature_map = cut_padding(feature_map, shape, stride)
            found.append(self.layout.to_image(feature_map))
        return found


@torch.no_grad()
def freeze_norms(encoder: nn.Module, patches: Iterable[Tensor]) -> int:
    """Make batch norms, which stand still, of all instance and group norms.

    Such layers recompute their statistics on every patch and so hide the contrast and the strength
    of texture that regression loses (method 10). What they see of real targets becomes constant.

    Args:
        encoder: changed in place.
        patches: some 30 batches (b, 1, z, y, x) of real targets, on the encoder's device.

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
