"""The documentation is run as it stands: its commands through main(argv), its Python by exec."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from dicoms import write_series

from gdmnet.data.case import Volume
from gdmnet.data.volume import read_geometry, read_volume, write_volume
from gdmnet.datasets.phantom import Scanner, make_patient, write_phantom_dataset
from gdmnet.geometry import Geometry

DOCUMENTATION = Path(__file__).resolve().parents[2] / "documentation"
NAME = "Dataset501_MRtoCT"
MODEL = Path("gdmnet_results") / NAME / "gdm__3d_fullres"
SHORTER = {
    "train": ["--epochs", "1", "--iterations", "2", "--encoder-iterations", "2"],
    "plan_and_preprocess": ["-np", "1"],
    "evaluate": ["-np", "1"],
    "compare": ["-np", "1", "--judge-iterations", "2"],
    "report": ["-np", "1"],
    "check": ["-np", "1"],
    "convert": ["-np", "1"],
    "simulate_sparse_view": ["-np", "1"],
}


def commands(page, n_first=0):
    """The lines of a page's bash blocks: of the first ones, and of the others."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    return "".join(blocks[:n_first]).splitlines(), "".join(blocks[n_first:]).splitlines()


def run_lines(lines):
    """Every gdm_ command, made quicker; the demo has its own test."""
    for line in lines:
        program, *arguments = shlex.split(line)
        if program.startswith("gdm_") and program != "gdm_demo":
            name = program.removeprefix("gdm_")
            command = importlib.import_module(f"gdmnet.commands.{name}")
            assert command.main([*arguments, *SHORTER.get(name, [])]) == 0, line


def run_commands(page):
    run_lines(commands(page)[1])


def run_python(page):
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        exec(compile(block, str(page), "exec"), names)
    return names


