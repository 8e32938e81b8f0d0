"""The feature encoder of a training: trained, read or drawn, and ready on its device.

The embedded one is trained by masked autoencoding on the training cases' own targets.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gdmnet import codec, files
from gdmnet.arrays.normalise import background_value
from gdmnet.data.store import StoredCase
from gdmnet.encoders import FrozenEncoder, build_encoder, freeze_norms
from gdmnet.encoders.self_supervised import (
    MASK_RATIO,
    WEIGHTS,
    cell_shape,
    decoder_for,
    encoder_for,
    masked_error,
    random_mask,
    read_file,
    self_encoder,
)
from gdmnet.errors import CheckpointError, TrainingError
from gdmnet.geometry import Shape
from gdmnet.models import checkpoint
from gdmnet.models.precision import is_safe_in_cpu_bf16
from gdmnet.models.seeds import numpy_rng, reseed
from gdmnet.parallel import progress_bar
from gdmnet.plan import Configuration
from gdmnet.training.batches import patch_start, read_patch
from gdmnet.training.run import FoldTraining
from gdmnet.training.settings import EncoderSettings
from gdmnet.training.step import WeightAverage
from gdmnet.training.usefulness import HeldOut, judge, tissue_edges

ENCODER_FILE, REPORT_FILE = "encoder.pt", "report.json"
BATCH_SIZE = 2
MOST_VOXELS = 64**3  # of a patch: the encoder sees some 20 voxels at once, larger ones buy nothing
BODY_SHARE, ATTEMPTS = 0.3, 8  # a patch has this much body, or the most of so many tries
# Measured on real T2 and CT, 400 steps, one seed: from 1e-3 to 3e-3 the masked error falls and blur
# weighs more against noise, while the tissue read-out falls from 1.1 to about 1 times the random
# twin's; at 1e-2 it is far below.
LEARNING_RATE, FINAL_SHARE = 3e-3, 0.05  # cosine down to 5 %
WARM_UP_STEPS, WARM_UP_SHARE = 500, 0.1  # the shorter of the two
BETAS, WEIGHT_DECAY, CLIP, EMA_DECAY = (0.9, 0.95), 0.01, 2.0, 0.999
LIGHT_SHARE = 0.1  # last share of the steps: few or no cells hidden, as when the encoder is used
N_HELD_OUT = 8  # patches of the usefulness gate
N_BATCHES = 30  # of real targets, to measure normalisation layers on
TRAINING, HELD_OUT, NORMS = 0, 1, 2  # streams of randomness
PROBE: Shape = (16, 16, 16)  # of the blocks that a case is recognised by
N_PROBES = 16
METHOD = 1  # another number makes every cached encoder anew

_log = logging.getLogger(__name__)


def prepare_encoder(training: FoldTraining, settings: EncoderSettings) -> FrozenEncoder:
    """The frozen encoder that was chosen for a training, on this process's device, ready to use.

    Raises:
        GdmnetError: as `chosen_encoder`.
    """
    encoder = chosen_encoder(training, settings)
    make_norms_constant(encoder, training, settings)
    return encoder


def chosen_encoder(training: FoldTraining, settings: EncoderSettings) -> FrozenEncoder:
    """A training's encoder, on this process's device, with its norms as they are in its file.

    The embedded one is trained as long as a share of the training, with its seed and precision, on
    its training cases and no others, if it does not lie in its folder already. A training goes on
    with that which it began with, however long another device would have trained it.

    Raises:
        GdmnetError: an unknown name or word; weights or a target that do not fit.
    """
    name, recipe, configuration = settings.name, training.run.recipe, training.configuration
    device = training.process_device()
    if settings.stages is not None and name in ("self", "random"):
        raise TrainingError(f"encoder {name}: uses all its maps; drop --encoder-stages")
    if settings.weights is not None and name == "random":
        raise TrainingError("encoder random: reads no weights; drop --encoder-weights")
    if name == "self" and settings.weights is None:
        if (kept := _begun_with(training)) is not None:
            _log.info("feature encoder: %s", training.encoder_folder / ENCODER_FILE)
            return kept.to(device)
        cases, _ = training.cases()
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
    return build_encoder(
        name,
        weights=settings.weights,
        configuration=configuration,
        fingerprint=training.fingerprint(),
        seed=recipe.seed,
        stages=settings.stages,
        resample=settings.resample,
    ).to(device)


def _begun_with(training: FoldTraining) -> FrozenEncoder | None:
    """The embedded encoder in its folder, if a training that goes on has begun with it."""
    file, digest = training.encoder_folder / ENCODER_FILE, training.run.encoder_sha256
    if digest is None or not file.is_file():
        return None
    try:
        encoder = self_encoder(training.configuration.architecture, file=file)
    except CheckpointError:  # told where it is trained anew
        return None
    return encoder if checkpoint.weights_sha256(encoder) == digest else None


def make_norms_constant(
    encoder: FrozenEncoder, training: FoldTraining, settings: EncoderSettings
) -> None:
    """Fix the statistics of its instance and group norms, if that is chosen, by real targets."""
    seed, device = training.run.recipe.seed, training.process_device()
    if settings.norm_statistics == "dataset":
        patches = target_patches(training.cases()[0], training.configuration, seed, device)
        n_norms = freeze_norms(encoder, patches)
        _log.info("feature encoder: the statistics of %d normalisation layers are fixed", n_norms)


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


def default_iterations(total_training_steps: int, device: torch.device, *, n_cases: int = 0) -> int:
    """Steps of the encoder's training when nobody says.

    On a CPU 60 to 400, within that a fifth of the run's own steps: at most about a minute; on a
    GPU 200 a training case, 5000 to 30 000.
    """
    if device.type == "cpu":
        return min(400, max(60, total_training_steps // 5))
    return min(30_000, max(5_000, 200 * n_cases))


def pretrain_encoder(
    cases: Sequence[StoredCase],
    configuration: Configuration,
    folder: Path,
    *,
    iterations: int,
    seed: int,
    device: torch.device,
    precision: str,
) -> FrozenEncoder:
    """The frozen encoder of these training cases: from `folder` where it lies there, else trained.

    Args:
        cases: the fold's training cases and no others: nothing of the validation may leak.
        configuration: its patch, spacing and architecture decide cells and strides.
        folder: gets encoder.pt and report.json.
        iterations: training steps of two patches.
        seed: of weights, patches and masks.
        device: to train on; the encoder is handed back on it.
        precision: "bf16" computes under autocast (but not flat patches on a CPU), others in fp32.

    Raises:
        TrainingError: the encoder's weights are not finite, or it does not see the image.
        OutputError: the folder is not writable.
    """
    file = folder / ENCODER_FILE
    settings = _settings(cases, configuration, iterations=iterations, seed=seed)
    if _is_cached(file, settings):
        _log.info("feature encoder: %s", file)
    else:
        with files.lock_when_free(folder):
            if not _is_cached(file, settings):  # another process has trained it meanwhile
                _train(file, settings, cases, configuration, device, precision)
    return self_encoder(configuration.architecture, file=file).to(device)


def _train(
    file: Path,
    settings: dict[str, Any],
    cases: Sequence[StoredCase],
    configuration: Configuration,
    device: torch.device,
    precision: str,
) -> None:
    """Train the encoder, judge it, and write it with its report."""
    iterations, seed = settings["iterations"], settings["seed"]
    shape = pretraining_patch(configuration.patch_size)
    flat = not is_safe_in_cpu_bf16(dataclasses.replace(configuration, patch_size=shape))
    if flat and device.type == "cpu":
        precision = "fp32"
    training, judging = split_cases(cases)
    _log.info("feature encoder: %d steps on the targets of %d cases", iterations, len(training))
    encoder = encoder_for(configuration.architecture, seed=seed)
    network = nn.Sequential(encoder, decoder_for(encoder, seed=seed + 1)).to(device)
    cell = cell_shape(configuration.spacing, shape)
    train_autoencoder(
        network, training, shape, cell, iterations=iterations, seed=seed, precision=precision
    )
    held_out = held_out_patches(judging, configuration, seed=seed)
    twin = encoder_for(configuration.architecture, seed=seed + 2)
    report = judge(encoder.cpu(), network[1].cpu(), twin, held_out)
    codec.save(report, file.with_name(REPORT_FILE))
    checkpoint.save(file, {"settings": settings, WEIGHTS: encoder.state_dict()})


def held_out_patches(
    judging: Sequence[StoredCase], configuration: Configuration, *, seed: int
) -> HeldOut:
    """What an encoder is judged by: eight patches of cases that it was not trained on."""
    shape = pretraining_patch(configuration.patch_size)
    images, bodies = sample(judging, shape, N_HELD_OUT, numpy_rng(seed, HELD_OUT))
    return HeldOut(
        cases=tuple(case.record.identifier for case in judging),
        images=images,
        bodies=bodies,
        cell=cell_shape(configuration.spacing, shape),
        edges=tissue_edges(configuration.target, images, bodies),
    )


def pretraining_patch(patch_size: Shape) -> Shape:
    """The plan's patch, its longest side halved until it has at most 64^3 voxels."""
    sides = list(patch_size)
    while math.prod(sides) > MOST_VOXELS:
        longest = sides.index(max(sides))
        sides[longest] = math.ceil(sides[longest] / 2)
    return sides[0], sides[1], sides[2]


