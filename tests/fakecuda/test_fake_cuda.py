"""What a training step asks of a GPU, counted on fake CUDA tensors: no GPU is needed."""

from __future__ import annotations

import pytest
from fakecuda import fake_cuda

from gdmnet.planning.memory import device_gb_for, step_gb

pytestmark = pytest.mark.fakecuda

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
        pytest.skip("no g++, or torch's headers do not fit it")
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


def test_no_plan_takes_more_than_predicted_or_than_its_device_has(library, tmp_path):
    rows = [("pelvis", 8.0, "gdm", True), ("brain", 24.0, "regression", False)]
    plans = [fake_cuda.planned(patient, memory) for patient, memory, *_ in rows]
    jobs = [
        fake_cuda.job(plan, name, **({"realism_dial": True} if twin else {}))
        for plan, (*_, name, twin) in zip(plans, rows, strict=True)
    ]
    found = fake_cuda.run_steps(library, jobs, tmp_path)
    for plan, (_, memory, name, twin), step in zip(plans, rows, found, strict=True):
        size = (plan.architecture, plan.patch_size, plan.batch_size)
        peak = step["peak"] / 2**30
        assert step_gb(*size, name, twin=twin) == pytest.approx(peak, rel=0.1)
        assert device_gb_for(peak) <= memory
