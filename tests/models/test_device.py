import pytest
import torch

from gdmnet.errors import DeviceError
from gdmnet.models.device import check_convolutions, find_device, versions

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh():
    check_convolutions.cache_clear()
    yield
    check_convolutions.cache_clear()


def test_right_convolutions_are_not_worth_a_word(monkeypatch, caplog):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91501)
    check_convolutions(CPU)
    assert caplog.messages == []


def test_a_cudnn_that_is_known_for_it_is_named_once(monkeypatch, caplog):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    for _ in range(2):
        check_convolutions(CPU)
    (line,) = caplog.messages
    assert "cuDNN 91002 is known" in line
    assert "nvidia-cudnn-cu12>=9.15" in line


def test_wrong_convolutions_are_found(monkeypatch, caplog):
    right = torch.conv3d

    def wrong(x, weight, **options):
        return right(x, weight, **options) * (1.0 if x.dtype is torch.float32 else 1.1)

    monkeypatch.setattr(torch, "conv3d", wrong)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92000)
    monkeypatch.setattr("gdmnet.models.device.choose", lambda *_: "bf16")
    check_convolutions(CPU)
    assert "here 0.1 of an error" in caplog.text


def test_a_device_without_all_that_is_needed_is_refused():
    with pytest.raises(DeviceError, match="--device mps: not supported; use auto, cpu, cuda"):
        find_device("mps")


def test_a_device_that_cannot_compute_is_refused_in_one_line(monkeypatch):
    def busy(device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.\nSee docs")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("gdmnet.models.device.check_convolutions", busy)
    with pytest.raises(DeviceError, match=r"cuda: cannot compute \(CUDA out of .*MiB.\); free it"):
        find_device()


def test_cudnn_stands_among_the_versions(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: None)
    assert "cudnn" not in versions()
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91501)
    assert versions()["cudnn"] == "91501"
