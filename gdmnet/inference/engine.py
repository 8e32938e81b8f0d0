"""An exported model without torch: ONNX Runtime or OpenVINO computes the windows."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet import __version__, codec
from gdmnet.data.case import Case
from gdmnet.errors import CheckpointError, DeviceError, SettingError
from gdmnet.files import file_sha256
from gdmnet.inference.windows import Estimate, Spread, blend, tiling_of
from gdmnet.models.card import ModelCard
from gdmnet.models.folder import ModelFolder
from gdmnet.models.manifest import MANIFEST_JSON, Manifest
from gdmnet.plan import Configuration

OnnxNetwork = Callable[[NDArray], NDArray]
"""float32 (1, c, z, y, x), a patch in network units, to (1, 1, z, y, x)."""


class OnnxEnsemble:
    """Several exported generators as one network, in fp32 on the CPU."""

    def __init__(
        self, members: Sequence[OnnxNetwork], configuration: Configuration, card: ModelCard
    ) -> None:
        self.members, self.configuration, self.card = members, configuration, card

    def predict(self, case: Case, *, spread: Spread | None = None) -> Estimate:
        """A case's target in network units, as `Ensemble.predict` gives it."""
        tiling, settings = tiling_of(case, self.configuration), self.card.settings
        found = blend(self._opinions, case.source, tiling, settings, np, spread=spread)
        return Estimate(*(np.ascontiguousarray(volume)[None] for volume in found))

    def _opinions(self, patch: NDArray) -> NDArray:
        return np.concatenate([member(patch) for member in self.members])

    def versions(self) -> dict[str, str]:
        """Of the libraries that compute."""
        engine, python = self.card.settings.engine, platform.python_version()
        own = {"gdmnet": __version__, "python": python, "numpy": np.__version__}
        return {**own, engine: metadata.version(engine)}


def load_exported(model: ModelFolder, card: ModelCard, device: str) -> OnnxEnsemble:
    """Open the networks that `gdm_export_model --onnx` wrote beside a model's plan.

    The network's own card has the digests of their files.

    Raises:
        CheckpointError: a network is missing, damaged or not of this plan, or what is asked for
            was settled when it was exported.
        DeviceError: another device than the CPU.
        SettingError: the engine is not installed.
    """
    settings = card.settings
    if device not in ("auto", "cpu"):
        raise DeviceError(f"--device {device}: --engine {settings.engine} computes on the CPU only")
    for option in ("steps", "sampler", "seed"):
        if (value := getattr(settings, option)) is not None:
            raise CheckpointError(f"--{option} {value}: exported networks are called once")
    if any(card.realism.get(fold) != run.realism for fold, run in model.runs.items()):
        raise CheckpointError(
            f"--realism {settings.realism:g}: an exported network keeps the realism that its"
            " validation chose; leave --realism out, or predict by torch from the training's folder"
        )
    paths = {
        fold: model.checkpoint(fold, settings.checkpoint).with_suffix(".onnx")
        for fold in model.runs
    }
    digests = {fold: _require_whole(path, model.path) for fold, path in paths.items()}
    configuration = model.configuration
    shape = (1, len(configuration.sources), *configuration.patch_size)
    members = [_open(path, settings.engine, shape) for path in paths.values()]
    return OnnxEnsemble(members, configuration, replace(card, checkpoints=digests))


def _require_whole(path: Path, folder: Path) -> str:
    """SHA-256 of a network that is there and is the one that was exported."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such network; make a folder that has it by gdm_export_model --onnx, and"
            " name it by -m"
        )
    listed = codec.load(Manifest, folder / MANIFEST_JSON).files
    name, digest = path.relative_to(folder).as_posix(), file_sha256(path)
    if name not in listed or listed[name].sha256 != digest:
        raise CheckpointError(
            f"{path}: damaged (its SHA-256 is not that of {MANIFEST_JSON}); export the model again"
        )
    return digest


def _open(path: Path, engine: str, shape: tuple[int, ...]) -> OnnxNetwork:
    try:
        found, network = _ENGINES[engine](path)
    except ImportError:
        raise SettingError(f"--engine {engine}: not installed here; pip install {engine}") from None
    except Exception as problem:  # noqa: BLE001 (of a foreign library)
        reason = " ".join(str(problem).split())
        raise CheckpointError(f"{path}: {engine} cannot open it ({reason:.200})") from None
    if found != shape:
        raise CheckpointError(
            f"{path}: takes windows of {found}, but plan.json says {shape}; export the model again"
        )
    return network


def _by_onnxruntime(path: Path) -> tuple[tuple[int, ...], OnnxNetwork]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def network(patch: NDArray) -> NDArray:
        output: NDArray = session.run(None, {given.name: patch})[0]
        return output

    return tuple(given.shape), network


def _by_openvino(path: Path) -> tuple[tuple[int, ...], OnnxNetwork]:
    # openvino's package that reports its use over the network is never loaded
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    # without the hint it computes in bf16 wherever the CPU can
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def network(patch: NDArray) -> NDArray:
        output: NDArray = compiled([patch])[0]
        return output

    return tuple(compiled.input(0).shape), network


_ENGINES = {"onnxruntime": _by_onnxruntime, "openvino": _by_openvino}
