"""The drift losses of a step, level by level, and their gradient at the generator's output."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from gdmnet.drifting.coordination import TINY, cosine, norms
from gdmnet.drifting.field import MOST_DISTANCES
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

Problem = tuple[str, tuple[Tensor, Tensor, Tensor, Tensor]]
"""A level, and of one of its maps the generated, target, past target and past generated rows."""


@dataclass
class LevelLosses:
    """What the levels of one step say."""

    losses: dict[str, Tensor] = field(default_factory=dict)  # scalars with their graph, by level
    watch: dict[str, Tensor] = field(default_factory=dict)  # for the log
    waiting: bool = False  # whether a level only waits for its rings
    drifts: bool = False  # whether their gradient is finite and not 0, once there is one

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
    parts = [p for r in chain.from_iterable(rows.values()) for p in (r.generated, r.target)]
    return rows if not parts or all_finite(*parts) else dict.fromkeys(levels, ())


def level_losses(
    rows: LevelRows, draw: Draw, state: DriftState, options: GdmOptions
) -> LevelLosses:
    """The drift loss of every level: the mean over its maps. The rings are only read."""
    found, problems = LevelLosses(), []
    for level, group in rows.items():
        if level == "global" and _waits(group, state):
            found.waiting = True
        else:
            problems += [_with_past(level, entry, draw, state, options) for entry in group]
    names, solved = _solved(problems, options)
    for level in rows:
        each = solved.get(level, [])
        if each:
            found.losses[level] = torch.stack([loss for loss, _ in each]).mean()
            means = torch.stack([watch for _, watch in each]).mean(dim=0).unbind()
            found.watch |= {f"{n}_{level}": mean for n, mean in zip(names, means, strict=True)}
    return found


def push_rows(rows: LevelRows, state: DriftState) -> None:
    """Fill the rings; after the losses, so that no target counts twice."""
    for entry in chain.from_iterable(rows.values()):
        for ending, part in (("", entry.target), (GENERATED, entry.generated)):
            if entry.name + ending in state.rings:
                state.ring(entry.name + ending).push(part)


def drift_gradient(found: LevelLosses, leaf: Tensor, fidelity: Tensor, state: DriftState) -> Tensor:
    """g_d = sum_l g_l / N_l at the leaf, (b, 1, z, y, x); 0 where it would not be finite.

    The levels' mean norms N_l are measured in the first active steps and in every tenth one after,
    by a backward a level; in between one backward serves all. `found.watch` gains each level's norm
    and its cosine with the fidelity's gradient.
    """
    losses = found.losses
    if not losses:
        return torch.zeros_like(leaf)
    new = any(state.level_norm(level).weight == 0 for level in losses)
    if state.active >= MEASURED_FIRST and state.active % MEASURED_EVERY and not new:
        weighted = [loss / state.level_norm(level).value for level, loss in losses.items()]
        (total,) = torch.autograd.grad(torch.stack(weighted).sum(), leaf)  # d(sum_l L_l / N_l)/dx
    else:
        total = _measured(found, leaf, fidelity, state)
    size = float(norms(total).mean())  # mean_b |g_d|
    found.drifts = 0 < size < math.inf
    return total if found.drifts else torch.zeros_like(leaf)


def _measured(found: LevelLosses, leaf: Tensor, fidelity: Tensor, state: DriftState) -> Tensor:
    """sum_l g_l / N_l by a backward a level; the mean norms N_l take their g_l in."""
    gradients = {}
    for place, (level, loss) in enumerate(found.losses.items(), start=1):
        norm = state.level_norm(level)
        weight = 1.0 / norm.value if norm.weight > 0 else norm.value + START_WEIGHT
        keep = place < len(found.losses)
        (scaled,) = torch.autograd.grad(loss * weight, leaf, retain_graph=keep)
        gradients[level] = scaled / weight  # g_l
    sizes = torch.stack([norms(g).mean() for g in gradients.values()]).tolist()  # mean_b |g_l|
    total = torch.zeros_like(leaf)
    for (level, gradient), size in zip(gradients.items(), sizes, strict=True):
        norm, scaled = state.level_norm(level), gradient
        if 0 < size < math.inf:
            norm.update(gradient)
            scaled = gradient / norm.value  # g_l / N_l
        total = total + scaled
        found.watch[f"norm_{level}"] = norm.value
        found.watch[f"cos_{level}"] = cosine(scaled, fidelity).mean()
    return total


def watched(
    found: LevelLosses, drift: Tensor, fidelity: Tensor, n_f: Tensor, n_d: Tensor
) -> dict[str, Tensor]:
    """What the log says of a drift, scalars; nothing where there is none."""
    if not found.drifts:
        return {}
    angle = cosine(drift, fidelity)  # [b]
    return found.watch | {
        "cos": angle.mean(),
        "conflict": (angle < 0).float().mean(),
        "raw_ratio": norms(drift).mean() / norms(fidelity).mean().clamp(min=TINY),
        "norm_fidelity": n_f,
        "norm_drift": n_d,
    }


def _waits(group: Sequence[Rows], state: DriftState) -> bool:
    rings = [state.ring(rows.name) for rows in group if rows.name in state.rings]
    return any(len(ring) < GLOBAL_MINIMUM for ring in rings)


def _with_past(
    level: str, rows: Rows, draw: Draw, state: DriftState, options: GdmOptions
) -> Problem:
    n_past = GLOBAL_RING_ROWS if level == "global" else options.bank
    past_targets, past_generated = (
        state.ring(name).sample(n_past, draw.generator) if name in state.rings else rows.target[:0]
        for name in (rows.name, rows.name + GENERATED)
    )
    return level, (rows.generated, rows.target, past_targets, past_generated)


def _solved(
    problems: Sequence[Problem], options: GdmOptions
) -> tuple[list[str], dict[str, list[tuple[Tensor, Tensor]]]]:
    """Of each level its maps' losses, scalars, and what to watch of them, in the order of names.

    Maps whose points are as many and as long are solved at once: a GPU is kept busy by few large
    problems, not by many small ones.
    """
    longest = max((points[0].shape[1] for _, points in problems), default=0)
    alike: dict[tuple[torch.Size, ...], list[Problem]] = {}
    for level, points in problems:
        if 2 * points[0].shape[1] == longest:  # [x, x] / sqrt(2) has x's distances, forces, loss
            points = tuple(part.repeat(1, 2) * 0.5**0.5 for part in points)
        alike.setdefault(tuple(part.shape for part in points), []).append((level, points))
    names: list[str] = []
    solved: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for shapes, group in alike.items():
        n_distances = shapes[0][0] * sum(shape[0] for shape in shapes)  # of a map
        at_once = max(1, MOST_DISTANCES // n_distances)
        for first in range(0, len(group), at_once):
            part = group[first : first + at_once]
            stacked = [torch.stack(points) for points in zip(*(p for _, p in part), strict=True)]
            generated, target, *past = stacked
            pairing, rows = PAIRINGS[options.pairing], Rows("", generated, target)
            losses, watch = pairing.loss(rows, past[0], past[1], options.temperatures)
            names = list(watch)
            watched = torch.stack(list(watch.values()), dim=-1)  # [maps, names]
            for (level, _), *of_map in zip(part, losses.mean(dim=-1), watched, strict=True):
                solved.setdefault(level, []).append((of_map[0], of_map[1]))
    return names, solved