def split_cases(cases: Sequence[StoredCase]) -> tuple[Sequence[StoredCase], Sequence[StoredCase]]:
    """Cases to train on and cases to judge by: of four or more every eighth is held out.

    With fewer both are all of them, and the gate sees new patches of known cases.
    """
    judging = cases[3::8]
    if not judging:
        return cases, cases
    return [case for i, case in enumerate(cases) if i % 8 != 3], judging


def sample(
    cases: Sequence[StoredCase], shape: Shape, n: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Random target patches around in-body voxels, with at least 30 % body where possible.

    They are float32 images (n, 1, z, y, x) in network units and bool bodies of that shape; outside
    the volume lies the target's background.
    """
    chosen = [cases[int(rng.integers(len(cases)))] for _ in range(n)]
    patches = zip(*(_sample_one(case, shape, rng) for case in chosen), strict=True)
    images, bodies = map(np.stack, patches)
    return torch.from_numpy(images), torch.from_numpy(bodies != 0)


def _sample_one(
    case: StoredCase, shape: Shape, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    tried = []
    for _ in range(ATTEMPTS):
        centre = case.centres[rng.integers(len(case.centres))]
        start = patch_start(centre, shape, case.record.shape)
        tried.append((read_patch(case.body, start, shape, 0.0), start))
        if tried[-1][0].mean() >= BODY_SHARE:
            break
    body, start = max(tried, key=lambda pair: float(pair[0].sum()))
    if case.record.target is None:
        raise ValueError(f"case {case.record.identifier} has no target")
    image = read_patch(case.target, start, shape, background_value(case.record.target))
    return image, body[None]


def train_autoencoder(
    network: nn.Sequential,
    cases: Sequence[StoredCase],
    shape: Shape,
    cell: Shape,
    *,
    iterations: int,
    seed: int,
    precision: str,
) -> None:
    """Train encoder and decoder in place; they end with their averaged weights."""
    device = next(network.parameters()).device
    for weight in network.parameters():
        if device.type == "cpu" and weight.dim() == 5:  # measured: halves a step
            weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    average = WeightAverage(network, EMA_DECAY)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY
    )
    rng, generator = numpy_rng(seed, TRAINING), reseed(torch.Generator(), seed, TRAINING)
    for step in progress_bar(range(iterations), "feature encoder"):
        images, bodies = flipped(*sample(cases, shape, BATCH_SIZE, rng), rng)
        ratio = hidden_share(step, iterations, rng)
        hidden = random_mask(BATCH_SIZE, shape, cell, ratio=ratio, generator=generator)
        images, bodies, hidden = images.to(device), bodies.to(device), hidden.to(device)
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * rate_share(step, iterations)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            prediction = network(images * ~hidden)
        optimiser.zero_grad(set_to_none=True)
        masked_error(prediction, images, hidden & bodies).backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
        average.update(network, step)
    network.load_state_dict(average.network.state_dict())


def flipped(images: Tensor, bodies: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Patches and their bodies, mirrored together along a random choice of axes."""
    axes = [axis for axis in (2, 3, 4) if rng.random() < 0.5]
    return images.flip(axes), bodies.flip(axes)


def hidden_share(step: int, iterations: int, rng: np.random.Generator) -> float:
    """Share of cells to hide: .6, in the last tenth of the steps anything from 0 to .6."""
    light = step >= (1 - LIGHT_SHARE) * iterations
    return float(rng.uniform(0, MASK_RATIO)) if light else MASK_RATIO


def rate_share(step: int, iterations: int) -> float:
    """Share of the full learning rate: linear warm-up, then cosine down to 5 %."""
    warm_up = min(WARM_UP_STEPS, max(1, int(WARM_UP_SHARE * iterations)))
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, iterations - warm_up)
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress))


