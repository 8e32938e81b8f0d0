"""Rings of past rows: real ones as further positives, generated ones as further negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from gdmnet.drifting.numbers import NumbersModule, on_device


class RingBank(NumbersModule):
    """The last `capacity` rows, float32, in a buffer, so that saving and loading is exact.

    Features are kept, not images: the encoder is frozen, so real rows never go stale.
    """

    rows: Tensor
    pushed: int = 0  # rows so far

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(capacity, dim))

    def __len__(self) -> int:
        """Rows that are there."""
        return min(self.pushed, self.rows.shape[0])

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Store rows [n, dim] over the oldest ones."""
        capacity = self.rows.shape[0]
        kept = rows[-capacity:].detach().to(self.rows)
        start = (self.pushed + rows.shape[0] - kept.shape[0]) % capacity
        to_end, over_end = kept[: capacity - start], kept[capacity - start :]
        self.rows[start : start + to_end.shape[0]] = to_end
        if over_end.shape[0] > 0:
            self.rows[: over_end.shape[0]] = over_end
        self.pushed += rows.shape[0]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """At most n distinct rows [<= n, dim] of those that are there; the generator is a CPU's."""
        picks = torch.randperm(len(self), generator=generator)[:n]
        return self.rows[on_device(picks, self.rows.device)]
