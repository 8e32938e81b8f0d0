import logging

import pytest
import torch

from gdmnet.errors import TrainingError
from gdmnet.planning.memory import step_gb
from gdmnet.training import memory

CUDA = torch.device("cuda", 0)


@pytest.fixture
def eight_gb(monkeypatch):
    """A CUDA device of 8 GB, of which 7 were held."""
    monkeypatch.setattr(memory, "memory_gb", lambda device: 8.0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 * 2**30)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 7.5 * 2**30)


def test_features_as_a_loss_are_counted_as_features_as_a_drift(make_configuration):
    configuration = make_configuration()
    size = configuration.architecture, configuration.patch_size, configuration.batch_size

    def predicted(objective, **options):
        return memory.predicted_gb(configuration, objective, options, "bf16")

    assert predicted("regression") == predicted("regression", perceptual=0.0)
    assert predicted("regression") == step_gb(*size, "regression") < step_gb(*size, "gdm")
    assert predicted("regression", perceptual=0.1) == step_gb(*size, "gdm")
    assert predicted("gdm") == predicted("gdm", perceptual=2.0) == step_gb(*size, "gdm")
    dial = predicted("gdm", perceptual=2.0, realism_dial=True)
    assert dial == step_gb(*size, "gdm", twin=True)


def test_a_device_that_is_too_small_is_named_in_one_line(eight_gb, caplog):
    with memory.memory_watched(6.0, CUDA):  # (.6 + 6.6) / .95 = 7.6
        assert caplog.messages == []
    with memory.memory_watched(6.5, CUDA):  # (.6 + 7.15) / .95 = 8.2
        (line,) = caplog.messages
    assert "need a device of 8.2 GB, and cuda:0 has 8.0" in line
    assert line.endswith("plan with --memory 8")


def test_no_more_memory_is_advised_than_there_is(eight_gb, monkeypatch, caplog):
    monkeypatch.setattr(memory, "memory_gb", lambda device: 7.6)
    with memory.memory_watched(6.5, CUDA):
        assert caplog.text.rstrip().endswith("plan with --memory 7")


def test_a_cpu_is_compared_with_nothing(caplog):
    with memory.memory_watched(1e6, torch.device("cpu")):
        assert caplog.messages == []
    assert memory.PeakMemory(torch.device("cpu")).measured() == {}


def test_a_peak_is_told_once_and_where_it_rises(eight_gb, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    peak = memory.PeakMemory(CUDA)
    assert [peak.measured() for _ in range(2)] == [{"peak_gb": 7.0}] * 2
    assert caplog.messages == ["memory: steps hold 7.0 GB at their peak, the allocator 7.5"]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 8 * 2**30)
    assert peak.measured() == {"peak_gb": 8.0}
    assert len(caplog.messages) == 2


def test_running_out_of_memory_is_one_line(eight_gb):
    with pytest.raises(TrainingError) as caught, memory.memory_watched(6.5, CUDA):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB ...")
    text = str(caught.value)
    assert "\n" not in text
    assert "cuda:0 ran out of memory: it has 8.0 GB, this training held 7.0" in text
    assert "predicted to hold 6.5" in text
    assert "smaller --memory than 8" in text
