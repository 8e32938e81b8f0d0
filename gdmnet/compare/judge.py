"""A judge: an encoder that no training has seen, made for measuring how real images look.

Its features are means and standard deviations of its maps over small patches in the body. Images
are in the judge's units: HU, or shares of the real image's range, standardised over all patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gdmnet import codec
from gdmnet.compare.settings import JudgeSettings
from gdmnet.data.case import CaseFiles, CaseRecord
from gdmnet.data.store import StoredCase
from gdmnet.data.volume import read_volume
from gdmnet.encoders.frozen import FrozenEncoder
from gdmnet.encoders.self_supervised import (
    SLOPE,
    PlainEncoder,
    cell_shape,
    decoder_for,
    encoder_for,
    read_file,
    self_encoder,
)
from gdmnet.errors import CheckpointError, TrainingError
from gdmnet.geometry import Geometry, Shape, Spacing
from gdmnet.metrics.conventions import GDMNET, is_ct_like
from gdmnet.metrics.evaluation import find_mask
from gdmnet.metrics.image import value_range
from gdmnet.models.seeds import numpy_rng, sequence
from gdmnet.plan import Architecture, Normalisation
from gdmnet.planning.topology import topology
from gdmnet.training.batches import patch_start, read_patch
from gdmnet.training.feature_encoder import train_autoencoder

FEATURES = (24, 24, 24)  # other widths than the encoder of any training
N_GROUPS = 4
SIDE = 32  # voxels of a training patch along the finest axis; those of features are half as long
MOST_PATCHES, MOST_SUBJECTS = 512, 32  # that a judge is trained on
_SEED, _TRAINING = 0x6A75, 0  # the judge's own streams of randomness
_BATCH = 64


@dataclass(frozen=True)
class Subject:
    """One subject's images (z, y, x) in file units; what counts is where the mask is not 0."""

    identifier: str
    real: NDArray
    mask: NDArray
    spacing: Spacing
    prediction: NDArray | None = None


@dataclass(frozen=True)
class Subjects(Sequence[Subject]):
    """Subjects that are read when they are asked for; without a mask the target's body counts."""

    cases: Sequence[CaseFiles]
    predictions: Mapping[str, Path] | None = None

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Subject:  # type: ignore[override]
        case, prediction = self.cases[index], None
        assert case.target is not None
        real = read_volume(case.target)
        mask, _ = find_mask(case.mask, real, GDMNET)
        if self.predictions is not None:
            prediction = read_volume(self.predictions[case.identifier]).array[0]
        return Subject(case.identifier, real.array[0], mask, real.geometry.spacing, prediction)


