"""The feature encoder of a training: trained, read or drawn, and ready on its device."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gdmnet.data.store import StoredCase
from gdmnet.encoders import FrozenEncoder, build_encoder, freeze_norms
from gdmnet.errors import TrainingError
from gdmnet.models.seeds import numpy_rng
from gdmnet.plan import Configuration
from gdmnet.training.pretrain import BATCH_SIZE, default_iterations, pretrain_encoder, sample
from gdmnet.training.run import FoldTraining
from gdmnet.training.settings import EncoderSettings

N_BATCHES = 30  # of real targets, to measure normalisation layers on
NORMS = 2  # their stream of randomness; 0 and 1 are the pretraining's

_log = logging.getLogger(__name__)


def prepare_encoder(training: FoldTraining, settings: EncoderSettings) -> FrozenEncoder:
    """The frozen encoder that was chosen for a training, on this process's device.

    The embedded one is trained as long as a share of the training, with its seed and precision, on
    its training cases and no others, if it does not lie in its folder already.

    Args:
        training: whose targets the encoder is made for.
        settings: which encoder, and how it is used.

    Raises:
        GdmnetError: an unknown name or word; weights or a target that do not fit.
    """
    name, recipe, configuration = settings.name, training.run.recipe, training.configuration
    device = training.process_device()
    if settings.stages is not None and name in ("self", "random"):
        raise TrainingError(f"encoder {name}: uses all its maps; drop --encoder-stages")
    cases, _ = training.cases()
    if name == "self" and settings.weights is None:
        length = default_iterations(recipe.total_steps, device, n_cases=len(cases))
        return pretrain_encoder(
            cases,
            configuration,
            training.encoder_folder,
            iterations=settings.iterations or length,
            seed=recipe.seed,
            device=device,
            precision=recipe.precision,
        )
    encoder = build_encoder(
        name,
        weights=settings.weights,
        configuration=configuration,
        fingerprint=training.fingerprint(),
        seed=recipe.seed,
        stages=settings.stages,
        resample=settings.resample,
    ).to(device)
    if settings.norm_statistics == "dataset":
        n_norms = freeze_norms(encoder, target_patches(cases, configuration, recipe.seed, device))
        _log.info("feature encoder: the statistics of %d normalisation layers are fixed", n_norms)
    return encoder


def target_patches(
    cases: Sequence[StoredCase], configuration: Configuration, seed: int, device: torch.device
) -> Iterator[Tensor]:
    """Thirty batches (b, 1, z, y, x) of real target patches, the same for the same seed."""
    rng = numpy_rng(seed, NORMS)
    for _ in range(N_BATCHES):
        images, _bodies = sample(cases, configuration.patch_size, BATCH_SIZE, rng)
        yield images.to(device)


def log_origin(encoder: FrozenEncoder) -> None:
    """Say where a public or random encoder came from and what maps it gives."""
    report = encoder.report
    if report is None:
        return
    where = f" from {report.file} (sha256 {report.sha256})" if report.sha256 else ""
    channels = ", ".join(map(str, report.channels))
    factor = math.prod(report.zoom)
    how = f", resampled to its spacing: {factor:.2g} times the voxels" if factor != 1 else ""
    _log.info("feature encoder: %s%s, maps of %s channels%s", report.name, where, channels, how)
