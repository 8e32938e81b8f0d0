"""Rings of past rows: real ones as further positives, generated ones as further negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RingBank(nn.Module):
    """The last `capacity` rows, float32, in buffers, so that saving and loading is exact.

    Features are kept, not images: the encoder is frozen, so real rows never go stale.
    """

    rows: Tensor
    pushed: Tensor

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(capacity, dim))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Rows that are there."""
        return min(int(self.pushed), self.rows.shape[0])

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Store rows [n, dim] over the oldest ones."""
        capacity = self.rows.shape[0]
        kept = rows[-capacity:]
        start = int(self.pushed) + rows.shape[0] - kept.shape[0]
        places = (torch.arange(kept.shape[0], device=self.rows.device) + start) % capacity
        self.rows[places] = kept.detach().to(self.rows)
        self.pushed += rows.shape[0]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """At most n distinct rows [<= n, dim]: what is there, never a row twice.

        Args:
            n: rows wanted.
            generator: on the CPU.
        """
        picks = torch.randperm(len(self), generator=generator)[:n]
        return self.rows[picks.to(self.rows.device)]
