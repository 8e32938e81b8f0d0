"""Training on several devices of one machine: a process a device, gradients averaged (torch DDP).

Every rank has its own patches, rings and random numbers, and the same weights. Rank 0 validates,
logs and saves, the others' state of the objective included.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import (
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)
from torch.nn.parallel import DistributedDataParallel

from gdmnet.errors import DeviceError, GdmnetError, TrainingError
from gdmnet.objectives.ranks import n_ranks


@dataclasses.dataclass(frozen=True)
class TrainingProcess:
    """This process among those that train together."""

    rank: int = 0
    n_processes: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process validates, logs and saves."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The device of this rank: the k-th CUDA device, or the CPU that all share."""
        if self.n_processes == 1:
            return device
        return torch.device("cuda", self.rank) if device.type == "cuda" else device


def this_process() -> TrainingProcess:
    """This process's rank; 0 of 1 without a distributed training."""
    if n_ranks() == 1:
        return TrainingProcess()
    return TrainingProcess(distributed.get_rank(), n_ranks())


def require_devices(n_devices: int, device: torch.device) -> None:
    """Refuse more processes than there are CUDA devices, or a device that cannot be shared out.

    Raises:
        DeviceError: with what is there.
    """
    if n_devices == 1:
        return
    there = torch.cuda.device_count() if device.type == "cuda" else n_devices
    if n_devices > there or device.type not in ("cuda", "cpu") or device.index is not None:
        raise DeviceError(
            f"--num-gpus {n_devices}: this machine has {there} CUDA devices for --device {device};"
            " ask for fewer, and for --device cuda without a number"
        )


def run_together(function: Callable[..., None], n_processes: int, *args: object) -> None:
    """Call `function(*args)` in so many processes that can talk to each other.

    Args:
        function: importable by name.
        n_processes: of them.
        args: can be pickled.

    Raises:
        GdmnetError: what the first process that failed raised, if the user can mend it.
        TrainingError: any other failure, with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        try:
            start_processes(
                _run_one, (function, n_processes, meeting, args), n_processes, start_method="spawn"
            )
        except ProcessRaisedException as problem:
            error = Path(f"{meeting}.error")
            if error.is_file():
                raise GdmnetError(error.read_text(encoding="utf-8")) from None
            raise TrainingError(f"a training process failed: {problem}") from None
        except ProcessExitedException as problem:
            raise TrainingError(
                f"a training process died ({problem}); most often memory ran out: use fewer devices"
                " or a smaller patch"
            ) from None


def _run_one(
    rank: int,
    function: Callable[..., None],
    n_processes: int,
    meeting: Path,
    args: tuple[object, ...],
) -> None:
    # One thread a process: several would fight for the same cores.
    torch.set_num_threads(max(1, torch.get_num_threads() // n_processes))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=n_processes
    )
    try:
        if rank > 0:  # rank 0 says it for all
            logging.disable(logging.WARNING)
        function(*args)
        distributed.barrier()
    except GdmnetError as error:
        Path(f"{meeting}.error").write_text(str(error), encoding="utf-8")
        raise
    finally:
        distributed.destroy_process_group()
    # torch's and gloo's threads sometimes outlive the interpreter and abort the process at its very
    # end (seen with 2.13 on a busy machine); all that had to be written is written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def averaged_over_ranks(generator: nn.Module, device: torch.device) -> nn.Module:
    """The generator, wrapped so that a backward averages its gradients over the ranks."""
    if n_ranks() == 1:
        return generator
    return DistributedDataParallel(generator, [device] if device.type == "cuda" else None)


def from_leader(values: list[float], device: torch.device) -> list[float]:
    """Rank 0's numbers on every rank."""
    if n_ranks() == 1:
        return values
    packed = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.broadcast(packed, src=0)
    return [float(value) for value in packed]


def gathered(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Every rank's state, in order, on rank 0; elsewhere an empty list."""
    if n_ranks() == 1:
        return [state]
    states: list[Any] | None = [None] * n_ranks() if distributed.get_rank() == 0 else None
    distributed.gather_object(state, states)
    return states or []
