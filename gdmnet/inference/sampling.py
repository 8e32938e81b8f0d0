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
from gdmnet.inference.sliding import predict_volume
from gdmnet.inference.windows import Estimate, Tiling
from gdmnet.models.card import PredictionSettings
from gdmnet.objectives.base import Context
from gdmnet.objectives.build import SAMPLED
from gdmnet.objectives.sampling import Sampled, Sampling, network_input
from gdmnet.plan import Configuration, Run

TimedNetwork = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True, eq=False)
class Sampler:
    """How the networks of a model are called to make a target."""

    objective: Sampled  # that they were trained with
    sampling: Sampling
    seed: int = 0  # of the noise

    @property
    def network_calls(self) -> int:
        """Of each fold, for a window."""
        return self.sampling.steps * self.objective.samplers[self.sampling.sampler]


def choose_sampler(
    runs: Sequence[Run], configuration: Configuration, settings: PredictionSettings
) -> Sampler | None:
    """The sampler of some folds of one objective; None where that calls its network once.

    Steps and sampler that the settings leave open are as trained, the seed is 0.

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
    objective = SAMPLED[name](Context(configuration, runs[0].options))
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
    tiling: Tiling,
    *,
    device: torch.device | str,
    settings: PredictionSettings,
) -> Estimate:
    """Sample a volume: the state is the whole volume's, and so is every call of the network.

    That takes (b, c + 1, z, y, x), on the device, and a time to (n b, 1, z, y, x): n folds, which
    are combined at every call, as mirrored copies are. State and noise are in main memory; the same
    case gets the same noise. The state lies in the tiling's body.
    """
    padded, box = pad_to(case.source, tiling.patch_size, tiling.fill)
    inside = np.ones_like(case.body) if tiling.body is None else tiling.body != 0
    body = pad_to(inside[None].astype(np.float32), tiling.patch_size, [0.0])[0]
    field = torch.from_numpy(np.ascontiguousarray(padded, dtype=np.float32))[None]
    mask = torch.from_numpy(body)[None]
    around = Tiling(tiling.patch_size, [*tiling.fill, 0.0], body[0])
    rng = noise_rng(case.record.identifier, sampler.seed)

    def draw() -> Tensor:
        return torch.randn(mask.shape, generator=rng)

    def evaluate(state: Tensor, time: float) -> Tensor:
        called = predict_volume(
            lambda patch: network(patch, time),
            network_input(field, state, mask, sampler.objective.state_width)[0].numpy(),
            around,
            device=device,
            settings=settings,
        )
        return torch.from_numpy(called.mean)[None]

    sampled = sampler.objective.sample(evaluate, field, draw, sampler.sampling)
    inside = torch.where(mask > 0.5, sampled, tiling.background)[0, 0]
    return Estimate(np.ascontiguousarray(crop(inside.numpy(), box))[None], None)


def noise_rng(identifier: str, seed: int) -> torch.Generator:
    """Random numbers that are a function of a case's name and a seed, on any machine."""
    digest = hashlib.sha256(f"{seed} {identifier}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)
