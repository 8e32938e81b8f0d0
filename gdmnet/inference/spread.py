"""How far several opinions about the same voxels lie apart: running mean and variance in fp32."""

from __future__ import annotations

from types import EllipsisType

import torch
from torch import Tensor

from gdmnet.geometry import Shape

Window = tuple[slice, slice, slice]


class Moments:
    """Weighted mean and variance of voxels, group by group, without a stack of volumes.

    Chan, Golub and LeVeque 1979 (updating formulae), with weights: a group of weight w_b, mean m_b
    and variance v_b joins what has w, m and the sum of squares q = w v by

        d = m_b - m,   m += d w_b / (w + w_b),   q += w_b v_b + d^2 w w_b / (w + w_b)

    No large squares are subtracted, so that fp32 holds small variances beside large means.
    """

    def __init__(self, shape: Shape | torch.Size, device: torch.device | str = "cpu") -> None:
        self.weight = torch.zeros(tuple(shape), dtype=torch.float32, device=device)
        self.mean = torch.zeros_like(self.weight)
        self._squares = torch.zeros_like(self.weight)

    def add(
        self,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | float,
        window: Window | EllipsisType = ...,
    ) -> None:
        """A group of opinions joins.

        Args:
            mean: (z, y, x) of the window.
            variance: (z, y, x), of the population; 0 for a single opinion.
            weight: of the group, above 0: (z, y, x) or one number.
            window: where the group lies; by default it covers all voxels.
        """
        before = self.weight[window]
        share = weight / (before + weight)
        distance = mean - self.mean[window]
        self._squares[window] += weight * variance + distance.square() * before * share
        self.mean[window] += distance * share
        self.weight[window] += weight

    def variance(self) -> Tensor:
        """(z, y, x), of the population; 0 where no or one opinion is."""
        return torch.where(self.weight > 0, self._squares / self.weight, 0.0)
