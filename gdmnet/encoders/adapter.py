"""A public network as a feature encoder of patches in the target's network units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from gdmnet.encoders.grid import Grid, Layout
from gdmnet.encoders.intensity import Mapping
from gdmnet.encoders.layers import StagedNetwork


class Adapter(nn.Module):
    """Intensity, axes, spacing and padding around a network; its maps come back in our axes.

    Args:
        network: a `StagedNetwork`, already cut to the stages in use.
        stages: which of its maps are given.
        mapping: of intensities.
        layout: of axes.
        grid: of spacing and sizes.
    """

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[int],
        *,
        mapping: Mapping,
        layout: Layout,
        grid: Grid,
    ) -> None:
        super().__init__()
        self.network = network
        self.stages = tuple(stages)
        self.mapping = mapping
        self.layout = layout
        self.grid = grid

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps, finest first.

        Args:
            x: (b, 1, z, y, x) in network units of the target.

        Returns:
            float32 (b, c, z', y', x') of every stage in use; the i-th of n locations along an axis
            lies over the i-th n-th of the patch.
        """
        with torch.autocast(x.device.type, enabled=False):
            seen = self.mapping.scale * x.float() + self.mapping.offset
            seen = self.layout.to_network(seen.clamp(self.mapping.low, self.mapping.high))
            shape = seen.shape[2:]
            seen = self.grid.fit(seen)
        maps = self.network(seen)
        network: StagedNetwork = self.network  # type: ignore[assignment]
        return [
            self.layout.to_image(self.grid.crop(maps[s].float(), shape, network.strides[s]))
            for s in self.stages
        ]


class ConstantNorm(nn.Module):
    """A normalisation layer whose statistics stand still: y = scale * x + shift, a pair a channel.

    Args:
        scale: (c,).
        shift: (c,).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale[:, None, None, None])
        self.register_buffer("shift", shift[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, z, y, x) -> the same shape."""
        return x * self.scale + self.shift


@torch.no_grad()
def freeze_norms(encoder: nn.Module, patches: Iterable[Tensor]) -> int:
    """Make constants of all instance and group norms, from what they see of real targets.

    Such layers recompute their statistics on every patch and so hide the contrast and the strength
    of texture that regression loses (method 10); batch norms stand still already.

    Args:
        encoder: changed in place.
        patches: some 30 batches (b, 1, z, y, x) of real targets, on the encoder's device.

    Returns:
        The number of layers; 0 for a network without them.
    """
    norms = {
        name: layer
        for name, layer in encoder.named_modules()
        if isinstance(layer, nn.InstanceNorm3d | nn.GroupNorm)
    }
    if not norms:
        return 0
    sums = {name: _Sums(layer) for name, layer in norms.items()}
    hooks = [layer.register_forward_pre_hook(sums[name]) for name, layer in norms.items()]
    for patch in patches:
        encoder(patch)
    for hook in hooks:
        hook.remove()
    for name, layer in norms.items():
        parent, _, child = name.rpartition(".")
        setattr(encoder.get_submodule(parent), child, sums[name].constant(layer))
    return len(norms)


class _Sums:
    """What a layer has seen: means and mean squares of each of its groups of channels."""

    def __init__(self, layer: nn.InstanceNorm3d | nn.GroupNorm) -> None:
        grouped = isinstance(layer, nn.GroupNorm)
        self.n_channels: int = layer.num_channels if grouped else layer.num_features  # type: ignore
        self.n_groups: int = layer.num_groups if grouped else self.n_channels  # type: ignore
        self.count = 0
        self.means = torch.zeros(self.n_groups, dtype=torch.float64)
        self.squares = torch.zeros(self.n_groups, dtype=torch.float64)

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del layer
        values = inputs[0].float().unflatten(1, (self.n_groups, -1)).movedim(1, 0).flatten(1)
        n = values.shape[1]
        self.count += n
        self.means += n * values.mean(1).cpu()
        self.squares += n * values.square().mean(1).cpu()

    def constant(self, layer: nn.InstanceNorm3d | nn.GroupNorm) -> ConstantNorm:
        if self.count == 0:
            raise ValueError("no patches to measure a normalisation layer on")
        mean = self.means / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        each = self.n_channels // self.n_groups
        scale = (variance + layer.eps).rsqrt().repeat_interleave(each)
        shift = -mean.repeat_interleave(each)
        if not layer.affine:
            return ConstantNorm(scale.float(), (shift * scale).float())
        scale = scale * layer.weight.double().cpu()
        shift = shift * scale + layer.bias.double().cpu()
        return ConstantNorm(scale.to(layer.weight), shift.to(layer.weight))
