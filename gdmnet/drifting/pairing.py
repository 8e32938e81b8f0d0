"""Who is compared with whom: each generated row with a pool of real rows, a partner, or its target.

pooled: all generated rows of a map are one drift problem; the distribution of patterns is matched,
and the paired targets are among the positives. coupled: the same, but every real row has as much to
say as any other. paired: each generated row is a problem of its own whose one positive is its
target; the field is then a normalised perceptual loss, without a distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gdmnet.drifting.coupling import coupled_loss
from gdmnet.drifting.field import AFFINITY_FLOOR, drift_loss
from gdmnet.drifting.representations import Rows

FLOOR_POSITIVES = 64  # the affinity floor was made for problems of 64 x 64 points

Watched = tuple[Tensor, dict[str, Tensor]]
"""The losses [...,Q] of Q drift problems, and what to watch, [...]."""


@dataclass(frozen=True)
class Pairing:
    """One way to compare.

    The loss is of the paired rows [...,n,S] of a map, or of several alike at once; past rows of the
    same maps, real [...,P,S] and generated [...,M,S]; and temperatures, in mean distances.
    """

    loss: Callable[[Rows, Tensor, Tensor, Sequence[float]], Watched]
    with_past: tuple[str, ...] = ()  # levels at which past rows take part: these are worth keeping


def _pooled(rows: Rows, targets: Tensor, generated: Tensor, taus: Sequence[float]) -> Watched:
    """Q = 1: all n rows against all targets, those of the batch and past ones."""
    points = _one_problem(rows, targets, generated)
    floor = scaled_floor(points[1].shape[-2])
    return drift_loss(*points, temperatures=taus, affinity_floor=floor)


def _coupled(rows: Rows, targets: Tensor, generated: Tensor, taus: Sequence[float]) -> Watched:
    """Q = 1: the same rows, coupled; a coupling has no temperature."""
    return coupled_loss(*_one_problem(rows, targets, generated))


def _one_problem(rows: Rows, targets: Tensor, generated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Generated points [...,1,n,S], positives [...,1,n+P,S] and negatives [...,1,M,S]."""
    positives = torch.cat([rows.target, targets], dim=-2)
    return rows.generated.unsqueeze(-3), positives.unsqueeze(-3), generated.unsqueeze(-3)


def _paired(rows: Rows, targets: Tensor, generated: Tensor, taus: Sequence[float]) -> Watched:
    """Q = n: each row against its own target."""
    pairs = rows.generated.unsqueeze(-2), rows.target.unsqueeze(-2)  # [...,n,1,S] each
    return drift_loss(*pairs, temperatures=taus, affinity_floor=AFFINITY_FLOOR)


PAIRINGS: dict[str, Pairing] = {
    "pooled": Pairing(_pooled, with_past=("global", "local", "spatial")),
    "coupled": Pairing(_coupled, with_past=("global",)),  # its rows alone are too few in a batch
    "paired": Pairing(_paired),
}


def scaled_floor(n_positives: int) -> float:
    """1e-6 (64 / max(64, P))^2: floored entries keep the share of the mass they have at P = 64."""
    return AFFINITY_FLOOR * (FLOOR_POSITIVES / max(FLOOR_POSITIVES, n_positives)) ** 2
