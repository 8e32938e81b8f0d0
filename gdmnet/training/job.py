"""One training as a job: all that a process needs to build its parts and run it."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gdmnet import codec, folders
from gdmnet.data.splits import Split
from gdmnet.errors import CheckpointError
from gdmnet.models.checkpoint import load_pretrained
from gdmnet.objectives.base import Inputs, Objective, Sampled
from gdmnet.objectives.build import OBJECTIVES, context_of, generator_of
from gdmnet.plan import Configuration, Fingerprint, Run
from gdmnet.training.batches import Batches
from gdmnet.training.distributed import run_together, this_team
from gdmnet.training.feature_encoder import EncoderChoice, prepare_encoder
from gdmnet.training.loop import fit
from gdmnet.training.start import open_cases

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A training that is described and claimed, in terms that can be sent to a process.

    Attributes:
        run: of run.json; the encoder's checksum may be missing until the encoder is there.
        configuration: of the plan.
        split: whose cases lie prepared in `cases`.
        cases: folder of the prepared cases.
        folder: of the fold.
        fingerprint: of the dataset, for encoders that need its statistics.
        encoder_home: where the embedded encoder is kept.
        device: cpu, cuda, cuda:1.
        pretrained: a checkpoint to start from.
        resume: go on from the latest checkpoint.
    """

    run: Run
    configuration: Configuration
    split: Split
    cases: Path
    folder: Path
    fingerprint: Path
    encoder_home: Path
    device: str
    pretrained: Path | None
    resume: bool


def run_job(job: Job, *, n_processes: int = 1) -> None:
    """Build the parts, write run.json before the first step, and train.

    Args:
        job: see there.
        n_processes: that train together, one a device.

    Raises:
        CheckpointError: a resumed training finds another encoder than it began with.
        GdmnetError: what building and training raise.
    """
    objective, digest = build_objective(job)
    if job.resume and job.run.encoder_sha256 not in (None, digest):
        raise CheckpointError(
            f"{job.folder / folders.RUN_JSON}: the training began with another feature encoder"
            f" (sha256 {job.run.encoder_sha256}, now {digest}); put the old one back or train anew"
            " with --overwrite"
        )
    job = dataclasses.replace(job, run=dataclasses.replace(job.run, encoder_sha256=digest))
    if not job.resume:
        codec.save(job.run, job.folder / folders.RUN_JSON)
    if n_processes == 1:
        train(job, objective)
    else:
        run_together(train_as_one_of_several, n_processes, job)


def train_as_one_of_several(job: Job) -> None:
    """What each process of a distributed training does."""
    objective, _ = build_objective(job)
    train(job, objective)


def train(job: Job, objective: Objective) -> None:
    """Run the loop on the job's cases."""
    fit(
        make_generator(job, objective),
        objective,
        *batches_of(job),
        job.run.recipe,
        job.folder,
        this_team().device(torch.device(job.device)),
        resume=job.resume,
    )


def batches_of(job: Job) -> tuple[Batches, Batches]:
    """Augmented patches of the training cases and plain ones of the validation cases."""
    seed, configuration = job.run.recipe.seed, job.configuration
    training, validation = open_cases(job.cases, job.split)
    n_workers = job.run.n_workers
    return (
        Batches(training, configuration, seed=seed, augment=True, n_workers=n_workers),
        Batches(validation, configuration, seed=seed, augment=False),
    )


def build_objective(job: Job) -> tuple[Objective, str | None]:
    """The objective with its encoder, and the checksum of the encoder's weights."""
    run, configuration = job.run, job.configuration
    encoder = None
    if run.encoder is not None:
        fingerprint = None
        if job.fingerprint.is_file():
            fingerprint = codec.load(Fingerprint, job.fingerprint)
        encoder = prepare_encoder(
            codec.decode(EncoderChoice, {"name": run.encoder, **run.encoder_options}),
            open_cases(job.cases, job.split)[0],
            configuration,
            fingerprint=fingerprint,
            folder=job.encoder_home,
            recipe=run.recipe,
            device=this_team().device(torch.device(job.device)),
        )
    context = context_of(
        configuration,
        run.options,
        total_steps=run.recipe.total_steps,
        seed=run.recipe.seed,
        encoder=encoder,
    )
    return OBJECTIVES[run.objective](context), None if encoder is None else weights_sha256(encoder)


def make_generator(job: Job, objective: Objective) -> nn.Module:
    """The generator with its seeded first weights, or those of a checkpoint."""
    if not isinstance(objective, Sampled) and objective.inputs != Inputs():
        raise ValueError("only an objective with a sampler may have inputs of its own")
    torch.manual_seed(job.run.recipe.seed)
    generator = generator_of(job.configuration, objective.inputs)
    if job.pretrained is not None:
        load_pretrained(generator, job.pretrained)
    return generator


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
