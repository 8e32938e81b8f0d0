"""Exported networks: the voxels of torch, from a process that cannot import it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gdmnet import codec, folders
from gdmnet.commands import export_model, predict
from gdmnet.data.case import CaseFiles
from gdmnet.data.volume import read_volume
from gdmnet.inference import PredictionSettings, load_model
from gdmnet.metrics.spectrum import N_BINS
from gdmnet.models import checkpoint
from gdmnet.models.folder import FINISH_JSON
from gdmnet.models.manifest import MODEL_CARD
from gdmnet.plan import SpectralFinish
from gdmnet.preprocessing import prepare

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ENGINES = ("onnxruntime", "openvino")
ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'")

sys.meta_path.insert(0, NoTorch())
from gdmnet.commands.predict import main
status = main(sys.argv[1:])
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]  # offline
sys.exit(status)
"""


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """Two folds of random weights, on an anisotropic grid, with a finish and a dial."""
    import small_models as models

    root = tmp_path_factory.mktemp("engine")
    configuration = models.make_configuration(spacing=(3.0, 1.2, 0.9))
    network = replace(
        configuration.architecture,
        kernels=((1, 3, 3), (3, 3, 3)),
        strides=((1, 1, 1), (1, 2, 2)),
        blocks=(1, 2),
    )
    configuration = replace(configuration, patch_size=(5, 16, 12), architecture=network)
    folder = models.make_model(
        root, {"0": 0.0, "1": 60.0}, configuration=configuration, integer=False
    )
    for fold in "01":
        place = folders.fold_folder(folder, fold)
        state = checkpoint.load(place / folders.FINAL)
        torch.manual_seed(int(fold))
        shaken = {name: w + 0.1 * torch.randn_like(w) for name, w in state["ema"].items()}
        checkpoint.save(place / folders.FINAL, {"epoch": 1, "ema": shaken, "twin": state["ema"]})
        run = json.loads((place / folders.RUN_JSON).read_text()) | {"realism": 0.5}
        (place / folders.RUN_JSON).write_text(json.dumps(run))
        finish = SpectralFinish(tuple(np.linspace(1, 2, N_BINS).tolist()), 0.2, 0.25)
        codec.save(finish, place / FINISH_JSON)
    assert export_model.main(["-m", str(folder), "--onnx", str(root / "onnx")]) == 0
    for case, shape in (("a", (7, 23, 31)), ("b", (3, 15, 19))):
        models.write_ct(root / f"in/{case}_0000.nii.gz", seed=len(case), shape=shape, degrees=20)
    return root, folder


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [(), ("--tta", "--ensemble", "median", "--no-finish")])
def test_prediction_without_torch_gives_torchs_voxels(folds, tmp_path, engine, options):
    pytest.importorskip(engine)
    root, folder = folds
    given = ["-i", str(root / "in"), *options]
    exported = ["-o", str(tmp_path / engine), "-m", str(root / "onnx"), "--engine", engine]
    command = [sys.executable, "-c", WITHOUT_TORCH, *given, *exported]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    torchs = ["-o", str(tmp_path / "torch"), "-m", str(folder), "--device", "cpu"]
    assert predict.main([*given, *torchs]) == 0
    plain = load_model(folder, PredictionSettings(realism=0.0), device="cpu")
    for case in "ab":
        found, wanted = (
            read_volume(tmp_path / place / f"{case}.nii.gz").array for place in (engine, "torch")
        )
        scale = plain.configuration.target.scale  # HU a network unit
        np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=1e-4)
        plain.translate_files(root / f"in/{case}_0000.nii.gz", tmp_path / "plain.nii.gz")
        assert np.abs(wanted - read_volume(tmp_path / "plain.nii.gz").array).max() > 10
    record = json.loads((tmp_path / engine / "predictions.json").read_text())
    assert record["model"]["settings"]["engine"] == engine
    assert engine in record["versions"]
    assert "--engine onnxruntime -i in/" in (root / "onnx" / MODEL_CARD).read_text()
    assert "torch" not in record["versions"]


@pytest.mark.parametrize("spread", ["opinions", "mirrored"])
def test_the_spread_is_torchs(folds, spread):
    root, folder = folds
    how = PredictionSettings(tta=True, finish=False)
    exported = load_model(root / "onnx", replace(how, engine="onnxruntime"))
    trained = load_model(folder, how, device="cpu")
    case = prepare(CaseFiles("a", (root / "in/a_0000.nii.gz",)), trained.configuration)
    found, wanted = (model.predict(case, spread=spread) for model in (exported, trained))
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.std, wanted.std, rtol=0, atol=1e-4)
    assert wanted.std.max() > 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device", "cuda"), "--engine onnxruntime computes on the CPU only"),
        (("--realism", "1"), "leave --realism out"),
        (("--steps", "3"), "exported networks are called once"),
        (("--checkpoint", "best"), "checkpoint_best.onnx: no such network"),
        (("--engine", "torch"), "for gdm_predict --engine onnxruntime"),
    ],
)
def test_what_was_settled_by_the_export_is_refused(folds, tmp_path, capsys, options, words):
    given = ["-i", str(folds[0] / "in"), "-o", str(tmp_path), "-m", str(folds[0] / "onnx")]
    assert predict.main([*given, "--engine", "onnxruntime", *options]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("harm", ["flip", "patch", "nothing there"])
def test_a_network_that_is_not_the_exported_one_is_refused(folds, tmp_path, capsys, harm):
    model = tmp_path / "onnx"
    shutil.copytree(folds[0] / "onnx", model)
    network, plan = model / "fold_1" / folders.ONNX, model / folders.PLAN_JSON
    if harm == "flip":
        content = bytearray(network.read_bytes())
        content[len(content) // 2] ^= 1
        network.write_bytes(content)
    elif harm == "patch":
        plan.write_text(plan.read_text().replace("16", "32"))
    else:
        network.unlink()
    given = ["-i", str(folds[0] / "in"), "-o", str(tmp_path), "-m", str(model), "-f", "0", "1"]
    assert predict.main([*given, "--engine", "onnxruntime"]) == 2
    said = {"flip": "damaged", "patch": "takes windows of", "nothing there": "not finished"}
    assert said[harm] in capsys.readouterr().err


def test_a_sampler_and_a_folder_that_is_there_are_not_exported(tmp_path, models, capsys):
    model = models.make_model(tmp_path / "results", objective="flow")
    assert export_model.main(["-m", str(model), "--onnx", str(tmp_path / "onnx")]) == 2
    assert "calls its network several times" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]
    model = models.make_model(tmp_path / "results")
    (tmp_path / "onnx").mkdir()
    assert export_model.main(["-m", str(model), "--onnx", str(tmp_path / "onnx")]) == 2
    assert "is there already" in capsys.readouterr().err
