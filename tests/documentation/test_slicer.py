"""The module of 3D Slicer with stand-ins for Slicer's classes; gdm_predict is the real one."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import pytest

from gdmnet import codec
from gdmnet.data.case import Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.geometry import Geometry
from gdmnet.inference import load_model

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "documentation/slicer/GdmPredict.py"


class Node:
    """A volume node: a file and a name."""

    def __init__(self, path, name):
        self.path, self.name = Path(path), name

    def GetName(self):  # noqa: N802
        return self.name

    def SetName(self, name):  # noqa: N802
        self.name = name


@pytest.fixture
def slicer(tmp_path, monkeypatch):
    """Slicer's modules; what is saved is copied, what is loaded is kept."""
    modules = {name: MagicMock(name=name) for name in ("qt", "ctk", "slicer")}
    util = modules["slicer"].util
    util.saveNode = lambda node, path: shutil.copyfile(node.path, path)
    util.loadVolume = lambda path: Node(shutil.copyfile(path, tmp_path / "kept.nii.gz"), "scan")
    util.startupEnvironment = lambda: {**os.environ, "PYTHONPATH": str(ROOT)}
    util.tryWithErrorDisplay = lambda *words, **how: contextlib.nullcontext()
    loadable = ModuleType("slicer.ScriptedLoadableModule")

    class Base:
        def __init__(self, parent=None):
            self.parent, self.layout = parent, MagicMock()

        def setup(self):
            pass

    for name in ("", "Logic", "Widget"):
        setattr(loadable, f"ScriptedLoadableModule{name}", Base)
    for name, module in {**modules, loadable.__name__: loadable}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules


@pytest.fixture
def module(slicer):
    spec = importlib.util.spec_from_file_location("GdmPredict", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def scan(tmp_path, models):
    grid = Geometry((7, 19, 22), (3.0, 1.5, 1.25), (-20.5, 7.25, 3.0))
    path = tmp_path / "loaded.nii.gz"
    write_volume(path, Volume(models.make_ct(grid.shape)[None], grid))
    return Node(path, "T1")


PROGRAM = (
    f"{sys.executable} -c 'from gdmnet.commands.predict import main; raise SystemExit(main())'"
)


def test_a_volume_becomes_what_the_model_makes_of_it(module, scan, tmp_path, models):
    model = models.make_model(tmp_path)
    logic = module.GdmPredictLogic()
    result, warnings = logic.translate(scan, f"{PROGRAM} --device cpu", str(model))
    assert warnings == []
    assert result.name == "T1 translated"
    load_model(model, device="cpu").translate_files(scan.path, tmp_path / "wanted.nii.gz")
    wanted = read_volume(tmp_path / "wanted.nii.gz")
    np.testing.assert_array_equal(read_volume(result.path).array, wanted.array)


def test_warnings_come_with_the_translation(module, scan, tmp_path, models):
    model = models.make_model(tmp_path)
    codec.save(models.make_fingerprint(), model / "fingerprint.json")
    far = Volume(read_volume(scan.path).array, Geometry((7, 19, 22), (9.0, 1.5, 1.25)))
    write_volume(scan.path, far)
    result, warnings = module.GdmPredictLogic().translate(scan, PROGRAM, str(model))
    assert result.name == "T1 translated"
    (text,) = warnings
    assert text.startswith("unlike the training data: spacing along z 9 mm (training 2 to 2)")


def test_backslashes_of_a_path_are_kept(module, scan, monkeypatch):
    calls = []

    def run(command, **_):
        calls.append(command)
        raise FileNotFoundError(2, "no such file")

    monkeypatch.setattr(module.subprocess, "run", run)
    for program, words in (
        (r"C:\gdmnet\gdm_predict.exe --tta", [r"C:\gdmnet\gdm_predict.exe", "--tta"]),
        (r'"C:\My Tools\gdm_predict.exe" -f 0', [r"C:\My Tools\gdm_predict.exe", "-f", "0"]),
        ("'/opt/my env/gdm_predict' --seed 1", ["/opt/my env/gdm_predict", "--seed", "1"]),
    ):
        with pytest.raises(RuntimeError, match="cannot be started"):
            module.GdmPredictLogic().translate(scan, program, "")
        assert calls[-1][: len(words)] == words
        assert calls[-1][len(words)] == "-i"


def test_what_cannot_be_translated_is_said_in_the_programs_words(module, scan, tmp_path):
    logic = module.GdmPredictLogic()
    with pytest.raises(RuntimeError, match=r"no such model|not a model|no model"):
        logic.translate(scan, PROGRAM, str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match="cannot be started"):
        logic.translate(scan, str(tmp_path / "gdm_predict"), "")


def test_the_button_translates_the_chosen_volume_and_lays_it_over(module, slicer, scan):
    widget = module.GdmPredictWidget()
    widget.setup()
    widget.logic = MagicMock()
    widget.logic.translate.return_value = result, warnings = MagicMock(), ["unlike", "odd"]
    widget.volume.currentNode.return_value = scan
    widget.on_apply()
    widget.logic.translate.assert_called_once()
    layers = slicer["slicer"].util.setSliceViewerLayers
    layers.assert_called_once_with(background=scan, foreground=result)
    slicer["slicer"].util.warningDisplay.assert_called_once_with("\n".join(warnings))
    widget.volume.currentNode.return_value = None
    widget.on_apply()
    slicer["slicer"].util.errorDisplay.assert_called_once()


def test_it_is_short():
    assert len(FILE.read_text("utf-8").splitlines()) <= 200
