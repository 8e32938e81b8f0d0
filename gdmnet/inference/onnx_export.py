"""A trained model as a folder that predicts without torch: ONNX networks beside the plan."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gdmnet import files
from gdmnet.errors import CheckpointError, SettingError
from gdmnet.inference.archive import write_manifest, write_model
from gdmnet.inference.engine import load_exported
from gdmnet.inference.ensemble import Ensemble
from gdmnet.inference.translator import load_model
from gdmnet.models.card import PredictionSettings
from gdmnet.models.folder import read_model, read_summaries
from gdmnet.models.manifest import Manifest

OPSET = 17  # ONNX 1.12: InstanceNormalization, Resize and AveragePool as the engines know them
TOLERANCE = 1e-4  # network units


def export_onnx(
    folder: Path, output: Path, *, folds: Sequence[str] | None = None, licence: str = "not stated"
) -> float:
    """Write a model's plan, runs and card as `export_model` does, and its networks as ONNX.

    The realism dial is built in as its validation chose it; the spectral finish goes along in
    run.json. Each network computes one window before the folder gets its name.

    Returns the largest difference of a voxel from torch's, in network units.

    Raises:
        CheckpointError: what `export_model` refuses, a network that is called several times, or
            one that ONNX Runtime computes otherwise than torch.
        OutputError: the output exists or cannot be written.
        SettingError: onnx or onnxruntime is not installed.
    """
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise SettingError(f"--onnx needs {package}; pip install 'gdmnet[onnx]'")
    model = read_model(folder, folds)
    with files.whole_folder(output) as stage, tempfile.TemporaryDirectory() as aside:
        place = Path(aside) / "model"
        difference = _replace_weights(place, write_model(model, place, licence=licence))
        shutil.copytree(place, stage, dirs_exist_ok=True)
    return difference


def _replace_weights(folder: Path, manifest: Manifest) -> float:
    """Put ONNX networks in the place of checkpoints, and list them in the manifest."""
    translator = load_model(folder, folds=manifest.folds, device="cpu")
    if translator.card.settings.sampler is not None:
        raise CheckpointError(
            f"the objective {manifest.objective} calls its network several times; --onnx takes gdm,"
            " regression and gan"
        )
    shape = (len(translator.plan.channel_names), *translator.configuration.patch_size)
    patch = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    network = translator.network
    assert isinstance(network, Ensemble)  # of torch, since no other engine was asked for
    model = read_model(folder, manifest.folds)
    for fold, member in zip(manifest.folds, network.members, strict=True):
        checkpoint = model.checkpoint(fold, "final")
        _write_network(member, patch, checkpoint.with_suffix(".onnx"))
        checkpoint.unlink()
    write_manifest(manifest, model, read_summaries(model), folder)
    settings = PredictionSettings(engine="onnxruntime")
    exported = load_exported(model, replace(translator.card, settings=settings), "cpu")
    with torch.inference_mode():
        wanted = network(patch).numpy()
    found = np.concatenate([member(patch.numpy()) for member in exported.members])
    difference = float(np.abs(found - wanted).max())
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"ONNX Runtime differs from torch by {difference:.2g} network units; this model cannot"
            " be exported with these versions"
        )
    return difference


def _write_network(network: nn.Module, patch: Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a newer exporter, which needs onnxscript
        torch.onnx.export(network, (patch,), path, opset_version=OPSET, dynamo=False)
