"""What the processes of a distributed training tell each other within a step.

Every rank must come by each of these calls in every step: they wait for one another. Without a
distributed training they are the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from gdmnet.drifting.coordination import TINY, MeanNorm


def n_ranks() -> int:
    """Processes that train together; 1 without a distributed training."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of every rank's tensor, without a graph; all ranks get the same bits."""
    if n_ranks() == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / n_ranks()


def shared_norms(*averages: MeanNorm) -> list[Tensor]:
    """The value of each average, a scalar: the mean over those ranks that have measured any."""
    values = [average.value for average in averages]
    if n_ranks() == 1:
        return values
    known = [values[0].new_tensor(float(average.weight > 0)) for average in averages]
    sums, shares = mean_over_ranks(torch.stack(values + known)).chunk(2)
    return list(sums / shares.clamp(min=TINY))


def on_all_ranks(*, condition: bool, device: torch.device) -> bool:
    """Whether the condition holds on every rank."""
    if n_ranks() == 1:
        return condition
    return float(mean_over_ranks(torch.tensor(float(condition), device=device))) == 1.0
