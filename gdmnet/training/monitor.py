"""What an epoch is judged by: mean metrics, validation on fixed patches, the best epoch so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from gdmnet.geometry import Spacing
from gdmnet.objectives.base import Batch
from gdmnet.training.likeness import Likeness

SMOOTHING = 0.5  # light: the patches are fixed and the weights are averages already
MOST_IN_A_ROW = 10  # non-finite steps before the training stops


class PatchSource(Protocol):
    """What batches come from: `Batches`, or anything like it."""

    def batch(self, epoch: int, step: int, rank: int = 0) -> Batch:
        """The CPU batch of one step: a pure function of its arguments and the source."""
        ...


class Means:
    """Means of numbers by name; values that are not finite do not count."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, float]) -> None:
        """Count one more value of each name."""
        for name, value in values.items():
            finite = math.isfinite(value)
            self._sums[name] = self._sums.get(name, 0.0) + (float(value) if finite else 0.0)
            self._counts[name] = self._counts.get(name, 0) + int(finite)

    def result(self) -> dict[str, float]:
        """The mean of each name; nan where no value was finite."""
        return {
            n: s / self._counts[n] if self._counts[n] else math.nan for n, s in self._sums.items()
        }


@dataclass
class Tally:
    """What a training counts and remembers, saved with it; times are not part of it.

    Attributes:
        step: steps of the run that are over.
        skipped: steps whose numbers were not finite.
        in_a_row: of them, the last ones without a good one between.
        smoothed_mae: of the validation, network units.
        best_mae: the smallest smoothed one.
        best_epoch: where it was found; 0 for none yet.
    """

    step: int = 0
    skipped: int = 0
    in_a_row: int = 0
    smoothed_mae: float = math.inf
    best_mae: float = math.inf
    best_epoch: int = 0

    def count_step(self, *, finite: bool) -> bool:
        """Count a step; True when too many in a row were not finite."""
        self.step += 1
        self.skipped += int(not finite)
        self.in_a_row = 0 if finite else self.in_a_row + 1
        return self.in_a_row >= MOST_IN_A_ROW

    def is_best(self, mae: float, epoch: int) -> bool:
        """Take the validation of an epoch (from 1) in; True when it is the best so far."""
        if not math.isfinite(mae):
            return False
        before = mae if math.isinf(self.smoothed_mae) else self.smoothed_mae
        self.smoothed_mae = SMOOTHING * before + (1.0 - SMOOTHING) * mae
        if self.smoothed_mae >= self.best_mae:
            return False
        self.best_mae, self.best_epoch = self.smoothed_mae, epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the numbers back; a missing one raises KeyError."""
        for field in fields(self):
            setattr(self, field.name, state[field.name])


@dataclass(frozen=True)
class Quality:
    """How good predictions are on the validation patches.

    Attributes:
        mae: mean absolute error inside the mask, network units.
        sharpness: mean |gradient of the prediction| / mean |gradient of the target| inside the
            mask; below 1 is blur, above 1.1 suspect texture.
        histogram_w1: how far the intensities are from the targets', network units.
        gradient_w1: the same of the gradient magnitudes, per mm.
        spectrum_distance: of the radial power spectra, dB.
    """

    mae: float = math.nan
    sharpness: float = math.nan
    histogram_w1: float = math.nan
    gradient_w1: float = math.nan
    spectrum_distance: float = math.nan


def validate(
    predict: Callable[[Batch, int], Tensor],
    source: PatchSource,
    n_patches: int,
    spacing: Spacing = (1.0, 1.0, 1.0),
) -> Quality:
    """Judge predictions on fixed patches: those of the source's epoch 0, rank 0.

    Args:
        predict: a batch on the CPU, whose target it must not look at, and its number, to target
            patches (b, 1, z, y, x) on any device.
        source: of the validation batches.
        n_patches: at least this many are used.
        spacing: of the patches, mm (z, y, x).
    """
    error = voxels = edges = target_edges = 0.0
    step = seen = 0
    likeness = Likeness(spacing)
    while seen < n_patches:
        batch = source.batch(0, step)
        prediction = predict(batch, step).float().cpu()
        error += float(((prediction - batch.target).abs() * batch.mask).sum(dtype=torch.float64))
        voxels += float(batch.mask.sum(dtype=torch.float64))
        edges += gradient_sum(prediction, batch.mask)
        target_edges += gradient_sum(batch.target, batch.mask)
        likeness.add(prediction, batch.target, batch.mask)
        seen += batch.source.shape[0]
        step += 1
    return Quality(
        mae=error / voxels if voxels else math.nan,
        sharpness=edges / target_edges if target_edges else math.nan,
        **likeness.result(),
    )


def gradient_sum(image: Tensor, mask: Tensor) -> float:
    """Sum of |forward differences| along z, y and x where both voxels lie in the mask.

    Args:
        image: (b, 1, z, y, x).
        mask: the same shape, 0 or 1.
    """
    total = 0.0
    for axis in (2, 3, 4):
        length = image.shape[axis] - 1
        both = mask.narrow(axis, 1, length) * mask.narrow(axis, 0, length)
        total += float((image.diff(dim=axis).abs() * both).sum(dtype=torch.float64))
    return total
