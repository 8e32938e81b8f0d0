"""Exponential moving average of the generator's weights: what is validated and exported."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """A frozen copy of a network whose weights follow the trained ones slowly.

    Args:
        network: the trained one, already on its device.
        decay: of a long run; young averages use a smaller one.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow the weights: w' <- d w' + (1 - d) w, d = min(decay, (1 + step) / (10 + step)).

        So a young average forgets its random start quickly. Buffers are copied: they are counters
        or statistics, not weights.
        """
        share = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        for shadow, weights in zip(self.network.parameters(), network.parameters(), strict=True):
            shadow.lerp_(weights, share)
        for kept, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, named as the network names them."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take averaged weights back."""
        self.network.load_state_dict(state)
