"""Whole volumes by a sampler: each call of the network covers the volume by windows, blended.

One state and one noise belong to the whole volume, so that neighbouring windows agree at every
step: there are no seams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdmnet.arrays.crop import crop, pad_to
from gdmnet.data.case import Case
from gdmnet.errors import CheckpointError
from gdmnet.geometry import Shape
from gdmnet.inference.sliding import predict_volume
from gdmnet.inference.windows import BodyRegion, Estimate
from gdmnet.models.card import PredictionSettings
from gdmnet.objectives.build import SAMPLED, context_of
from gdmnet.objectives.sampling import Sampled, Sampling, network_input
from gdmnet.plan import Configuration, Run

TimedNetwork = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True, eq=False)
class Sampler:
    """How the networks of a model are called to make a target.

    Attributes:
        objective: that they were trained with.
        sampling: the sampler and its number of steps.
        seed: of the noise.
    """

    objective: Sampled
    sampling: Sampling
    seed: int = 0

    @property
    def network_calls(self) -> int:
        """Of each fold, for a window."""
        return self.sampling.steps * self.objective.samplers[self.sampling.sampler]


def choose_sampler(
    runs: Sequence[Run], configuration: Configuration, settings: PredictionSettings
) -> Sampler | None:
    """The sampler of some folds; None for an objective that calls its network once.

    Args:
        runs: of the folds, all of one objective.
        configuration: that they were trained in.
        settings: steps and sampler as asked for, None is as trained; seed, None is 0.

    Raises:
        CheckpointError: the objective has no sampler, not this one, or not so many steps; or the
            folds were trained with different options.
    """
    name = runs[0].objective
    if name not in SAMPLED:
        for option in ("steps", "sampler", "seed"):
            if (value := getattr(settings, option)) is not None:
                raise CheckpointError(
                    f"--{option} {value}: the objective {name} calls its network"
                    f" once; leave --{option} out"
                )
        return None
    if any(run.options != runs[0].options for run in runs):
        raise CheckpointError(
            f"the folds {', '.join(run.fold for run in runs)} of {name} were trained with different"
            " options and cannot share a sampler; choose one by -f"
        )
    objective = SAMPLED[name](context_of(configuration, runs[0].options))
    if settings.sampler not in (None, *objective.samplers):
        raise CheckpointError(
            f"--sampler {settings.sampler}: the objective {name} has"
            f" {', '.join(objective.samplers)} here"
        )
    if settings.steps is not None and settings.steps > objective.most_steps:
        raise CheckpointError(
            f"--steps {settings.steps}: the objective {name} takes 1 to {objective.most_steps}"
        )
    default = objective.sampling
    sampling = Sampling(settings.sampler or default.sampler, settings.steps or default.steps)
    return Sampler(objective, sampling, settings.seed or 0)


def sample_volume(
    network: TimedNetwork,
    sampler: Sampler,
    case: Case,
    patch_size: Shape,
    *,
    fill: Sequence[float],
    device: torch.device | str,
    settings: PredictionSettings,
    region: BodyRegion,
) -> Estimate:
    """Sample a volume: the state is the whole volume's, and so is every call of the network.

    Args:
        network: (b, c + 1, z, y, x) and a time to (n b, 1, z, y, x): n folds, which are combined
            at every call, as mirrored copies are.
        sampler: of the model.
        case: its sources (c, z, y, x), network units, and its name: the same case gets the same
            noise.
        patch_size: voxels (z, y, x) of a window.
        fill: what surrounds the volume, one number a channel, network units.
        device: where the network lies; state and noise are in main memory.
        settings: step size, mirrored copies and ensemble of every call.
        region: the body, where the state is, and the target outside it.
    """
    padded, box = pad_to(case.source, patch_size, fill)
    body = pad_to((region.body != 0)[None].astype(np.float32), patch_size, [0.0])[0]
    field = torch.from_numpy(np.ascontiguousarray(padded, dtype=np.float32))[None]
    mask = torch.from_numpy(body)[None]
    rng = noise_rng(case.record.identifier, sampler.seed)

    def draw() -> Tensor:
        return torch.randn(mask.shape, generator=rng)

    def evaluate(state: Tensor, time: float) -> Tensor:
        called = predict_volume(
            lambda patch: network(patch, time),
            network_input(field, state, mask, sampler.objective.state_width)[0].numpy(),
            patch_size,
            fill=[*fill, 0.0],
            device=device,
            settings=settings,
            region=BodyRegion(body[0], 0.0),
        )
        return torch.from_numpy(called.mean)[None]

    sampled = sampler.objective.sample(evaluate, field, draw, sampler.sampling)
    inside = torch.where(mask > 0.5, sampled, region.background)[0, 0]
    return Estimate(np.ascontiguousarray(crop(inside.numpy(), box))[None], None)


def noise_rng(identifier: str, seed: int) -> torch.Generator:
    """Random numbers that are a function of a case's name and a seed, on any machine."""
    digest = hashlib.sha256(f"{seed} {identifier}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)
