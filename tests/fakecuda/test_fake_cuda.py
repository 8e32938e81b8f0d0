"""What a training step asks of a GPU, counted on fake CUDA tensors: no GPU is needed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from fakecuda import fake_cuda

pytestmark = pytest.mark.fakecuda

SCRIPTS = Path(__file__).resolve().parents[2] / "documentation" / "benchmarks"
CUBE = (3, 3, 3)
SMALL = {
    "patch": (64, 64, 64),
    "batch": 2,
    "features": (8, 16, 32),
    "kernels": (CUBE,) * 3,
    "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "blocks": (1, 1, 1),
}


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    found = fake_cuda.build(tmp_path_factory.mktemp("fakecuda"))
    if found is None:
        pytest.skip("no g++, torch's headers do not fit it, or torch was built for CUDA")
    return found


def test_no_step_waits_for_many_numbers_or_launches_many_kernels(library, tmp_path):
    names = ("regression", "gan", "gdm")
    jobs = [{"objective": name, **SMALL} for name in names]
    found = dict(zip(names, fake_cuda.run_steps(library, jobs, tmp_path), strict=True))
    reads = {name: sum(step["reads"].values()) for name, step in found.items()}
    assert reads["regression"] <= 2
    assert reads["gan"] <= 4
    assert reads["gdm"] <= 5
    plain = found["regression"]["kernels"]
    assert found["gan"]["kernels"] - plain <= 190
    assert found["gdm"]["kernels"] - plain <= 780


@pytest.mark.parametrize("patients", ["pelvis", pytest.param("brain", marks=pytest.mark.slow)])
def test_no_plan_takes_more_than_predicted_or_than_its_device_has(
    library, tmp_path, monkeypatch, patients
):
    monkeypatch.syspath_prepend(SCRIPTS)
    script = importlib.import_module("simulated_memory")
    asked = ["--patients", patients, "--memory", "8", "--trainings", "gdm, dial"]
    assert script.main([*asked, "-o", str(tmp_path / "table.md")]) == 0
    _, _, *rows = (tmp_path / "table.md").read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [cell[0] for cell in cells] == [patients]
    for _, memory, *_, predicted, simulated, error, device in cells:
        assert float(predicted) == pytest.approx(float(simulated), rel=0.1)
        assert abs(float(error.rstrip("%"))) < 10
        assert float(device) <= float(memory)
