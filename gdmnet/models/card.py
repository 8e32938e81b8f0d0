"""How a trained model predicts, and which weights: what stands beside every prediction."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

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
    """Which weights a translator uses and how; written beside every prediction.

    Attributes:
        checkpoints: fold -> SHA-256 of its checkpoint file.
        device: "cpu", "cuda:0", ...
        precision: "fp32", "bf16" or "fp16"; sums are fp32 always.
        settings: as they are used: with the sampler's own steps, name and seed; these are None
            where the network is called once.
        realism: fold -> T of the realism dial; empty without one.
        data_consistency: True if predictions are made to agree with measured line integrals.
        network_calls: evaluations of each fold's network for a window, without mirrored copies.
        finish: strength of the spectral finish; 0 without one.
    """

    folder: str
    objective: str
    configuration: str
    checkpoints: dict[str, str]
    device: str
    precision: str
    settings: PredictionSettings = PredictionSettings()
    realism: dict[str, float] = field(default_factory=dict)
    data_consistency: bool = False
    network_calls: int = 1
    finish: float = 0.0

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
        for name in ("checkpoints", "realism", "finish", "data_consistency"):
            if getattr(self, name) != getattr(other, name):
                return name
        ours, theirs = (
            replace(card.settings, realism=None, finish=True, mixed_folds=False)
            for card in (self, other)
        )
        names = [entry.name for entry in fields(PredictionSettings)]
        return next((name for name in names if getattr(ours, name) != getattr(theirs, name)), None)
