from __future__ import annotations

import os

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

from gdmnet.errors import DeviceError, GdmnetError, TrainingError
from gdmnet.objectives.ranks import mean_over_ranks, on_all_ranks
from gdmnet.training.distributed import require_devices, run_together, this_process

NAMES = ("regression", "gdm", "gdm r 0", "gan")


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


def test_alone_nothing_is_shared():
    value = torch.tensor(3.0)
    assert mean_over_ranks(value) is value
    assert on_all_ranks(condition=True, device=CPU)
    assert this_process().rank == 0
