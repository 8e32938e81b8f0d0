"""Who is compared with whom: a target's own row, the pool of all rows, or half of each.

paired: each generated row is a problem of its own whose one positive is its target; the field is
then a normalised perceptual loss, without a distribution. pooled: all generated rows of a map are
one problem; the distribution of patterns is matched, and the paired targets are among the
positives. hybrid: the mean of both, (1 - a) pooled + a paired with a = 0.5. per_location: the rows
at one place of all samples are a problem; it asks that a place means the same in all of them
(volumes brought to an atlas), which random patches do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gdmnet.drifting.field import AFFINITY_FLOOR, drift_loss
from gdmnet.drifting.representations import Rows


@dataclass(frozen=True)
class Pairing:
    """One way to compare.

    Attributes:
        paired_share: a, the share of the loss that compares each row with its own target.
        by_place: the rest compares place by place, instead of in one pool.
    """

    paired_share: float
    by_place: bool = False

    @property
    def uses_past(self) -> bool:
        """Whether past rows can take part."""
        return self.paired_share < 1


PAIRINGS: dict[str, Pairing] = {
    "pooled": Pairing(0.0),
    "hybrid": Pairing(0.5),
    "paired": Pairing(1.0),
    "per_location": Pairing(0.0, by_place=True),
}
FLOOR_POSITIVES = 64  # the affinity floor was made for problems of 64 x 64 points


@dataclass(frozen=True)
class Field:
    """How the field is computed.

    Attributes:
        pairing: a value of `PAIRINGS`.
        temperatures: tau.
        affinity_floor: below 0 for the scaled floor 1e-6 (64 / max(64, P))^2.
    """

    pairing: Pairing
    temperatures: Sequence[float]
    affinity_floor: float = -1.0


def scaled_floor(n_positives: int) -> float:
    """1e-6 (64 / max(64, P))^2: floored entries keep the share of the mass they have at P = 64."""
    return AFFINITY_FLOOR * (FLOOR_POSITIVES / max(FLOOR_POSITIVES, n_positives)) ** 2


def rows_loss(
    rows: Rows, past_targets: Tensor, past_generated: Tensor, field: Field
) -> tuple[Tensor, dict[str, Tensor]]:
    """The drift loss of one map.

    Args:
        rows: paired rows [n, S].
        past_targets: further positives [P, S] of the pool; P may be 0.
        past_generated: further negatives [M, S] of the pool; M may be 0.
        field: pairing and temperatures.

    Returns:
        A scalar, and what to watch (of the pool where there is one); see `drift_loss`.

    Raises:
        ValueError: NaN or Inf among the rows.
    """
    loss = rows.generated.new_zeros(())
    info: dict[str, Tensor] = {}
    share = field.pairing.paired_share
    if share > 0:
        own, info = _drift(rows.generated[:, None], rows.target[:, None], None, field)
        loss = loss + share * own
    if share == 1:
        return loss, info
    if field.pairing.by_place and rows.samples > 1 and len(rows.target) > rows.samples:
        pool, info = _drift(rows.by_place(rows.generated), rows.by_place(rows.target), None, field)
    else:
        positives = torch.cat([rows.target, past_targets])
        pool, info = _drift(rows.generated[None], positives[None], past_generated[None], field)
    return loss + (1 - share) * pool, info


def _drift(
    gen: Tensor, pos: Tensor, neg: Tensor | None, field: Field
) -> tuple[Tensor, dict[str, Tensor]]:
    floor = field.affinity_floor if field.affinity_floor >= 0 else scaled_floor(pos.shape[1])
    loss, info = drift_loss(gen, pos, neg, temperatures=field.temperatures, affinity_floor=floor)
    return loss.mean(), info
