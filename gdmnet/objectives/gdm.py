"""Generative drifting with a fidelity anchor: one network pass, two gradients at its output.

The masked fidelity gives g_f; the drifting field, in the features of a frozen encoder, gives g_d;
one cotangent is made of both. The generator goes forward once, and the loop sends the cotangent
backward once. Without drift (r = 0) this is `regression`, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from gdmnet.drifting.coordination import COORDINATIONS, balance
from gdmnet.drifting.representations import Draw, look
from gdmnet.geometry import Shape
from gdmnet.objectives.base import Batch, Context, Descent, Metrics, Objective
from gdmnet.objectives.fidelity import all_finite
from gdmnet.objectives.gdm_levels import (
    draw_rows,
    drift_gradient,
    level_losses,
    push_rows,
    ring_sizes,
    watched,
)
from gdmnet.objectives.gdm_state import DriftState, Schedule, watch_validation
from gdmnet.objectives.options import GdmOptions, read_objective_options
from gdmnet.objectives.ranks import on_all_ranks
from gdmnet.objectives.regression import Regression, faithful_gradient


class Gdm(Objective):
    """The objective `gdm`.

    The frozen encoder is the run's own file and follows the batch's device; it is not saved here.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.options: GdmOptions = read_objective_options("gdm", context.options)
        self.encoder = context.frozen_encoder()
        self.schedule = Schedule(self.options, context.total_steps)
        self.state = empty_state(self.options, context.configuration.patch_size, self.encoder)

    def modules(self) -> dict[str, nn.Module]:
        """What is remembered between steps."""
        return {"drift": self.state}

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward of the generator, and the coordinated gradient g at its output.

        x, y, m: prediction, target, mask; f: the frozen encoder; all gradients are (b,1,z,y,x).
        """
        options, state, step = self.options, self.state, self.state.begin_step()
        ratio = self.schedule.ratio_at(step, state.ratio_factor)  # r
        output = generator(batch.source)  # x
        leaf, views, g_f, metrics = faithful_gradient(  # f(x), f(y); d (|m (x - y)| + w P) / dx
            output, batch, options, self.encoder, looks=self.schedule.drifts(step)
        )
        if not on_all_ranks(condition=all_finite(*metrics.values(), g_f), device=leaf.device):
            return Descent(output, g_f, {**metrics}, finite=False)
        if views is None or not self.schedule.drifts(step):
            return Descent(output, g_f, self._metrics(metrics, ratio, {}))
        with torch.autocast(leaf.device.type, enabled=False):
            # The step's own generator: a resumed training draws what the unbroken one draws.
            places = torch.Generator().manual_seed((self.context.seed * 1_000_003 + step) % 2**63)
            draw = Draw(options.locations, places)
            rows = draw_rows(views, draw, state, options.levels)  # pairs [n,S] a level and map
            found = level_losses(rows, draw, state, options)  # L_l: the field, a loss a level
            push_rows(rows, state)
            g_d = drift_gradient(found, leaf, g_f, state)  # sum_l dL_l/dx / N_l
            n_f, n_d = state.mean_norms(g_f, g_d, due=found.due, drifts=found.drifts)  # N_f, N_d
            h = balance(g_d, n_f, n_d)  # g_d N_f / N_d
            h = COORDINATIONS[options.coordination](h, g_f)  # h - min(<h, g_f>, 0) / |g_f|^2 g_f
            g = g_f + ratio * h
        return Descent(output, g, self._metrics(metrics, ratio, watched(found, g_d, g_f, n_f, n_d)))

    def twin(self) -> tuple[Regression, int] | None:
        """A regression from the step on in which the drift first moves the generator."""
        if not self.options.realism_dial:
            return None
        own = {name: getattr(self.options, name) for name in ("fidelity", "perceptual")}
        faithful = replace(self.context, options=own)
        return Regression(faithful), self.schedule.start

    def on_validation(self, metrics: Mapping[str, float]) -> None:
        """Halve r where realism is bought too dearly; called at most once an epoch."""
        watch_validation(metrics, self.state, self.schedule, adapts=self.options.adapt_drift)

    def _metrics(self, found: dict[str, Tensor], ratio: float, watch: dict[str, Tensor]) -> Metrics:
        skipped = self.state.skipped_in_a_row > 0  # its mean over an epoch is the skipped share
        return {**found, "drift_skipped": float(skipped), **watch, "ratio": ratio}


def empty_state(options: GdmOptions, patch_size: Shape, encoder: nn.Module) -> DriftState:
    """Rings as wide as the encoder's maps, found by showing it one empty patch."""
    some = next(encoder.parameters(), torch.zeros(()))
    patch = torch.zeros(1, 1, *patch_size, device=some.device)
    with torch.no_grad():
        views = look(encoder, patch, patch, torch.ones_like(patch))
    draw = Draw(1, torch.Generator(), minimum=1)
    return DriftState(options.levels, ring_sizes(views, draw, options))
