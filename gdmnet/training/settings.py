"""What can be asked of a training and its feature encoder; without torch: commands check early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdmnet.objectives.options import OPTIONS, read_objective_options
from gdmnet.settings import Settings, setting

# A laptop trains the cpu preset in about an hour; a GPU run is of nnU-Net's order of length.
DEFAULT_LENGTH = {"cpu": (80, 50)}
DEFAULT_GPU_LENGTH = (400, 250)
# Real T1 to T2, 600 steps of the cpu preset, held-out MAE: .107 at 1e-3, .100 at 3e-3. The larger
# networks of the other presets keep the customary rate; nobody has measured more on them.
DEFAULT_RATE = {"cpu": 3e-3}


@dataclass(frozen=True)
class EncoderSettings(Settings):
    """Which feature encoder, and how it is used."""

    name: str = setting("self", "self, random, ctfm, nnunet:FOLDER, ...", flag="--encoder")
    weights: Path | None = setting(
        None, "file or folder of its weights (default: $gdmnet_encoders/NAME)"
    )
    stages: tuple[int, ...] | None = setting(
        None, "whose maps to use, 0 is the finest (default: all that are large enough)", least=0
    )
    norm_statistics: str = setting(
        "patch",
        "of its instance and group norms: each patch's own, or measured once on the dataset",
        choices=("patch", "dataset"),
        flag="--norm-statistics",
    )
    resample: bool = setting(
        True,
        "show it the patch's own voxels, also where it knows another spacing",
        flag="--no-encoder-resampling",
    )
    iterations: int | None = setting(
        None,
        "steps of the embedded encoder's own training (default: a fifth of the training's on a"
        " CPU, by the cases on a GPU)",
        least=1,
    )


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """What a training can be asked beside dataset, configuration and fold.

    None, and "auto", stand for what was not asked: a new training takes the default, a continued
    one what it began with.
    """

    objective: str = setting("gdm", "how the generator is trained", choices=OPTIONS)
    epochs: int | None = setting(None, "(default: 80 of the preset cpu, else 400)", least=1)
    iterations: int | None = setting(
        None, "steps an epoch (default: 50 of the preset cpu, else 250)", least=1
    )
    learning_rate: float | None = setting(
        None, "(default: 3e-3 of the preset cpu, else 1e-3)", above=0, metavar="RATE"
    )
    seed: int | None = setting(None, "of weights, patches and noise (default: 0)")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1", metavar="DEVICE")
    precision: str = setting(
        "auto", "of the network's arithmetic", choices=("auto", "fp32", "bf16", "fp16")
    )
    resume: bool = setting(False, "go on with an interrupted training", flag="--continue")
    overwrite: bool = setting(
        False, "throw the old training away, once the new one has its first checkpoint"
    )
    pretrained: Path | None = setting(None, "start from this checkpoint's weights", metavar="FILE")
    fidelity_budget: float = setting(
        0.01, "MAE that the dial's default may cost against the twin", least=0, metavar="SHARE"
    )
    finish: bool = setting(
        False,
        "fit a filter to the validation's spectra, as strong as the fidelity budget allows",
        flag="--spectral-finish",
    )
    n_devices: int | None = setting(
        None, "devices that train together (default: 1)", least=1, flag="--num-gpus"
    )
    n_workers: int | None = setting(
        None, "workers that make patches (default: on a CPU 0)", least=0, flag="-np"
    )
    encoder: EncoderSettings | None = None  # of the objectives that need a frozen one
    objective_options: Mapping[str, Any] = field(default_factory=dict)  # {"drift_ratio": 0.3}
    encoder_root: Path | None = None  # results that keep the embedded encoder, if not the model's
    validates: bool = True  # whole volumes at the end

    def __post_init__(self) -> None:
        super().__post_init__()
        read_objective_options(self.objective, self.objective_options)
