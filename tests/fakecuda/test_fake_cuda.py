"""What a training step asks of a GPU, counted on fake CUDA tensors: no GPU is needed."""

from __future__ import annotations

import pytest
from fakecuda import fake_cuda

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
    assert reads["regression"] <= 5
    assert reads["gan"] <= 8
    assert reads["gdm"] <= 135
    plain = found["regression"]["kernels"]
    assert found["gan"]["kernels"] - plain <= 260
    assert found["gdm"]["kernels"] - plain <= 2930
