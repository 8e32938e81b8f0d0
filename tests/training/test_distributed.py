from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from training.together import (
    CPU,
    joined,
    killed,
    met_by_torchrun,
    rank_work,
    refused,
    run_apart,
    train,
)

from gdmnet.cluster import ProcessRank
from gdmnet.errors import DeviceError, GdmnetError, TrainingError
from gdmnet.objectives.ranks import mean_over_ranks, on_all_ranks
from gdmnet.training import distributed
from gdmnet.training.distributed import (
    own_device,
    require_devices,
    require_own_devices,
    run_together,
    this_process,
)

NAMES = ("regression", "regression of features", "gdm", "gdm r 0", "gan")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with each rank's weights of every objective; one team trains them all."""
    folder = tmp_path_factory.mktemp("weights")
    run_together(rank_work, 2, NAMES, folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_stay_bit_equal(name, weights):
    first, second = (torch.load(weights / f"{name}{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    if name != "gdm":
        alone = train(name, joined)
        for key, value in alone.items():
            assert torch.allclose(first[key], value, atol=1e-6), key


def test_what_the_user_can_mend_comes_through_as_one_line(tmp_path):
    with pytest.raises(GdmnetError, match="case x: is not as it must be"):
        run_together(refused, 2, tmp_path)


def test_a_killed_process_is_told_and_hangs_nobody(tmp_path):
    with pytest.raises(TrainingError, match="training process 1 was killed by signal 9"):
        run_together(killed, 2, tmp_path)


def test_a_training_that_torchrun_starts_anew_finds_its_ranks_and_not_the_dead(tmp_path):
    """torchrun's agent keeps one store for all starts, and the addresses of the first in it."""
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for start in range(2):
        run_apart(met_by_torchrun, 2, store.port, start, tmp_path)
    assert len(list(tmp_path.glob("met*"))) == 4


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(DeviceError, match="10000 processes: this machine has 0 CUDA devices"):
        require_devices(10_000, torch.device("cuda"))
    with pytest.raises(
        DeviceError, match=rf"10000 processes: this machine has {os.cpu_count()} cores"
    ):
        require_devices(10_000, CPU)
    with pytest.raises(DeviceError, match="without a number"):
        require_devices(2, torch.device("cuda:1"))
    require_devices(2, CPU)


@pytest.fixture
def second_of_two(monkeypatch):
    """Be rank 1 of 2 on one machine; what it sees of CUDA is set by the call."""
    rank = ProcessRank(rank=1, n_ranks=2, local_rank=1, n_local=2, meeting="")
    monkeypatch.setattr(distributed, "_process", rank)

    def see(n_devices, uuids=("a", "b")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_devices)
        own = SimpleNamespace(uuid=uuids[1])
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: own)
        monkeypatch.setattr(distributed, "collected", lambda value: [uuids[0], value])

    return see


@pytest.mark.parametrize(("n_seen", "own"), [(1, "cuda:0"), (2, "cuda:1"), (4, "cuda:1")])
def test_a_rank_takes_the_only_device_that_it_sees_or_that_of_its_number(
    second_of_two, n_seen, own
):
    second_of_two(n_seen)
    require_devices(2, torch.device("cuda"))
    require_own_devices(torch.device("cuda"))
    assert own_device(torch.device("cuda")) == torch.device(own)
    assert own_device(CPU) == CPU


def test_ranks_that_are_shown_the_same_device_are_refused(second_of_two):
    second_of_two(1, ("a", "a"))
    with pytest.raises(DeviceError, match="2 processes have 1 CUDA devices in all"):
        require_own_devices(torch.device("cuda"))
    require_own_devices(CPU)
    second_of_two(2)
    with pytest.raises(DeviceError, match="this machine has 2 CUDA devices"):
        require_devices(3, torch.device("cuda"))


def test_a_numbered_device_is_refused_to_ranks_that_are_alone_on_their_machines(second_of_two):
    second_of_two(2)
    require_devices(1, torch.device("cuda"))
    with pytest.raises(DeviceError, match="without a number"):
        require_devices(1, torch.device("cuda:1"))


def test_alone_nothing_is_shared():
    value = torch.tensor(3.0)
    assert mean_over_ranks(value) is value
    assert on_all_ranks(condition=True, device=CPU)
    assert this_process().rank == 0
