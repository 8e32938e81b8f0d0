"""A small generator, a small frozen encoder and batches whose texture the source does not tell."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from gdmnet.objectives.base import Batch, Context, Inputs
from gdmnet.plan import Architecture, Configuration, Normalisation

PATCH = (8, 12, 16)
ARCHITECTURE = Architecture(
    features=(3, 6, 6),
    kernels=((3, 3, 3),) * 3,
    strides=((1, 1, 1), (2, 2, 2), (1, 2, 2)),
    blocks=(1, 1, 1),
)

WIDE, NARROW = (
    Normalisation(name, 0.0, 1.0, None, None, 0.0) for name in ("zscore", "percentiles")
)
CONFIGURATION = Configuration(
    name="3d_fullres",
    spacing=(1.0, 1.0, 1.0),
    median_shape=PATCH,
    patch_size=PATCH,
    batch_size=2,
    architecture=ARCHITECTURE,
    sources=(WIDE,),
    target=WIDE,
    residual_channel=None,
    feature_map_voxels=1,
    reasons={},
)


class CountingEncoder(nn.Module):
    """Three norm-free convolutions that count their calls and fail on demand."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stages = nn.ModuleList(
            [nn.Conv3d(1, 4, 3, 1, 1), nn.Conv3d(4, 6, 3, 2, 1), nn.Conv3d(6, 6, 3, 2, 1)]
        )
        self.calls = 0
        self.factor = 1.0

    def forward(self, x: Tensor) -> list[Tensor]:
        self.calls += 1
        maps = []
        for stage in self.stages:
            x = nn.functional.leaky_relu(stage(x), 0.1)
            maps.append(x * self.factor)
        return maps


def small_generator(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Dropout(dropout),
        nn.Conv3d(6, 1, 3, padding=1),
    )


class TimedGenerator(nn.Module):
    """Four convolutions whose input is the source, the state, and the time in every voxel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.Sequential(
            nn.Conv3d(3, 8, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv3d(8, 8, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv3d(8, 1, 3, padding=1),
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        moment = time.view(-1, 1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        output: Tensor = self.layers(torch.cat([x, moment], dim=1)).float()
        return output


def generator_for(inputs: Inputs) -> nn.Module:
    """A small generator that takes what an objective asks for."""
    return TimedGenerator() if inputs.time else small_generator()


def make_batch(step: int, *, mask: Tensor | None = None) -> Batch:
    rng = torch.Generator().manual_seed(1000 + step)
    anatomy = nn.functional.avg_pool3d(torch.randn(2, 1, *PATCH, generator=rng), 5, 1, 2) * 8
    source = anatomy + 0.5 * torch.randn(2, 1, *PATCH, generator=rng)
    target = anatomy + 0.5 * torch.randn(2, 1, *PATCH, generator=rng) + 0.5
    return Batch(source, target, torch.ones_like(target) if mask is None else mask)


def make_context(total_steps: int = 40, *, encoder: nn.Module | None = None, **options) -> Context:
    encoder = CountingEncoder() if encoder is None else encoder
    return Context(CONFIGURATION, options, total_steps, 3, encoder)


def planned(context: Context, **changes) -> Context:
    """The same of a configuration with changes."""
    return replace(context, configuration=replace(context.configuration, **changes))


def gdm_context(total_steps: int = 40, **options) -> Context:
    """For gdm, with few locations: the tests are about the steps, not about the field."""
    return make_context(total_steps, **{"locations": 64, "bank": 64, **options})


def loop_step(generator, objective, optimiser, step: int, batch: Batch | None = None):
    rng = torch.Generator().manual_seed(step)
    batch = make_batch(step) if batch is None else batch
    descent = objective.descend(generator, batch, rng)
    optimiser.zero_grad()
    if descent.cotangent is None:
        descent.tensor.backward()
    else:
        (descent.tensor.float() * descent.cotangent).sum().backward()
    optimiser.step()
    return descent


def adam(generator: nn.Module, rate: float = 3e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW(generator.parameters(), rate)


def half_mask() -> Tensor:
    mask = torch.zeros(2, 1, *PATCH)
    mask[..., 4:] = 1
    return mask
