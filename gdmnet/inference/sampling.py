"""Whole volumes by a sampler: each call of the network covers the volume by windows, blended.

One state and one noise belong to the whole volume, so that neighbouring windows agree at every
step: there are no seams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gdmnet.arrays.crop import crop
from gdmnet.arrays.pad import pad_to
from gdmnet.data.case import Case
from gdmnet.errors import CheckpointError
from gdmnet.geometry import Shape
from gdmnet.inference.sliding import Estimate, Manner, Outside, predict_volume
from gdmnet.objectives.base import Sampled, Sampling
from gdmnet.objectives.build import SAMPLED, context_of
from gdmnet.objectives.sampling import network_input
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
    runs: Sequence[Run],
    configuration: Configuration,
    *,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int | None = None,
) -> Sampler | None:
    """The sampler of some folds; None for an objective that calls its network once.

    Args:
        runs: of the folds, all of one objective.
        configuration: that they were trained in.
        steps: None is as trained.
        sampler: None is as trained.
        seed: None is 0.

    Raises:
        CheckpointError: the objective has no sampler, not this one, or not so many steps; or the
            folds were trained with different options.
    """
    name = runs[0].objective
    if name not in SAMPLED:
        for option, value in (("--steps", steps), ("--sampler", sampler), ("--seed", seed)):
            if value is not None:
                raise CheckpointError(
                    f"{option} {value}: the objective {name} calls its network once; leave"
                    f" {option} out"
                )
        return None
    if any(run.options != runs[0].options for run in runs):
        raise CheckpointError(
            f"the folds {', '.join(run.fold for run in runs)} of {name} were trained with different"
            " options and cannot share a sampler; choose one by -f"
        )
    objective = SAMPLED[name](context_of(configuration, runs[0].options))
    known = objective.samplers
    if sampler is not None and sampler not in known:
        raise CheckpointError(
            f"--sampler {sampler}: the objective {name} has {', '.join(known)} here"
        )
    if steps is not None and not 1 <= steps <= objective.most_steps:
        raise CheckpointError(
            f"--steps {steps}: the objective {name} takes 1 to {objective.most_steps}"
        )
    default = objective.sampling
    return Sampler(
        objective, Sampling(sampler or default.sampler, steps or default.steps), seed or 0
    )


def sample_volume(
    network: TimedNetwork,
    sampler: Sampler,
    case: Case,
    patch_size: Shape,
    *,
    fill: Sequence[float],
    background: float,
    device: torch.device | str,
    manner: Manner,
) -> Estimate:
    """Sample a volume: the state is the whole volume's, and so is every call of the network.

    Args:
        network: (1, c + 1, z, y, x) and a time to (n, 1, z, y, x): n folds, which are combined
            at every call, as mirrored copies are.
        sampler: of the model.
        case: its sources (c, z, y, x), network units; its body, where the state is; and its name:
            the same case gets the same noise.
        patch_size: voxels (z, y, x) of a window.
        fill: what surrounds the volume, one number a channel, network units.
        background: the target outside the body, network units.
        device: where the network lies; state and noise stay in main memory.
        manner: how the volume is covered; without spread.
    """
    padded, box = pad_to(case.source, patch_size, fill)
    body = pad_to((case.body != 0)[None].astype(np.float32), patch_size, [0.0])[0]
    field = torch.from_numpy(np.ascontiguousarray(padded, dtype=np.float32))[None]
    mask = torch.from_numpy(body)[None]
    rng = noise_rng(case.record.identifier, sampler.seed)

    def draw() -> Tensor:
        return torch.randn(mask.shape, generator=rng)

    def evaluate(state: Tensor, time: float) -> Tensor:
        called = predict_volume(
            partial(_at_time, network, time),
            network_input(field, state, mask, sampler.objective.state_width)[0].numpy(),
            patch_size,
            fill=[*fill, 0.0],
            device=device,
            manner=manner,
            outside=Outside(body[0], 0.0),
        )
        return torch.from_numpy(called.mean)[None]

    sampled = sampler.objective.sample(evaluate, field, draw, sampler.sampling)
    inside = torch.where(mask > 0.5, sampled, background)[0, 0]
    return Estimate(np.ascontiguousarray(crop(inside.numpy(), box))[None], None)


def noise_rng(identifier: str, seed: int) -> torch.Generator:
    """Random numbers that are a function of a case's name and a seed, on any machine."""
    digest = hashlib.sha256(f"{seed} {identifier}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


def _at_time(network: TimedNetwork, time: float, patch: Tensor) -> Tensor:
    return network(patch, time)
