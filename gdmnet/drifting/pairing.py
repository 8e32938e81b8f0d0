"""Who is compared with whom: each generated row with the pool of real rows, or with its target.

pooled: all generated rows of a map are one drift problem; the distribution of patterns is matched,
and the paired targets are among the positives. paired: each generated row is a problem of its own
whose one positive is its target; the field is then a normalised perceptual loss, without a
distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gdmnet.drifting.field import AFFINITY_FLOOR, drift_loss
from gdmnet.drifting.representations import Rows

FLOOR_POSITIVES = 64  # the affinity floor was made for problems of 64 x 64 points


@dataclass(frozen=True)
class Problems:
    """Q drift problems: generated points [Q,N,S], positives [Q,P,S], further negatives [Q,M,S]."""

    generated: Tensor
    positives: Tensor
    negatives: Tensor | None = None


@dataclass(frozen=True)
class Pairing:
    """One way to compare.

    Attributes:
        problems: from the paired rows of a map, n of length S, and past rows of the same map, real
            [P,S] and generated [M,S], to the problems they make.
        uses_past: whether past rows take part, so that they are worth keeping.
    """

    problems: Callable[[Rows, Tensor, Tensor], Problems]
    uses_past: bool


def _pooled(rows: Rows, past_targets: Tensor, past_generated: Tensor) -> Problems:
    """Q = 1: all n rows against all targets, those of the batch and past ones."""
    positives = torch.cat([rows.target, past_targets])  # [n+P,S]
    return Problems(rows.generated[None], positives[None], past_generated[None])


def _paired(rows: Rows, past_targets: Tensor, past_generated: Tensor) -> Problems:
    """Q = n: each row against its own target."""
    return Problems(rows.generated[:, None], rows.target[:, None])  # [n,1,S] each


PAIRINGS: dict[str, Pairing] = {
    "pooled": Pairing(_pooled, uses_past=True),
    "paired": Pairing(_paired, uses_past=False),
}


def scaled_floor(n_positives: int) -> float:
    """1e-6 (64 / max(64, P))^2: floored entries keep the share of the mass they have at P = 64."""
    return AFFINITY_FLOOR * (FLOOR_POSITIVES / max(FLOOR_POSITIVES, n_positives)) ** 2


def rows_loss(
    rows: Rows,
    past_targets: Tensor,
    past_generated: Tensor,
    *,
    pairing: str,
    temperatures: Sequence[float],
) -> tuple[Tensor, dict[str, Tensor]]:
    """The drift loss of one map.

    Args:
        rows: paired rows [n, S].
        past_targets: further positives [P, S] of the pool; P may be 0.
        past_generated: further negatives [M, S] of the pool; M may be 0.
        pairing: a key of `PAIRINGS`.
        temperatures: tau, in mean distances.

    Returns:
        The mean of the problems' losses, a scalar, and what to watch; see `drift_loss`.

    Raises:
        ValueError: NaN or Inf among the rows, or more of them than `drift_loss` takes.
    """
    made = PAIRINGS[pairing].problems(rows, past_targets, past_generated)
    loss, info = drift_loss(
        made.generated,
        made.positives,
        made.negatives,
        temperatures=temperatures,
        affinity_floor=scaled_floor(made.positives.shape[1]),
    )
    return loss.mean(), info