def _settings(
    cases: Sequence[StoredCase], configuration: Configuration, *, iterations: int, seed: int
) -> dict[str, Any]:
    """All that decides the weights; a file with other settings is not reused."""
    decisions = codec.encode(configuration)
    del decisions["reasons"]
    digest = hashlib.sha256(json.dumps(decisions, sort_keys=True).encode()).hexdigest()
    return {
        "method": METHOD,
        "architecture": codec.encode(configuration.architecture),
        "configuration": digest,
        "cases": {case.record.identifier: _content(case) for case in cases},
        "iterations": iterations,
        "seed": seed,
    }


def _content(case: StoredCase) -> str:
    """SHA-256 of a case's record, its centres and some blocks of its target: all take too long."""
    digest = hashlib.sha256(json.dumps(codec.encode(case.record), sort_keys=True).encode())
    digest.update(np.ascontiguousarray(case.centres).tobytes())
    for centre in case.centres[:: max(1, len(case.centres) // N_PROBES)][:N_PROBES]:
        start = patch_start(centre, PROBE, case.record.shape)
        digest.update(read_patch(case.target, start, PROBE, 0.0).tobytes())
    return digest.hexdigest()


def _is_cached(file: Path, settings: dict[str, Any]) -> bool:
    if not file.is_file():
        return False
    try:
        found = read_file(file).get("settings")
    except CheckpointError as problem:
        _log.warning("%s", problem)
        return False
    if found != settings:
        _log.info("%s was made with other settings: training the feature encoder anew", file)
    return found == settings
