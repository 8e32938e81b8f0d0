"""The feature encoder of a training: trained, read or drawn, and ready on its device."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gdmnet.encoders import FrozenEncoder, build_encoder, freeze_norms
from gdmnet.errors import TrainingError
from gdmnet.models.seeds import numpy_rng
from gdmnet.plan import Configuration, Fingerprint, Recipe
from gdmnet.training.pretrain import BATCH_SIZE, default_iterations, pretrain_encoder, sample
from gdmnet.training.settings import EncoderSettings

if TYPE_CHECKING:
    from gdmnet.data.store import StoredCase

N_BATCHES = 30  # of real targets, to measure normalisation layers on
NORMS = 2  # their stream of randomness; 0 and 1 are the pretraining's

_log = logging.getLogger(__name__)


def prepare_encoder(
    settings: EncoderSettings,
    cases: Sequence[StoredCase],
    configuration: Configuration,
    *,
    fingerprint: Fingerprint | None,
    folder: Path,
    recipe: Recipe,
    device: torch.device,
) -> FrozenEncoder:
    """The frozen encoder that was chosen, on the device.

    Args:
        settings: which one, and how it is used.
        cases: the fold's training cases and no others.
        configuration: of the training.
        fingerprint: of the dataset; encoders with a z-score need it.
        folder: where "self" is kept.
        recipe: its seed, precision and length (of which "self" takes a fifth on a CPU).
        device: to compute on.

    Raises:
        GdmnetError: an unknown name or word; weights or a target that do not fit.
    """
    if settings.stages is not None and settings.name in ("self", "random"):
        raise TrainingError(f"encoder {settings.name}: uses all its maps; drop --encoder-stages")
    if settings.name == "self" and settings.weights is None:
        length = default_iterations(recipe.total_steps, device, n_cases=len(cases))
        return pretrain_encoder(
            cases,
            configuration,
            folder,
            iterations=settings.iterations or length,
            seed=recipe.seed,
            device=device,
            precision=recipe.precision,
        )
    encoder = build_encoder(
        settings.name,
        weights=settings.weights,
        configuration=configuration,
        fingerprint=fingerprint,
        seed=recipe.seed,
        stages=settings.stages,
        resample=settings.resample,
    ).to(device)
    _tell(encoder)
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


def _tell(encoder: FrozenEncoder) -> None:
    report = encoder.report
    if report is None:
        return
    where = f" from {report.file} (sha256 {report.sha256})" if report.sha256 else ""
    channels = ", ".join(map(str, report.channels))
    factor = math.prod(report.zoom)
    how = f", resampled to its spacing: {factor:.2g} times the voxels" if factor != 1 else ""
    _log.info("feature encoder: %s%s, maps of %s channels%s", report.name, where, channels, how)