def thin_subjects(subjects: Sequence[Subject], most: int = MOST_SUBJECTS) -> Iterator[Subject]:
    """At most so many of the subjects, spread evenly, one at a time."""
    n = len(subjects)
    for i in range(min(n, most)):
        yield subjects[i * n // min(n, most)]


@dataclass(frozen=True)
class Judge:
    """An encoder, and how images (n, 1, z, y, x) are shown to it: as (image - centre) / scale."""

    description: str
    encoder: FrozenEncoder
    patch: Shape  # voxels (z, y, x) that a row of features comes from
    centre: float
    scale: float

    @torch.no_grad()
    def features(self, image: NDArray, starts: Sequence[Shape]) -> NDArray:
        """Mean and standard deviation of every channel of every map, one row a patch.

        `image` (z, y, x) is as `in_own_units` gives it, `starts` are first voxels (z, y, x).
        Returns float64 (n, 2 x channels of all maps).
        """
        fill = float(image.min())
        rows = []
        for first in range(0, len(starts), _BATCH):
            chosen = starts[first : first + _BATCH]
            patches = np.stack([read_patch(image, start, self.patch, fill) for start in chosen])
            shown = torch.from_numpy((patches - self.centre) / self.scale).float()[:, None]
            maps = [found.flatten(2) for found in self.encoder(shown)]
            moments = [one for m in maps for one in (m.mean(2), m.std(2, correction=0))]
            rows.append(torch.cat(moments, dim=1))
        return torch.cat(rows).double().numpy()


class GroupNormEncoder(PlainEncoder):
    """The same three convolutions, each followed by group normalisation."""

    def __init__(self, plain: PlainEncoder) -> None:
        super().__init__(plain.kernels, plain.strides, plain.channels)
        self.convolutions = plain.convolutions
        self.norms = nn.ModuleList(nn.GroupNorm(N_GROUPS, n) for n in plain.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of (b, 1, z, y, x), finest first."""
        maps: list[Tensor] = []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(functional.leaky_relu(x, SLOPE) if maps else x))
            maps.append(x)
        return maps


def make_judge(reals: Sequence[Subject], settings: JudgeSettings) -> Judge:
    """A judge from real images alone, on the CPU; another training's encoder judges as it is.

    At most 32 of the images are taken, one after the other; the first one's grid decides the patch
    and the strides. Training takes two patches a step.

    Raises:
        TrainingError: the weights are not finite, or the real images are the same everywhere.
        CheckpointError: the encoder's file is missing, damaged or not such an encoder.
    """
    shape, spacing = _training_patch(reals[0]), reals[0].spacing
    z, y, x = (max(1, side // 2) for side in shape)
    if settings.encoder is not None:
        centre, scale = _units(_cut(reals, shape, n=MOST_PATCHES, seed=0))
        given = read_encoder(settings.encoder)
        return Judge(f"encoder {settings.encoder}", given, (z, y, x), centre, scale)
    kind, iterations = settings.kind, settings.iterations
    number = int(sequence(settings.seed, _SEED).generate_state(1)[0])
    patches = _cut(reals, shape, n=min(2 * iterations, MOST_PATCHES), seed=number)
    centre, scale = _units(patches)
    _, kernels, strides = topology(spacing, shape, max_stages=len(FEATURES))
    depth = len(strides)
    architecture = Architecture(FEATURES[:depth], kernels, strides, (1,) * depth)
    plain = encoder_for(architecture, seed=number, features=FEATURES)
    encoder = GroupNormEncoder(plain) if kind == "groupnorm" else plain
    if kind != "random":
        cases = [_as_case((image - centre) / scale, body, spacing) for image, body in patches]
        network = nn.Sequential(encoder, decoder_for(encoder, seed=number + 1))
        cell = cell_shape(spacing, shape)
        train_autoencoder(
            network, cases, shape, cell, iterations=iterations, seed=number, precision="fp32"
        )
    if not all(bool(tensor.isfinite().all()) for tensor in encoder.state_dict().values()):
        raise TrainingError("the judge's weights are not finite; give it another --seed")
    words = describe_judge(settings, len(reals))
    return Judge(words, FrozenEncoder(encoder), (z, y, x), centre, scale)


def describe_judge(settings: JudgeSettings, n_reals: int) -> str:
    """A judge that is made here in words; another description is another judge."""
    kind, steps = settings.kind, f"{settings.iterations} steps"
    layers = "convolutions with group norm" if kind == "groupnorm" else "plain convolutions"
    on = "" if kind == "random" else f", {steps} on {min(n_reals, MOST_SUBJECTS)} real images"
    return f"{kind}: 3 {layers}, {FEATURES[0]} wide{on}, seed {settings.seed}"


def read_encoder(file: Path) -> FrozenEncoder:
    """The encoder.pt that a training left behind.

    Raises:
        CheckpointError: the file is missing, damaged or not such an encoder.
    """
    settings = read_file(file).get("settings")
    if not isinstance(settings, dict) or "architecture" not in settings:
        raise CheckpointError(f"{file}: is no encoder of gdm_train (encoder.pt); give one of those")
    architecture = codec.decode(Architecture, settings["architecture"], str(file))
    return self_encoder(architecture, file=file)


def in_own_units(image: NDArray, real: NDArray, inside: NDArray) -> NDArray:
    """An image in HU as it is; others as shares of the real image's range inside the mask."""
    if is_ct_like(real):
        return image.astype(np.float32, copy=False)
    span = value_range(real[inside])
    return ((image - span.low) / (span.width or 1.0)).astype(np.float32)


def patch_starts(inside: NDArray, patch: Shape, n: int, rng: np.random.Generator) -> list[Shape]:
    """First voxels of n patches around random voxels of the mask; shifted into the volume."""
    flat = np.flatnonzero(inside)
    centres = np.unravel_index(flat[rng.integers(len(flat), size=n)], inside.shape)
    return [patch_start(centre, patch, inside.shape) for centre in zip(*centres, strict=True)]


def _training_patch(subject: Subject) -> Shape:
    """Voxels (z, y, x): powers of two, as equally long in mm as the image allows."""
    shape = subject.real.shape
    finest = min(mm for mm, n in zip(subject.spacing, shape, strict=True) if n > 1)
    z, y, x = (
        2 ** max(0, min(round(math.log2(SIDE * finest / mm)), math.floor(math.log2(n))))
        for mm, n in zip(subject.spacing, shape, strict=True)
    )
    return z, y, x


def _cut(
    reals: Sequence[Subject], shape: Shape, *, n: int, seed: int
) -> list[tuple[NDArray, NDArray]]:
    """About n patches (z, y, x) of all subjects in turn, and where the body lies in them."""
    each = math.ceil(n / min(len(reals), MOST_SUBJECTS))
    patches = []
    for i, subject in enumerate(thin_subjects(reals)):
        inside = subject.mask != 0
        image = in_own_units(subject.real, subject.real, inside)
        fill = float(image.min())
        for start in patch_starts(inside, shape, each, numpy_rng(seed, _TRAINING, i)):
            body = read_patch(inside, start, shape, 0.0)
            patches.append((read_patch(image, start, shape, fill), body))
    return patches


def _units(patches: list[tuple[NDArray, NDArray]]) -> tuple[float, float]:
    values = np.concatenate([image[body != 0] for image, body in patches])
    centre, scale = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if scale == 0:
        raise TrainingError("the real images are the same everywhere inside their masks")
    return centre, scale


def _as_case(image: NDArray, body: NDArray, spacing: Spacing) -> StoredCase:
    """A patch as a case of its own, from which the autoencoder's training draws."""
    z, y, x = image.shape
    record = CaseRecord(
        identifier="patch",
        geometry=Geometry((z, y, x), spacing),
        box=((0, z), (0, y), (0, x)),
        spacing=spacing,
        shape=(z, y, x),
        mask_rule="given",
        target=Normalisation("none", 0.0, 1.0, None, None, 0.0),
    )
    centre = np.array([[z // 2, y // 2, x // 2]], dtype=np.int32)
    return StoredCase(record, image[None], image[None], body, centre)
