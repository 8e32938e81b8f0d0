"""The drift losses of a step, level by level, and their gradient at the generator's output."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gdmnet.drifting.coordination import cosine, norms
from gdmnet.drifting.pairing import PAIRINGS, Field, rows_loss
from gdmnet.drifting.representations import LEVELS, Draw, Rows, Views
from gdmnet.objectives.gdm_options import GdmOptions
from gdmnet.objectives.gdm_state import DriftState

GENERATED = "_generated"  # ending of the names of the rings of past generated rows
MEASURED_FIRST = 20  # active steps in which every level's norm is measured
MEASURED_EVERY = 10  # after them: one encoder backward a level only every so often
START_WEIGHT = 1024.0  # of a level not yet measured: keeps float16 gradients from vanishing


@dataclass
class Levels:
    """What the levels of one step say.

    Attributes:
        losses: for each level that has rows, its drift loss, a scalar with its graph.
        rows: all rows of the step, for the rings.
        watch: numbers for the log.
        finite: False where a row is NaN or Inf; then there are no losses.
        waiting: whether a level only waits for its rings.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    rows: list[Rows] = field(default_factory=list)
    watch: dict[str, Tensor] = field(default_factory=dict)
    finite: bool = True
    waiting: bool = False


def ring_sizes(views: Views, draw: Draw, options: GdmOptions) -> dict[str, tuple[int, int]]:
    """For each ring that the options need its name, rows and row length, by one look."""
    sizes: dict[str, tuple[int, int]] = {}
    pairing = PAIRINGS[options.pairing]
    levels = options.levels if pairing.uses_past else ()
    for level in levels:
        for rows in LEVELS[level](views, draw):
            dim = rows.target.shape[1]
            if level == "global":
                sizes[rows.name] = sizes[rows.name + GENERATED] = (options.global_bank, dim)
            elif not pairing.by_place:
                sizes[rows.name] = (options.bank_capacity, dim)
    return sizes


def level_losses(views: Views, draw: Draw, state: DriftState, options: GdmOptions) -> Levels:
    """The drift loss of every level: the mean over its maps. The rings are only read."""
    by_level = {level: LEVELS[level](views, draw) for level in options.levels}
    found = Levels(rows=[rows for group in by_level.values() for rows in group])
    checks = [torch.isfinite(part).all() for r in found.rows for part in (r.generated, r.target)]
    found.finite = not checks or bool(torch.stack(checks).all())
    if not found.finite:
        return found
    for level, group in by_level.items():
        if level == "global" and group and _waits(state, group, options):
            found.waiting = True
        elif group:
            found.losses[level] = _level_loss(level, group, draw, state, options, found.watch)
    return found


def push_rows(rows: list[Rows], state: DriftState) -> None:
    """Fill the rings; after the losses, so that no target counts twice."""
    for entry in rows:
        if entry.name in state.rings:
            state.ring(entry.name).push(entry.target)
        if entry.name + GENERATED in state.rings:
            state.ring(entry.name + GENERATED).push(entry.generated)


def drift_gradient(
    found: Levels, leaf: Tensor, fidelity: Tensor, state: DriftState, *, balance: bool
) -> Tensor:
    """The levels' common gradient g_d at the leaf.

    With `balance` g_d = sum_l g_l / N_l; the mean norms N_l are measured in the first active
    steps and in every tenth one after, by a backward a level; in between one backward serves all.

    Args:
        found: losses with their graphs; `found.watch` gains each level's norm and cosine.
        leaf: (b, 1, z, y, x).
        fidelity: g_f, for the cosines.
        state: its level norms are updated.
        balance: the option `level_balance`.
    """
    losses = found.losses
    active = int(state.active)
    new = any(float(state.level_norm(level).weight) == 0 for level in losses)
    if not balance:
        total = torch.stack(list(losses.values())).sum()
        return _backward(total, leaf, keep=False)
    if active >= MEASURED_FIRST and active % MEASURED_EVERY and not new:
        weighted = [loss / state.level_norm(level).value for level, loss in losses.items()]
        return _backward(torch.stack(weighted).sum(), leaf, keep=False)
    total = torch.zeros_like(leaf)
    for place, (level, loss) in enumerate(losses.items(), start=1):
        norm = state.level_norm(level)
        weight = 1.0 / norm.value if float(norm.weight) > 0 else norm.value + START_WEIGHT
        gradient = _backward(loss * weight, leaf, keep=place < len(losses)) / weight
        size = norms(gradient).mean()
        if bool(torch.isfinite(size) & (size > 0)):
            norm.update(gradient)
            gradient = gradient / norm.value
        total = total + gradient
        found.watch[f"norm_{level}"] = norm.value
        found.watch[f"cos_{level}"] = cosine(gradient, fidelity).mean()
    return total


def _backward(loss: Tensor, leaf: Tensor, *, keep: bool) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=keep)
    return gradient


def _waits(state: DriftState, group: list[Rows], options: GdmOptions) -> bool:
    rings = [state.ring(rows.name) for rows in group if rows.name in state.rings]
    return any(len(ring) < options.global_minimum for ring in rings)


def _level_loss(
    level: str,
    group: list[Rows],
    draw: Draw,
    state: DriftState,
    options: GdmOptions,
    watch: dict[str, Tensor],
) -> Tensor:
    kind = Field(PAIRINGS[options.pairing], options.temperatures, options.affinity_floor)
    losses, infos = [], []
    for rows in group:
        n_past = options.global_bank if level == "global" else options.bank
        past = [
            state.ring(name).sample(n_past, draw.generator)
            if name in state.rings
            else rows.target[:0]
            for name in (rows.name, rows.name + GENERATED)
        ]
        loss, info = rows_loss(rows, past[0], past[1], kind)
        losses.append(loss)
        infos.append(info)
    for name in infos[0]:
        watch[f"{name}_{level}"] = torch.stack([info[name] for info in infos]).mean()
    return torch.stack(losses).mean()
