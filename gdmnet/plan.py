"""The nouns of gdmnet's files: what was measured, what was decided, what a training did.

All are frozen dataclasses that travel through `codec`; spatial tuples are (z, y, x), mm, voxels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field
from itertools import chain
from math import prod
from typing import Any, ClassVar, Literal

from gdmnet.errors import PlanError, SettingError
from gdmnet.geometry import SPACINGS, Shape, Spacing
from gdmnet.settings import Settings, setting

BiasCorrection = Literal["none", "n4"]
"""How the bias field of sources without a physical unit is taken out before all else."""

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""File endings of images that can be read and written."""
_LARGEST_PATCH = 512**3  # voxels
N_QUANTILES = 5

Region = Literal["body", "circle", "everything"]
"""Where the target counts: in the body, in the circle that fits into each axial slice, or all."""


@dataclass(frozen=True)
class Intensity:
    """Intensity statistics of one channel inside the body, in the file's units (CT: HU).

    The last three are None and () in older fingerprints.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    p00_5: float
    p01: float
    p50: float
    p99: float
    p99_5: float
    outside: float  # median outside the body; the minimum where nothing is
    noise: float | None = None  # median absolute Laplacian in the axial plane
    quantiles: tuple[float, ...] = ()  # percentiles 10, 25, 50, 75 and 90
    rim: float | None = None  # standard deviations by which the outer 4 mm outshine the inner 40 %

    def __post_init__(self) -> None:
        n_known = len(self.quantiles)
        _require((n_known in (0, N_QUANTILES), f"quantiles must be {N_QUANTILES}, not {n_known}"))


@dataclass(frozen=True)
class CaseFingerprint:
    """Facts about one training case."""

    identifier: str
    shape: Shape  # after the crop to where the target counts
    spacing: Spacing
    body_fraction: float
    mask_rule: str
    sources: tuple[Intensity, ...]
    target: Intensity
    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 of its raw files by role

    def __post_init__(self) -> None:
        _require(
            (min(self.shape) >= 1, f"shape {self.shape} must be at least 1"),
            _spacing_rule(self.spacing),
            (0 <= self.body_fraction <= 1, f"body_fraction {self.body_fraction} is no share"),
        )


@dataclass(frozen=True)
class Fingerprint:
    """Facts about a training set; the pooled statistics weigh every case equally."""

    SCHEMA: ClassVar[int] = 1
    schema: int
    dataset: str
    channel_names: tuple[str, ...]
    target_name: str
    cases: tuple[CaseFingerprint, ...]
    sources: tuple[Intensity, ...]  # after the bias correction
    target: Intensity
    bias_correction: BiasCorrection = "none"
    region: Region = "body"

    def __post_init__(self) -> None:
        counts = {
            len(entries) for entries in (self.sources, *(case.sources for case in self.cases))
        }
        _require((counts == {len(self.channel_names)}, "sources must have an entry a channel"))


SCHEMES = ("ct", "percentiles", "zscore", "none")
"""Of normalisation; `arrays.normalise` has what each does."""


@dataclass(frozen=True)
class Normalisation:
    """File units to network units and back: y = (clip(t, low, high) - centre) / scale.

    All are in file units. `centre` and `scale` of per-case schemes are medians over the training
    cases.
    """

    scheme: str
    centre: float
    scale: float
    low: float | None  # None for no clip
    high: float | None
    background: float  # what lies outside body, crop and volume (CT: air)

    def __post_init__(self) -> None:
        low, high = (self.low, self.high)
        _require(
            (self.scheme in SCHEMES, f"scheme {self.scheme!r} is none of {', '.join(SCHEMES)}"),
            (self.scale > 0, f"scale {self.scale} must be above 0"),
            (low is None or high is None or low <= high, f"low {low} is above high {high}"),
        )


@dataclass(frozen=True)
class Architecture:
    """A residual-encoder U-Net, one entry a stage, finest first; the first stride is always 1."""

    features: tuple[int, ...]
    kernels: tuple[Shape, ...]
    strides: tuple[Shape, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Configuration:
    """Everything a training of one configuration needs to know about its data and its network."""

    name: str
    spacing: Spacing
    median_shape: Shape
    patch_size: Shape
    batch_size: int
    architecture: Architecture
    sources: tuple[Normalisation, ...]
    target: Normalisation
    residual_channel: int | None
    feature_map_voxels: int
    reasons: dict[str, str]
    bias_correction: BiasCorrection = "none"
    region: Region = "body"

    def __post_init__(self) -> None:
        network, patch = self.architecture, self.patch_size
        lists = (network.kernels, network.strides, network.blocks)
        n_stages, n_sources = len(network.features), len(self.sources)
        residual = self.residual_channel
        odd = all(size in range(1, 10, 2) for size in chain(*network.kernels))
        whole = tuple(prod(stride[axis] for stride in network.strides) for axis in range(3))
        alike = all(len(entries) == n_stages for entries in lists) and 1 <= n_stages <= 12
        fits = min(whole) >= 1 and all(n % m == 0 for n, m in zip(patch, whole, strict=True))
        small = min(patch) >= 1 and prod(patch) <= _LARGEST_PATCH
        at = "architecture"
        _require(
            _spacing_rule(self.spacing),
            (min(self.median_shape) >= 1, f"median_shape {self.median_shape} must be at least 1"),
            (1 <= self.batch_size <= 1024, f"batch_size {self.batch_size} is not in 1 to 1024"),
            (n_sources >= 1, "sources must name at least one channel"),
            (self.feature_map_voxels >= 0, "feature_map_voxels must not be below 0"),
            (
                residual in (None, *range(n_sources)),
                f"residual_channel {residual} is none of {n_sources} sources",
            ),
            (alike, f"{at}: features, kernels, strides and blocks must have as many entries"),
            (_lie(network.features, 1, 4096), f"{at}.features must lie in 1 to 4096"),
            (_lie(network.blocks, 1, 32), f"{at}.blocks must lie in 1 to 32"),
            (odd, f"{at}.kernels must be odd and lie in 1 to 9"),
            (_lie(chain(*network.strides), 1, 4), f"{at}.strides must lie in 1 to 4"),
            (network.strides[:1] == ((1, 1, 1),), f"{at}.strides must begin with 1, 1, 1"),
            (fits, f"patch_size {patch} is no multiple of the strides' product {whole}"),
            (small, f"patch_size {patch} must have 1 to {_LARGEST_PATCH} voxels"),
        )


@dataclass(frozen=True)
class Plan:
    """The decisions for one dataset; plan.json may be edited by hand."""

    SCHEMA: ClassVar[int] = 1
    schema: int
    version: str
    dataset: str
    channel_names: tuple[str, ...]
    target_name: str
    file_ending: str
    integer_output: bool
    preset: str
    memory_gb: float
    reasons: dict[str, str]
    configurations: dict[str, Configuration]
    source_series: tuple[str, ...] = ()  # patterns of the sources' DICOM series, one a channel

    def __post_init__(self) -> None:
        n_channels = len(self.channel_names)
        _require(
            (self.memory_gb > 0, f"memory_gb {self.memory_gb} must be above 0"),
            (bool(self.configurations), "configurations must hold at least one"),
            (self.file_ending in FORMATS, f"file_ending must be one of {', '.join(FORMATS)}"),
            *(
                (
                    len(found.sources) == n_channels,
                    f"configurations.{name}: {len(found.sources)} sources, {n_channels} channels",
                )
                for name, found in self.configurations.items()
            ),
        )

    def configuration(self, name: str) -> Configuration:
        """The configuration of that name.

        Raises:
            PlanError: there is none; the message lists the names.
        """
        if name not in self.configurations:
            raise PlanError(
                f"{self.dataset}: no configuration {name} in its plan (there:"
                f" {', '.join(self.configurations)})"
            )
        return self.configurations[name]


def _require(*rules: tuple[bool, str]) -> None:
    """Raise a SettingError with the text of the first rule that does not hold."""
    for holds, text in rules:
        if not holds:
            raise SettingError(text)


def _lie(values: Iterable[float], least: float, most: float) -> bool:
    return all(least <= value <= most for value in values)


def _spacing_rule(spacing: Spacing) -> tuple[bool, str]:
    return _lie(spacing, *SPACINGS), f"spacing {spacing} must lie in {SPACINGS} mm"


@dataclass(frozen=True)
class Recipe(Settings):
    """How long and with which optimiser every objective is trained: one default for all."""

    epochs: int = setting(MISSING, "of the training", least=1)
    iterations: int = setting(MISSING, "steps an epoch", least=1)
    validation_patches: int = setting(16, "that every epoch is judged by, at least", least=1)
    learning_rate: float = setting(1e-3, "of AdamW, after the warm-up", above=0)
    weight_decay: float = setting(1e-2, "of AdamW, of weights that are no vectors", least=0)
    warm_up_share: float = setting(0.05, "of all steps, the rate's linear rise", least=0, most=1)
    clip: float = setting(2.0, "largest norm of all gradients", above=0)
    ema_decay: float = setting(0.999, "of the averaged weights", least=0, most=1)
    seed: int = setting(0, "of weights, patches and noise")
    precision: str = setting("fp32", "of the arithmetic", choices=("fp32", "bf16", "fp16"))

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.iterations


@dataclass(frozen=True)
class SpectralFinish(Settings):
    """A filter for predictions, fitted on validation cases; see `inference.finish`."""

    # of the amplitudes at the frequencies of `metrics.spectrum.radial_power`, lowest first
    gains: tuple[float, ...] = setting(MISSING, "of each frequency", least=0)
    largest: float = setting(MISSING, "change of a voxel, network units", least=0)
    strength: float = setting(0.0, "share of the full change; 0 is off", least=0, most=1)


@dataclass(frozen=True)
class Run(Settings):
    """What one training is: written before its first step, and never again.

    Dial and finish lie in dial.json and finish.json (`models.folder.read_run`), and in run.json
    only of older and of exported models.
    """

    SCHEMA: ClassVar[int] = 1
    schema: int
    version: str
    dataset: str
    configuration: str
    fold: str
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    objective: str
    options: dict[str, Any]  # of the objective, all of them; of older trainings those given
    recipe: Recipe
    encoder: str | None
    encoder_sha256: str | None
    pretrained_sha256: str | None
    device: str
    n_threads: int = setting(MISSING, "of the CPU", least=1)
    n_workers: int = setting(MISSING, "processes that make patches; 0: the training's own", least=0)
    versions: dict[str, str] = field(default_factory=dict)
    encoder_options: dict[str, Any] = field(default_factory=dict)
    n_devices: int = setting(1, "that train together", least=1)
    # share of what the source of the target's quantity shows beyond the plan's spacing that comes
    # back into predictions: what serves the training cases' targets best
    detail_gain: float = setting(0.0, "of what the plan's spacing takes from a CT", least=0, most=1)
    realism: float | None = setting(None, "T of the realism dial", least=0)
    finish: SpectralFinish | None = None  # None where none was fitted
