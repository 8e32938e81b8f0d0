"""What a training step takes of a CUDA device: predicted, compared, measured, and run out of."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from gdmnet.errors import TrainingError
from gdmnet.models.device import memory_gb
from gdmnet.objectives.options import GdmOptions, needs_encoder, read_objective_options
from gdmnet.plan import Configuration
from gdmnet.planning.memory import device_gb_for, step_gb

_RISE = 1.05  # a peak that has risen less is not told again
_log = logging.getLogger(__name__)


def predicted_gb(
    configuration: Configuration, objective: str, given: Mapping[str, Any], precision: str
) -> float:
    """GB (2^30 bytes) that tensors are predicted to hold at the peak of a training's step.

    The objective's options are those given, the rest by default; see `step_gb` of the precision.
    Features as a loss take what features as a drift do: the graph of the encoder.
    """
    options = read_objective_options(objective, given)
    return step_gb(
        configuration.architecture,
        configuration.patch_size,
        configuration.batch_size,
        "gdm" if needs_encoder(objective, given) else objective,
        twin=isinstance(options, GdmOptions) and options.realism_dial,
        precision=precision,
    )


class PeakMemory:
    """The most that the steps of this process have held of a CUDA device; elsewhere nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.told_gb = 0.0

    def measured(self) -> dict[str, float]:
        """`peak_gb` for the log; told to people after the first epoch, and where it has risen.

        The drift and its twin begin later than the first step.
        """
        if self.device.type != "cuda":
            return {}
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30
        if peak > _RISE * self.told_gb:
            held = torch.cuda.max_memory_reserved(self.device) / 2**30
            _log.info("memory: steps hold %.1f GB at their peak, the allocator %.1f", peak, held)
            self.told_gb = peak
        return {"peak_gb": peak}


@contextmanager
def memory_watched(predicted: float, device: torch.device) -> Iterator[None]:
    """Warn where a CUDA device is smaller than a step of this peak (GB) needs; then train on it.

    Raises:
        TrainingError: the device ran out of memory.
    """
    there, needed = memory_gb(device) or math.inf, device_gb_for(predicted)
    if there < needed:
        _log.warning(
            "warning: a step of this training is predicted to need a device of %.1f GB, and %s has"
            " %.1f; if memory runs out, plan with --memory %d",
            *(needed, device, there, there),
        )
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        held = torch.cuda.max_memory_allocated(device) / 2**30
        raise TrainingError(
            f"{device} ran out of memory: it has {there:.1f} GB, this training held {held:.1f} and"
            f" was predicted to hold {predicted:.1f} at its peak; end other programs on the device,"
            f" or plan with a smaller --memory than {there:.1f} and train anew"
        ) from None
