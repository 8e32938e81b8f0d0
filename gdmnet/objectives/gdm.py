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
from gdmnet.drifting.representations import Draw, Views, random_crop, raw_size
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
from gdmnet.objectives.ranks import mean_over_ranks, on_all_ranks
from gdmnet.objectives.regression import Regression, RegressionOptions

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
        finite = bool(torch.isfinite(loss) & torch.isfinite(fidelity).all())
        if not on_all_ranks(condition=finite, device=leaf.device):
            return Descent(output, fidelity, {"fidelity": float(loss)}, finite=False)
        ratio = self._ratio_at(step)
        cotangent = fidelity
        watch: dict[str, Tensor] = {}
        if self.schedule.drifts(step):
            with torch.enable_grad():
                cotangent, watch = self._coordinated(leaf, batch, fidelity, step, ratio)
        skipped = self.state.skipped_in_a_row > 0  # its mean over an epoch is the skipped share
        watch = {"fidelity": loss, "drift_skipped": skipped, **watch}
        values = torch.stack([value.float() for value in watch.values()]).tolist()
        metrics = dict(zip(watch, values, strict=True)) | {"ratio": ratio}
        return Descent(output, cotangent, metrics)

    def twin(self) -> tuple[Regression, int] | None:
        """A regression from the step on in which the drift first moves the generator."""
        if not self.options.realism_dial:
            return None
        return Regression(RegressionOptions(self.options.fidelity)), self.schedule.start

    def translate(self, generator: nn.Module, source: Tensor, noise: Tensor | None) -> Tensor:
        """One call of the generator."""
        output: Tensor = generator(source)
        return output

    def on_validation(self, metrics: Mapping[str, float]) -> None:
        """Halve r, to an eighth at least, where realism is bought too dearly.

        A prediction that is too sharp is the drift's fault only if it was less so before: early in
        a training the streaks of a sparse-view CT, say, are still in it.

        Args:
            metrics: "sharpness" (mean |grad prediction| / mean |grad target|) and "mae" of a
                validation with EMA weights; called at most once an epoch.
        """
        state = self.state
        mae, sharpness = metrics.get("mae", torch.inf), metrics.get("sharpness", 0.0)
        best = float(state.best_regression_mae)
        if int(state.step) <= self.schedule.start or self.options.strength == 0:
            state.best_regression_mae.fill_(min(best, mae))
            state.lowest_sharpness.fill_(sharpness)
            return
        lowest = float(state.lowest_sharpness)
        state.lowest_sharpness.fill_(min(lowest, sharpness))
        sharpest = max(SHARPNESS_ALARM, lowest)
        if sharpness <= sharpest and ("mae" not in metrics or mae <= MAE_ALARM * best):
            return
        before = float(state.ratio_factor)
        if self.options.adapt_drift and before > LEAST_FACTOR:
            state.ratio_factor.fill_(max(LEAST_FACTOR, before / 2))
        logger.warning(
            "drift alarm: sharpness %.3f (at most %.2f), validation MAE %.4g (at most %.4g); "
            "drift ratio %.4g -> %.4g",
            sharpness,
            sharpest,
            mae,
            MAE_ALARM * best,
            self.options.strength * before,
            self.options.strength * float(state.ratio_factor),
        )

    def _ratio_at(self, step: int) -> float:
        """R of a step; as much larger as the drift's steps are rarer."""
        full = self.options.strength * float(self.state.ratio_factor) * self.schedule.every
        return full * self.schedule.ramp_at(step)

    def _coordinated(
        self, leaf: Tensor, batch: Batch, fidelity: Tensor, step: int, ratio: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The cotangent and what to watch; the fidelity gradient itself where r is 0."""
        draw = self._draw(step)
        views = self._look(leaf, batch, draw)
        with torch.autocast(leaf.device.type, enabled=False):
            drift, watch = self._drift(views, draw, leaf, fidelity)
            n_f, n_d = self._shared_norms()
            if drift is None:
                return fidelity, {}
            angle = cosine(drift, fidelity)
            watch = watch | {
                "cos": angle.mean(),
                "conflict": (angle < 0).float().mean(),
                "raw_ratio": norms(drift).mean() / norms(fidelity).mean().clamp(min=1e-12),
                "norm_fidelity": n_f,
                "norm_drift": n_d,
            }
            if ratio == 0:
                return fidelity, watch
            name = self.options.coordination
            return coordinate(fidelity, drift, (n_f, n_d), name=name, ratio=ratio), watch

    def _drift(
        self, views: Views, draw: Draw, leaf: Tensor, fidelity: Tensor
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """g_d and what to watch, None where this step has none; fills the rings and the norms."""
        state = self.state
        found = level_losses(views, draw, state, self.options)
        if found.finite:
            self._name_absent(found)
        if found.waiting and not found.losses:
            push_rows(found.rows, state)
            return None, {}
        drift = torch.zeros_like(leaf)
        if found.losses:
            rule = COORDINATIONS[self.options.coordination]
            balance = self.options.level_balance and rule.balanced  # "raw" rules see raw gradients
            drift = drift_gradient(found, leaf, fidelity, state, balance=balance)
            push_rows(found.rows, state)
        state.fidelity_norm.update(fidelity)
        size = norms(drift).mean()
        if not bool(torch.isfinite(size) & (size > 0)):
            if state.count_skip() % SKIPS_TO_NAME == 0:
                logger.warning("%d steps in a row without a drift", state.skipped_in_a_row)
            return None, {}
        state.skipped_in_a_row.zero_()
        state.active += 1
        state.drift_norm.update(drift)
        return drift, found.watch

    def _shared_norms(self) -> tuple[Tensor, Tensor]:
        """N_f and N_d, equal on all ranks: the means over those that have measured any."""
        pair = (self.state.fidelity_norm, self.state.drift_norm)
        known = [(norm.weight > 0).float() for norm in pair]
        packed = torch.stack([norm.value for norm in pair] + known)
        n_f, n_d, knows_f, knows_d = mean_over_ranks(packed)
        return n_f / knows_f.clamp(min=1e-12), n_d / knows_d.clamp(min=1e-12)

    def _look(self, leaf: Tensor, batch: Batch, draw: Draw) -> Views:
        """Both volumes, or the same crop of both, through the encoder under the loop's autocast.

        Outside the mask the generator is free, so there it is shown the target: the maps just
        inside must not suffer for what nobody judges; and so the drift's gradient there is 0.
        """
        self.encoder.to(leaf.device)
        box = random_crop(leaf.shape[2:], self.options.encoder_crop, draw.generator)
        target, mask = batch.target[box], batch.mask[box]
        seen = torch.where(mask > 0.5, leaf[box], target)
        generated = self.encoder(seen)
        with torch.no_grad():
            real = self.encoder(target)
        return Views(generated, real, (seen, target), mask)

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
            patch = patch[
                random_crop(patch.shape[2:], self.options.encoder_crop, torch.Generator())
            ]
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
