"""How long a training will take: a few real steps of it, which leave nothing behind."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import torch
from torch import nn

from gdmnet.networks.calls import CountCalls
from gdmnet.objectives.base import Objective
from gdmnet.training import precision
from gdmnet.training.job import Job, batches_of, build_objective, make_generator
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


def probe(job: Job) -> tuple[Job, Objective]:
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
    return job, build_objective(job)[0]


def measure(job: Job, objective: Objective) -> Pace:
    """The pace of what `probe` gave."""
    device = torch.device(job.device)
    generator = make_generator(job, objective)
    training, validation = batches_of(job)
    step, judged = measure_pace(generator, objective, training, validation, job.run.recipe, device)
    call, calls = _measure_calls(job, objective, generator, device)
    return Pace(step, judged, call, calls)


def _measure_calls(
    job: Job, objective: Objective, generator: nn.Module, device: torch.device
) -> tuple[float, int]:
    """Seconds of a call of the network, and calls a window."""
    _, validation = batches_of(job)
    source = validation.batch(0, 0).source[:1].to(device)
    n_noise = objective.inputs.extra_channels
    noise = torch.randn(1, n_noise, *source.shape[2:]).to(device) if n_noise else None
    generator.eval()
    with (
        torch.inference_mode(),
        precision.autocast(job.run.recipe.precision, device),
        CountCalls(generator) as calls,
    ):
        objective.translate(generator, source, noise)  # warms up
        calls.count = 0
        begun = time.perf_counter()
        float(objective.translate(generator, source, noise).sum())
        seconds = time.perf_counter() - begun
    return seconds / max(1, calls.count), max(1, calls.count)