@pytest.fixture(scope="module")
def beginner(tmp_path_factory):
    """A folder in which somebody has followed the getting-started page."""
    home = tmp_path_factory.mktemp("home")
    raw = write_phantom_dataset(
        home / "gdmnet_raw", dataset=NAME, n_train=2, n_test=1, shape=(24, 24, 24)
    )
    (home / "in").mkdir()
    for path in (raw / "targetsTs").iterdir():
        target = read_volume(path)
        bone = Volume((target.array > 200).astype(np.float32), target.geometry)
        (raw / "regionsTs").mkdir(exist_ok=True)
        write_volume(raw / "regionsTs" / path.name, bone, integer=True)
    image = next((raw / "imagesTs").iterdir())
    shutil.copy(image, home / "in" / "patient_07_0000.nii.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        run_commands(DOCUMENTATION / "getting-started.md")
    return home


def test_getting_started_gets_one_started(beginner):
    assert (beginner / MODEL / "fold_0/summary.json").is_file()
    assert (beginner / MODEL / "fold_0/progress.png").is_file()
    assert (beginner / "out/predictions.json").is_file()
    assert (beginner / "out/summary.json").is_file()


@pytest.mark.parametrize("name", ["own-dataset", "resume", "judge", "report", "encoders"])
def test_the_how_to_works(beginner, monkeypatch, name):
    monkeypatch.chdir(beginner)
    run_commands(DOCUMENTATION / f"how-to/{name}.md")


def write_synthrad(home):
    """Two phantoms in the layout of SynthRAD2025; the raw dataset that they are from."""
    scanner = Scanner((3.0, 2.0, 2.0), varied_shapes=False, masks=True)
    raw = write_phantom_dataset(
        home / "phantoms", n_train=2, n_test=0, shape=(20, 36, 36), scanner=scanner
    )
    for i in (1, 2):
        patient = home / f"synthRAD2025/Task1/AB/1ABA00{i}"
        patient.mkdir(parents=True)
        shutil.copy(raw / f"imagesTr/phantom_0{i}_0000.nii.gz", patient / "mr.nii.gz")
        shutil.copy(raw / f"targetsTr/phantom_0{i}.nii.gz", patient / "ct.nii.gz")
        shutil.copy(raw / f"masksTr/phantom_0{i}.nii.gz", patient / "mask.nii.gz")
    return raw


def test_pairs_are_made_and_checked(monkeypatch, tmp_path, capsys):
    raw = write_synthrad(tmp_path)
    (tmp_path / "mr").mkdir()
    (tmp_path / "ct").mkdir()
    for i in (1, 2):
        shutil.copy(raw / f"imagesTr/phantom_0{i}_0000.nii.gz", tmp_path / f"mr/MR_{i}.nii.gz")
        shutil.copy(raw / f"targetsTr/phantom_0{i}.nii.gz", tmp_path / f"ct/CT_00{i}.nii.gz")
    monkeypatch.chdir(tmp_path)
    run_commands(DOCUMENTATION / "how-to/pairs.md")
    assert "0 of 2 cases flagged" in capsys.readouterr().out
    copies = {path.name for path in (tmp_path / "gdmnet_raw").iterdir()}
    assert {"Dataset511_SynthRAD2025Task1AB", "Dataset612_MRtoCTRegistered"} <= copies


def test_mr_becomes_ct_from_dicom_to_dicom(monkeypatch, tmp_path):
    raw = write_synthrad(tmp_path)
    mr = read_volume(raw / "imagesTr/phantom_02_0000.nii.gz")
    write_series(tmp_path / "scans", mr.array[0], spacing=mr.geometry.spacing)
    monkeypatch.chdir(tmp_path)
    run_commands(DOCUMENTATION / "how-to/mr-to-ct.md")
    (plan,) = Path("gdmnet_results").glob("*/*/plan.json")
    assert '"bias_correction": "n4"' in plan.read_text("utf-8")
    assert len(list(Path("out").glob("case_*_dicom/CT_*.dcm"))) == mr.geometry.shape[0]


def test_a_model_is_chosen(beginner, monkeypatch, tmp_path, capsys):
    shutil.copytree(beginner, tmp_path / "home")  # a second model would disturb the other pages
    monkeypatch.chdir(tmp_path / "home")
    run_commands(DOCUMENTATION / "how-to/choose.md")
    assert "best by fidelity" in capsys.readouterr().out
    assert (tmp_path / "home/chosen/patient_07.nii.gz").is_file()


def test_a_model_predicts_elsewhere(beginner, monkeypatch, tmp_path):
    shutil.copytree(beginner / MODEL, tmp_path / "here" / MODEL)
    shutil.copytree(beginner / "in", tmp_path / "in")
    monkeypatch.chdir(tmp_path / "here")
    here, there = commands(DOCUMENTATION / "how-to/predict-elsewhere.md", 1)
    if not all(map(find_spec, ("onnx", "onnxruntime", "openvino"))):
        there = [line for line in there if "--onnx" not in line and "--engine" not in line]
    run_lines(here)
    shutil.move("model.zip", tmp_path)
    monkeypatch.chdir(tmp_path)
    run_lines(there)
    predicted = read_geometry(tmp_path / "out/patient_07.nii.gz")
    assert predicted == read_geometry(tmp_path / "in/patient_07_0000.nii.gz")


def test_the_python_examples_run(beginner, monkeypatch, tmp_path):
    monkeypatch.chdir(beginner)
    names = run_python(DOCUMENTATION / "how-to/python.md")
    assert names["ct"].shape == names["mr"].shape
    assert read_geometry(Path("patient_07_ct.nii.gz")).shape == names["mr"].shape
    run_python(DOCUMENTATION.parent / "README.md")


def test_sparse_view_ct_is_made_restored_and_made_consistent(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("ct").mkdir()
    shape = (16, 24, 24)
    for i in range(4):
        _, ct, _ = make_patient(np.random.default_rng(i), shape)
        volume = Volume(ct[None], Geometry(shape, (4.0, 6.0, 6.0)))
        write_volume(Path(f"ct/patient_{i}.nii.gz"), volume, integer=True)
    run_commands(DOCUMENTATION / "how-to/sparse-view.md")
    plain, consistent = (
        read_volume(next(Path(name).glob("*.nii.gz"))).array for name in ("plain", "consistent")
    )
    assert not np.array_equal(plain, consistent)
    assert read_geometry(Path("fbp.nii.gz")).shape == shape
