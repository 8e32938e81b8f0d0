"""Generative drifting with a fidelity anchor: one network pass, two gradients at its output.

The masked fidelity gives g_f; the drifting field, in the features of a frozen encoder, gives g_d;
`drifting.coordination` makes one cotangent of both. The generator goes forward once, and the loop
sends the cotangent backward once. Without drift (r = 0) this is `regression`, to the bit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdmnet.drifting.coordination import COORDINATIONS, coordinate, cosine, norms
from gdmnet.drifting.pairing import PAIRINGS
from gdmnet.drifting.representations import Draw, Views, raw_size
from gdmnet.errors import TrainingError
from gdmnet.objectives.base import Batch, Context, Descent, Inputs
from gdmnet.objectives.fidelity import fidelity_gradient
from gdmnet.objectives.gdm_levels import (
    Levels,
    drift_gradient,
    level_losses,
    push_rows,
    ring_sizes,
)
from gdmnet.objectives.gdm_options import GdmOptions, check_options, schedule_of
from gdmnet.objectives.gdm_state import DriftState
from gdmnet.objectives.options import read_options

logger = logging.getLogger(__name__)

SHARPNESS_ALARM = 1.1  # mean gradient of predictions over that of targets: texture is invented
MAE_ALARM = 1.05  # of the least validation MAE before the drift began
LEAST_FACTOR = 1 / 8
SKIPS_TO_NAME = 10


class Gdm:
    """The objective `gdm`."""

    inputs = Inputs()

    def __init__(self, options: GdmOptions, context: Context, encoder: nn.Module) -> None:
        self.options = options
        self.encoder = encoder
        self.seed = context.seed
        self.schedule = schedule_of(options, context.total_steps)
        self.raw_size = raw_size(context.patch_size, context.spacing)
        self.state = self._empty_state(context)
        self._named: set[str] = set()  # levels whose absence the log has told

    def modules(self) -> dict[str, nn.Module]:
        """What is saved; the frozen encoder is the run's own file and follows the batch."""
        return {"drift": self.state}

    def optimizers(self) -> dict[str, Optimizer]:
        """Nothing to step."""
        return {}

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward of the generator, and the coordinated gradient at its output."""
        output = generator(batch.source)
        leaf, loss, fidelity = fidelity_gradient(output, batch, name=self.options.fidelity)
        step = self.state.begin_step()
        if not bool(torch.isfinite(loss) & torch.isfinite(fidelity).all()):
            return Descent(output, fidelity, {"fidelity": float(loss)}, finite=False)
        strength = self.options.strength
        ratio = strength * self.schedule.ramp_at(step) * float(self.state.ratio_factor)
        cotangent = fidelity
        watch: dict[str, Tensor] = {}
        if strength > 0 and self.schedule.fills_banks(step):
            with torch.enable_grad():
                cotangent, watch = self._coordinated(leaf, batch, fidelity, step, ratio)
        skipped = self.state.skipped_in_a_row > 0  # its mean over an epoch is the skipped share
        watch = {"fidelity": loss, "drift_skipped": skipped, **watch}
        values = torch.stack([value.float() for value in watch.values()]).tolist()
        metrics = dict(zip(watch, values, strict=True)) | {"ratio": ratio}
        return Descent(output, cotangent, metrics)

    def translate(self, generator: nn.Module, source: Tensor, noise: Tensor | None) -> Tensor:
        """One call of the generator."""
        output: Tensor = generator(source)
        return output

    def on_validation(self, metrics: Mapping[str, float]) -> None:
        """Halve r, to an eighth at least, where realism is bought too dearly.

        Args:
            metrics: "sharpness" (mean |grad prediction| / mean |grad target|) and "mae" of a
                validation with EMA weights; called at most once an epoch.
        """
        state = self.state
        mae, sharpness = metrics.get("mae", torch.inf), metrics.get("sharpness", 0.0)
        best = float(state.best_regression_mae)
        if int(state.step) <= self.schedule.start or self.options.strength == 0:
            state.best_regression_mae.fill_(min(best, mae))
            return
        if sharpness <= SHARPNESS_ALARM and ("mae" not in metrics or mae <= MAE_ALARM * best):
            return
        before = float(state.ratio_factor)
        if self.options.adapt_drift and before > LEAST_FACTOR:
            state.ratio_factor.fill_(max(LEAST_FACTOR, before / 2))
        logger.warning(
            "drift alarm: sharpness %.3f (at most %.2f), validation MAE %.4g (at most %.4g); "
            "drift ratio %.4g -> %.4g",
            sharpness,
            SHARPNESS_ALARM,
            mae,
            MAE_ALARM * best,
            self.options.strength * before,
            self.options.strength * float(state.ratio_factor),
        )

    def _coordinated(
        self, leaf: Tensor, batch: Batch, fidelity: Tensor, step: int, ratio: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The cotangent and what to watch; the fidelity gradient itself where r is 0."""
        state = self.state
        views = self._look(leaf, batch)
        with torch.autocast(leaf.device.type, enabled=False):
            found = level_losses(views, self._draw(step), state, self.options)
            if found.finite:
                self._name_absent(found)
            if found.waiting and not found.losses:
                push_rows(found.rows, state)
                return fidelity, {}
            drift = self._drift(found, leaf, fidelity)
            state.fidelity_norm.update(fidelity)
            size = norms(drift).mean()
            if not bool(torch.isfinite(size) & (size > 0)):
                if state.count_skip() % SKIPS_TO_NAME == 0:
                    logger.warning("%d steps in a row without a drift", state.skipped_in_a_row)
                return fidelity, {}
            state.skipped_in_a_row.zero_()
            state.active += 1
            state.drift_norm.update(drift)
            n_f, n_d = state.fidelity_norm.value, state.drift_norm.value
            angle = cosine(drift, fidelity)
            watch = found.watch | {
                "cos": angle.mean(),
                "conflict": (angle < 0).float().mean(),
                "raw_ratio": size / norms(fidelity).mean().clamp(min=1e-12),
                "norm_fidelity": n_f,
                "norm_drift": n_d,
            }
            if ratio == 0:
                return fidelity, watch
            name = self.options.coordination
            return coordinate(fidelity, drift, (n_f, n_d), name=name, ratio=ratio), watch

    def _look(self, leaf: Tensor, batch: Batch) -> Views:
        """Both volumes through the encoder, under the loop's autocast.

        Outside the mask the generator is free, so there it is shown the target: the maps just
        inside must not suffer for what nobody judges; and so the drift's gradient there is 0.
        """
        self.encoder.to(leaf.device)
        seen = torch.where(batch.mask > 0.5, leaf, batch.target)
        generated = self.encoder(seen)
        with torch.no_grad():
            target = self.encoder(batch.target)
        return Views(generated, target, (seen, batch.target), batch.mask)

    def _draw(self, step: int) -> Draw:
        """The step's own generator: a resumed training draws what the unbroken one draws."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        return Draw(
            self.options.locations,
            generator,
            self.raw_size,
            foreground=self.options.foreground,
            same_places=PAIRINGS[self.options.pairing].by_place,
        )

    def _drift(self, found: Levels, leaf: Tensor, fidelity: Tensor) -> Tensor:
        """g_d, zero where there is none; the rings are filled once the losses are done."""
        if not found.losses:
            return torch.zeros_like(leaf)
        rule = COORDINATIONS[self.options.coordination]
        balance = self.options.level_balance and rule.balanced  # "raw" rules see raw gradients
        drift = drift_gradient(found, leaf, fidelity, self.state, balance=balance)
        push_rows(found.rows, self.state)
        return drift

    def _name_absent(self, found: Levels) -> None:
        waiting = {"global"} if found.waiting else set()
        for level in self.options.levels:
            if level not in self._named | waiting | set(found.losses):
                self._named.add(level)
                logger.warning(
                    "level %s has no rows in a step (thin maps or a small mask): left out there",
                    level,
                )

    def _empty_state(self, context: Context) -> DriftState:
        """Rings as wide as the encoder's maps, found by showing it one empty patch."""
        with torch.no_grad():
            some = next(self.encoder.parameters(), torch.zeros(()))
            patch = torch.zeros(1, 1, *context.patch_size, device=some.device)
            maps = self.encoder(patch)
        views = Views(maps, maps, (patch, patch), torch.ones_like(patch))
        draw = Draw(1, torch.Generator(), self.raw_size, minimum=1)
        return DriftState(self.options.levels, ring_sizes(views, draw, self.options))


def build_gdm(context: Context) -> Gdm:
    """The objective `gdm` from its options and a frozen encoder.

    Raises:
        TrainingError: no encoder, an unknown option or name, or a number out of range.
    """
    options = read_options(GdmOptions, context.options, objective="gdm")
    check_options(options)
    if context.encoder is None:
        raise TrainingError("objective gdm needs a frozen encoder and was given none")
    return Gdm(options, context, context.encoder.eval().requires_grad_(False))
