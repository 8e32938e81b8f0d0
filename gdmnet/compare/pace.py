"""How long a training will take: a few real steps of it, which leave nothing behind."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdmnet.models import precision
from gdmnet.networks.calls import CountCalls
from gdmnet.objectives.base import Objective
from gdmnet.objectives.sampling import Sampled
from gdmnet.training import feature_encoder
from gdmnet.training.fold_training import (
    FoldTraining,
    build_generator,
    build_objective,
    patch_batches,
)
from gdmnet.training.loop import measure_pace

N_STEPS = 3  # that are measured, after as many to warm up
_SELF = "self"


@dataclass(frozen=True)
class Pace:
    """What a variant's work costs on this machine, in seconds.

    Attributes:
        step: of training, at the full cost that it has after its warm-up.
        validation: after each epoch.
        call: of the network at prediction, one patch.
        calls: of the network for one window, with the objective's own number of steps.
    """

    step: float
    validation: float
    call: float
    calls: int

    def training(self, epochs: int, iterations: int) -> float:
        """Seconds of so many epochs of so many steps."""
        return epochs * (iterations * self.step + self.validation)

    def length(self, seconds: float, iterations: int) -> tuple[int, int]:
        """Epochs and steps an epoch that fit into so many seconds, at least one of each."""
        epochs = int(seconds / self.training(1, iterations))
        if epochs:
            return epochs, iterations
        return 1, max(1, int((seconds - self.validation) / self.step))


@dataclass(frozen=True)
class Steps:
    """The steps of a sampler: its own number, the most it can take, and network calls in one."""

    default: int
    most: int
    calls: int


def probe(job: FoldTraining) -> tuple[FoldTraining, Objective]:
    """A training of a few steps like that of a job, and its objective, built.

    The embedded encoder, which is not there yet, is stood in for by random weights: they cost the
    same.

    Raises:
        TrainingError: an unknown option, or a value out of range.
        GdmnetError: an encoder that is not to be had.
    """
    run = job.run
    recipe = dataclasses.replace(run.recipe, epochs=2, iterations=N_STEPS)
    encoder = "random" if run.encoder == _SELF and not run.encoder_options["weights"] else None
    if encoder:
        run = dataclasses.replace(run, encoder=encoder)
    job = dataclasses.replace(job, run=dataclasses.replace(run, recipe=recipe))
    with _quietly():
        return job, build_objective(job)[0]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without a word about an encoder that stands in for another one."""
    logger = logging.getLogger(feature_encoder.__name__)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def measure(job: FoldTraining, objective: Objective) -> Pace:
    """The pace of what `probe` gave."""
    device = torch.device(job.device)
    generator = build_generator(job)
    training, validation = patch_batches(job)
    step, judged = measure_pace(generator, objective, training, validation, job.run.recipe, device)
    call, calls = _measure_calls(job, objective, generator, device)
    return Pace(step, judged, call, calls)


def steps_of(objective: Objective) -> Steps | None:
    """The steps of an objective's sampler; None where it has none."""
    if not isinstance(objective, Sampled):
        return None
    default = objective.sampling
    return Steps(default.steps, objective.most_steps, objective.samplers[default.sampler])


def _measure_calls(
    job: FoldTraining, objective: Objective, generator: nn.Module, device: torch.device
) -> tuple[float, int]:
    """Seconds of a call of the network, and calls a window."""
    _, validation = patch_batches(job)
    source = validation.batch(0, 0).source[:1].to(device)
    n_noise = objective.inputs.extra_channels
    noise = torch.randn(1, n_noise, *source.shape[2:]).to(device) if n_noise else None

    def translate() -> Tensor:
        if not isinstance(objective, Sampled):
            return objective.translate(generator, source, noise)
        once = dataclasses.replace(objective.sampling, steps=1)
        return objective.translate(generator, source, noise, sampling=once)

    generator.eval()
    with (
        torch.inference_mode(),
        precision.autocast(job.run.recipe.precision, device),
        CountCalls(generator) as calls,
    ):
        translate()  # warms up
        calls.count = 0
        begun = time.perf_counter()
        float(translate().sum())
        seconds = time.perf_counter() - begun
    steps = steps_of(objective)
    return seconds / max(1, calls.count), 1 if steps is None else steps.default * steps.calls
