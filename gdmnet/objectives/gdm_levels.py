"""The drift losses of a step, level by level, and their gradient at the generator's output."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gdmnet.drifting.coordination import TINY, cosine, norms
from gdmnet.drifting.pairing import PAIRINGS
from gdmnet.drifting.representations import LEVELS, Draw, Rows, Views
from gdmnet.objectives.fidelity import all_finite
from gdmnet.objectives.gdm_state import DriftState
from gdmnet.objectives.options import GdmOptions

logger = logging.getLogger(__name__)

RING_ROWS = 2048  # past target rows that a ring keeps, of which a step draws some
GLOBAL_RING_ROWS = 64  # of the global level, past generated rows, too: a step draws all
GLOBAL_MINIMUM = 16  # rows that the global rings must hold before that level begins
GENERATED = "_generated"  # ending of the names of the rings of past generated rows
MEASURED_FIRST = 20  # active steps in which every level's norm is measured
MEASURED_EVERY = 10  # after them: one encoder backward a level only every so often
START_WEIGHT = 1024.0  # of a level not yet measured: keeps float16 gradients from vanishing

LevelRows = Mapping[str, Sequence[Rows]]
"""Of each level the rows of its maps."""


@dataclass
class LevelLosses:
    """What the levels of one step say.

    Attributes:
        losses: for each level that has rows, its drift loss, a scalar with its graph.
        watch: numbers for the log.
        waiting: whether a level only waits for its rings.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    watch: dict[str, Tensor] = field(default_factory=dict)
    waiting: bool = False

    @property
    def due(self) -> bool:
        """Whether this step should have a drift."""
        return bool(self.losses) or not self.waiting


def ring_sizes(views: Views, draw: Draw, options: GdmOptions) -> dict[str, tuple[int, int]]:
    """For each ring that the options need its name, rows and row length, by one look."""
    sizes: dict[str, tuple[int, int]] = {}
    with_past = PAIRINGS[options.pairing].with_past
    for level in [level for level in options.levels if level in with_past]:
        for rows in LEVELS[level](views, draw):
            dim = rows.target.shape[1]
            sizes[rows.name] = (GLOBAL_RING_ROWS if level == "global" else RING_ROWS, dim)
            if level == "global":
                sizes[rows.name + GENERATED] = (GLOBAL_RING_ROWS, dim)
    return sizes


def draw_rows(views: Views, draw: Draw, state: DriftState, levels: Sequence[str]) -> LevelRows:
    """The rows of every level; none at all where one of them is NaN or Inf."""
    rows = {level: LEVELS[level](views, draw) for level in levels}
    for level in levels:
        if not rows[level] and level not in state.named:
            state.named.add(level)
            logger.warning(
                "level %s has no rows in a step (thin maps or a small mask): left out there", level
            )
    parts = [part for group in rows.values() for r in group for part in (r.generated, r.target)]
    return rows if not parts or all_finite(*parts) else dict.fromkeys(levels, ())


def level_losses(
    rows: LevelRows, draw: Draw, state: DriftState, options: GdmOptions
) -> LevelLosses:
    """The drift loss of every level: the mean over its maps. The rings are only read."""
    found = LevelLosses()
    for level, group in rows.items():
        if level == "global" and _waits(group, state):
            found.waiting = True
        elif group:
            each = [_map_loss(level, entry, draw, state, options) for entry in group]
            found.losses[level] = torch.stack([loss for loss, _ in each]).mean()
            for name in each[0][1]:
                mean = torch.stack([info[name] for _, info in each]).mean()
                found.watch[f"{name}_{level}"] = mean
    return found


def push_rows(rows: LevelRows, state: DriftState) -> None:
    """Fill the rings; after the losses, so that no target counts twice."""
    for entry in (entry for group in rows.values() for entry in group):
        if entry.name in state.rings:
            state.ring(entry.name).push(entry.target)
        if entry.name + GENERATED in state.rings:
            state.ring(entry.name + GENERATED).push(entry.generated)


def drift_gradient(found: LevelLosses, leaf: Tensor, fidelity: Tensor, state: DriftState) -> Tensor:
    """g_d = sum_l g_l / N_l at the leaf, (b, 1, z, y, x); 0 where it would not be finite.

    The levels' mean norms N_l are measured in the first active steps and in every tenth one after,
    by a backward a level; in between one backward serves all.

    Args:
        found: losses with their graphs; `found.watch` gains each level's norm and cosine.
        leaf: (b, 1, z, y, x).
        fidelity: g_f, for the cosines.
        state: its level norms are updated.
    """
    losses = found.losses
    total = torch.zeros_like(leaf)
    active = int(state.active)
    new = any(float(state.level_norm(level).weight) == 0 for level in losses)
    if losses and active >= MEASURED_FIRST and active % MEASURED_EVERY and not new:
        weighted = [loss / state.level_norm(level).value for level, loss in losses.items()]
        total = _backward(torch.stack(weighted).sum(), leaf, keep=False)  # d(sum_l L_l / N_l)/dx
    else:
        for place, (level, loss) in enumerate(losses.items(), start=1):
            norm = state.level_norm(level)
            weight = 1.0 / norm.value if float(norm.weight) > 0 else norm.value + START_WEIGHT
            gradient = _backward(loss * weight, leaf, keep=place < len(losses)) / weight  # g_l
            size = norms(gradient).mean()  # mean_b |g_l|
            if bool(torch.isfinite(size) & (size > 0)):
                norm.update(gradient)
                gradient = gradient / norm.value  # g_l / N_l
            total = total + gradient
            found.watch[f"norm_{level}"] = norm.value
            found.watch[f"cos_{level}"] = cosine(gradient, fidelity).mean()
    return total if bool(torch.isfinite(norms(total).mean())) else torch.zeros_like(leaf)


def watched(
    found: LevelLosses, drift: Tensor, fidelity: Tensor, n_f: Tensor, n_d: Tensor
) -> dict[str, Tensor]:
    """What the log says of a drift, scalars; nothing where there is none."""
    if not bool(norms(drift).mean() > 0):
        return {}
    angle = cosine(drift, fidelity)  # [b]
    return found.watch | {
        "cos": angle.mean(),
        "conflict": (angle < 0).float().mean(),
        "raw_ratio": norms(drift).mean() / norms(fidelity).mean().clamp(min=TINY),
        "norm_fidelity": n_f,
        "norm_drift": n_d,
    }


def _backward(loss: Tensor, leaf: Tensor, *, keep: bool) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=keep)
    return gradient


def _waits(group: Sequence[Rows], state: DriftState) -> bool:
    rings = [state.ring(rows.name) for rows in group if rows.name in state.rings]
    return any(len(ring) < GLOBAL_MINIMUM for ring in rings)


def _map_loss(
    level: str, rows: Rows, draw: Draw, state: DriftState, options: GdmOptions
) -> tuple[Tensor, dict[str, Tensor]]:
    n_past = GLOBAL_RING_ROWS if level == "global" else options.bank
    past_targets, past_generated = (
        state.ring(name).sample(n_past, draw.generator) if name in state.rings else rows.target[:0]
        for name in (rows.name, rows.name + GENERATED)
    )
    pairing = PAIRINGS[options.pairing]
    losses, info = pairing.loss(rows, past_targets, past_generated, options.temperatures)
    return losses.mean(), info
