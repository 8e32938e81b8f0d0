from types import SimpleNamespace

import pytest
import torch

from gdmnet.errors import TrainingError
from gdmnet.models import precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512_bf16", True),
        ("fpu amx_bf16", True),
        ("fpu avx2 avx512f", False),
        ("fpu not_avx512_bf16_yet", False),
    ],
)
def test_the_cpu_tells_whether_it_has_bf16(tmp_path, flags, expected):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nflags\t\t: {flags}\nbugs : none\n")
    assert precision.cpu_has_bf16(info) is expected


def test_a_system_without_cpuinfo_has_no_bf16(tmp_path):
    assert precision.cpu_has_bf16(tmp_path / "none") is False


@pytest.mark.parametrize(("there", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_cpu_follows_the_hardware(monkeypatch, there, expected):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: there)
    assert precision.choose("auto", CPU) == expected


def test_auto_on_cuda_prefers_bf16_where_that_very_device_has_it(monkeypatch):
    cards = {0: (8, 0), 1: (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: cards[device.index])
    for index, expected in enumerate(("bf16", "fp16")):
        assert precision.choose("auto", torch.device("cuda", index)) == expected


def test_a_named_precision_stays_unless_it_cannot_be():
    assert precision.choose("bf16", CPU) == "bf16"
    assert precision.choose("fp16", CUDA) == "fp16"
    with pytest.raises(TrainingError, match="needs a CUDA device"):
        precision.choose("fp16", CPU)
    with pytest.raises(TrainingError, match="fp8: unknown"):
        precision.choose("fp8", CPU)


def test_autocast_computes_in_the_precision():
    layer, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with precision.autocast("bf16", CPU):
        assert layer(x).dtype == torch.bfloat16
    with precision.autocast("fp32", CPU):
        assert layer(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("patch", "strides", "safe"),
    [
        ((48, 48, 48), (2, 2, 2), True),
        ((1, 168, 128), (1, 2, 2), False),
        ((8, 96, 96), (1, 2, 2), False),
        ((16, 96, 72), (2, 2, 2), False),  # flat from the second stage on
        ((1, 24, 24), (1, 2, 2), False),  # a single slice is never safe
        ((2, 24, 24), (1, 2, 2), False),  # nor are two
        ((4, 24, 24), (2, 2, 2), False),
        ((3, 24, 24), (1, 2, 2), True),
    ],
)
def test_flat_patches_are_not_trained_in_bf16_on_a_cpu(patch, strides, safe, monkeypatch):
    architecture = SimpleNamespace(strides=((1, 1, 1), strides))
    configuration = SimpleNamespace(patch_size=patch, architecture=architecture, name="3d_fullres")
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    cpu = torch.device("cpu")
    assert precision.choose_for("auto", cpu, configuration) == ("bf16" if safe else "fp32")
    if not safe:
        with pytest.raises(TrainingError, match="flat patch"):
            precision.choose_for("bf16", cpu, configuration)


@pytest.mark.skipif(not precision.cpu_has_bf16(), reason="a CPU without bf16 is not asked for it")
@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 24, 24), (4, 4, 4), (8, 2, 8), (8, 8, 2)])
def test_what_is_called_safe_has_the_right_gradients(shape):
    layer = torch.nn.Conv3d(16, 16, 3, padding=1)
    x = torch.randn(2, 16, *shape)
    found = []
    for name in ("bf16", "fp32"):
        with precision.autocast(name, CPU):
            loss = layer(x).float().square().mean()
        found.append(torch.autograd.grad(loss, layer.weight)[0])
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 0.05
