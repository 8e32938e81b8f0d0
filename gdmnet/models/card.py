"""How a trained model predicts, and which weights: what stands beside every prediction."""

from __future__ import annotations

from dataclasses import dataclass, field

from gdmnet.folders import CHECKPOINTS
from gdmnet.settings import Settings, setting

MOST_REALISM = 1.5  # T beyond which the line through both weights leaves what was measured


@dataclass(frozen=True)
class PredictionSettings(Settings):
    """How a model is used: the same in `gdm_predict`, in Python and in predictions.json."""

    checkpoint: str = setting(
        "final", "the last one, or the best by validation MAE", choices=tuple(CHECKPOINTS)
    )
    step_size: float = setting(
        0.5, "distance of windows as a share of the patch", above=0, most=1, metavar="S"
    )
    tta: bool = setting(False, "average over mirrored copies: eight times slower")
    ensemble: str = setting(
        "mean", "how folds are combined, voxel by voxel", choices=("mean", "median")
    )
    realism: float | None = setting(
        None,
        "of a model with a realism dial: 0 most faithful, 1 as trained, at most 1.5"
        " (default: what its validation chose)",
        least=0,
        most=MOST_REALISM,
        metavar="T",
    )
    finish: bool = setting(
        True, "leave out the spectral finish of a model that has one", flag="--no-finish"
    )
    steps: int | None = setting(None, "of the sampler (default: as trained)", least=1)
    sampler: str | None = setting(
        None, "flow: euler, heun, rk4; bridge: sde, ode; diffusion: ddim, ancestral"
    )
    seed: int | None = setting(None, "of each case's noise (default: 0)")
    engine: str = setting(
        "torch",
        "that computes: torch, or what a model of gdm_export_model --onnx needs instead",
        choices=("torch", "onnxruntime", "openvino"),
    )
    mixed_folds: bool = setting(False, "combine folds that were trained differently, too")


@dataclass(frozen=True)
class ModelCard:
    """Which weights a translator uses and how; written beside every prediction."""

    folder: str
    objective: str
    configuration: str
    checkpoints: dict[str, str]  # fold -> SHA-256 of its file
    device: str  # "cpu", "cuda:0", ...
    precision: str  # "fp32", "bf16" or "fp16"; sums are fp32 always
    # as they are used: a sampler's own steps, name and seed; None where there is none
    settings: PredictionSettings = PredictionSettings()
    realism: dict[str, float] = field(default_factory=dict)  # fold -> T of the dial, if it has one
    data_consistency: bool = False  # whether predictions agree with measured line integrals
    network_calls: int = 1  # of each fold for a window, without mirrored copies
    finish: float = 0.0  # strength of the spectral finish; 0 without one

    def __str__(self) -> str:
        how = self.settings
        used = f"{how.checkpoint} checkpoint, folds {', '.join(self.checkpoints)}"
        if self.realism:
            used += f", realism {', '.join(f'{value:g}' for value in self.realism.values())}"
        if self.finish:
            used += f", spectral finish {self.finish:g}"
        if how.sampler:
            used += f", {how.sampler} of {how.steps} steps"
        if how.engine != "torch":
            used += f", {how.engine}"
        return f"{self.folder} ({used}) on {self.device}, {self.precision}"

    def difference(self, other: ModelCard) -> str | None:
        """The first thing that makes the predictions of another card other ones; None if none.

        A realism that was asked for is no difference from the same one chosen by the validation,
        nor is a finish that was refused from one that is not there.
        """
        theirs = other._decisive()
        return next((name for name, own in self._decisive().items() if own != theirs[name]), None)

    def _decisive(self) -> dict[str, object]:
        names = ("checkpoints", "realism", "finish", "data_consistency")
        used = {name: getattr(self, name) for name in names}
        return {**used, **vars(self.settings), **used, "mixed_folds": None}
