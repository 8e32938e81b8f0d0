"""Time for the generator: a sinusoidal embedding, and FiLM that modulates normalised maps by it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

N_WAVES = 64  # features of the embedding, half of them sines
LONGEST = 10_000.0  # ratio of the longest period to the shortest
SCALE = 1000.0  # times in [0, 1] count as steps of a thousand, as in DDPM


def embed_time(time: Tensor, n_features: int = N_WAVES) -> Tensor:
    """Waves e = [cos(1000 t w_i), sin(1000 t w_i)], w_i = 10000^(-2 i / n), i = 0 .. n / 2 - 1.

    Vaswani et al., NeurIPS 2017, section 3.5, as DDPM uses it for time.

    Args:
        time: (b,), from 0 to 1.
        n_features: n, even.

    Returns:
        (b, n), float32.
    """
    half = n_features // 2
    index = torch.arange(half, device=time.device, dtype=torch.float32)
    angles = SCALE * time.float()[:, None] * torch.exp(-math.log(LONGEST) * index / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Times (b,) to features (b, N_WAVES): the waves through two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(N_WAVES, N_WAVES), nn.SiLU(), nn.Linear(N_WAVES, N_WAVES), nn.SiLU()
        )

    def forward(self, time: Tensor) -> Tensor:
        """(b,) to (b, N_WAVES)."""
        features: Tensor = self.layers(embed_time(time))
        return features


class Film(nn.Module):
    """Feature-wise linear modulation, x (1 + a) + b with a, b linear in the time's features.

    Perez et al., AAAI 2018, Eq. 2; a and b start at zero, so that it starts as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(N_WAVES, 2 * channels)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """(b, c, z, y, x) and (b, N_WAVES) to (b, c, z, y, x)."""
        scale, shift = self.layer(features)[:, :, None, None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift
