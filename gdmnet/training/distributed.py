"""Training in several processes, one a device, here or on many machines: averaged gradients (DDP).

Every rank has its own patches, rings and random numbers, and the same weights. Rank 0 prepares,
logs and saves, the others' state of the objective included. Processes come from torchrun, from
srun, or from `run_together` (--num-gpus).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.multiprocessing.spawn import (
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from gdmnet.cluster import ProcessRank
from gdmnet.errors import DeviceError, GdmnetError, TrainingError
from gdmnet.objectives.ranks import n_ranks
from gdmnet.parallel import end_with_parent, log_to_stderr

R = TypeVar("R")

HANGS_AFTER = timedelta(minutes=10)  # a rank that others wait for so long ends them all
PATIENCE = timedelta(days=7)  # while rank 0 trains an encoder or validates
_GRACE_SECONDS = 10.0  # between asking a process to stop and killing it
_OF_THE_GROUP = ("gloo", "nccl", "connection", "timed out", "store", "peer", "socket")
_ALONE = ProcessRank(rank=0, n_ranks=1, local_rank=0, n_local=1, meeting="")
_process = _ALONE


def this_process() -> ProcessRank:
    """This process among those that train together; rank 0, which is 0 of 1 alone, leads them."""
    return _process


def own_device(device: torch.device) -> torch.device:
    """The device of this rank: the k-th CUDA device that it sees, the only one, or the CPU."""
    if _process.n_ranks == 1 or device.type != "cuda":
        return device
    return torch.device("cuda", 0 if torch.cuda.device_count() == 1 else _process.local_rank)


def devices_here(n_devices: int) -> int:
    """How many of a training's devices are this machine's."""
    return n_devices if _process.n_ranks == 1 else _process.n_local


def require_devices(n_devices: int, device: torch.device) -> None:
    """Refuse more processes on this machine than CUDA devices or cores, or a device none can share.

    Raises:
        DeviceError: with what is there.
    """
    if n_devices == 1 and _process.n_ranks == 1:
        return
    there, what = os.cpu_count() or 1, "cores"
    if device.type == "cuda":
        there, what = torch.cuda.device_count(), "CUDA devices"
        if there == 1 and _process.n_ranks > 1:  # that a launcher shows: see require_own_devices
            there = n_devices
    if n_devices > there or device.type not in ("cuda", "cpu") or device.index is not None:
        raise DeviceError(
            f"{n_devices} processes: this machine has {there} {what} for --device {device};"
            " ask for fewer, and for --device cuda without a number"
        )


def require_own_devices(device: torch.device) -> None:
    """Refuse, with a DeviceError, ranks of which two are shown the same CUDA device."""
    if _process.n_ranks > 1 and device.type == "cuda":
        found = collected(str(torch.cuda.get_device_properties(own_device(device)).uuid))
        if len(set(found)) < len(found):
            raise DeviceError(f"{len(found)} processes have {len(set(found))} CUDA devices in all")


@contextlib.contextmanager
def process_group(rank: ProcessRank | None) -> Iterator[None]:
    """Be one of several processes that train together until the block ends; None is alone.

    Raises:
        TrainingError: the others did not come, one of them ended, or one hangs.
    """
    global _process
    if rank is None:
        yield
        return
    # Several processes with all threads each would fight for the same cores.
    torch.set_num_threads(max(1, torch.get_num_threads() // rank.n_local))
    end_with_parent()
    has_nccl = torch.cuda.is_available() and distributed.is_nccl_available()  # not on Windows
    backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
    with _losses_said(rank):
        meeting = distributed.rendezvous(rank.meeting, rank.rank, rank.n_ranks, timeout=HANGS_AFTER)
        # torchrun keeps its store when it starts a training anew: the dead ranks' addresses, too.
        store = distributed.PrefixStore(f"start {rank.restarts}", next(meeting)[0])
        distributed.init_process_group(
            backend, store=store, rank=rank.rank, world_size=rank.n_ranks, timeout=HANGS_AFTER
        )
        _process = rank
        try:
            if rank.rank > 0:  # rank 0 says it for all
                logging.disable(logging.WARNING)
            yield
        finally:
            logging.disable(logging.NOTSET)
            _process = _ALONE
            _patient_group.cache_clear()
            distributed.destroy_process_group()


@contextlib.contextmanager
def _losses_said(rank: ProcessRank) -> Iterator[None]:
    """One line in place of the traceback of a broken connection."""
    try:
        yield
    except GdmnetError:
        raise
    except RuntimeError as problem:
        if not any(word in str(problem).lower() for word in _OF_THE_GROUP):
            raise
        first = str(problem).strip().splitlines()[0]
        raise TrainingError(
            f"rank {rank.rank} of {rank.n_ranks}: another process of this training ended, hangs or"
            f" never came ({first:.120}); its own output says why; go on with --continue"
        ) from None


def made_by_leader(make: Callable[[], R], *, patient: bool = True) -> R:
    """What rank 0 makes, on every rank; the others wait as long as that takes if `patient`.

    Raises:
        GdmnetError: what `make` raised, on rank 0; the others end without a word.
    """
    if n_ranks() == 1:
        return make()
    box: list[Any] = [None, None]
    if _process.rank == 0:
        try:
            box[0] = make()
        except GdmnetError as error:
            box[1] = error
    distributed.broadcast_object_list(box, src=0, group=_patient_group() if patient else None)
    if box[1] is None:
        return box[0]
    raise box[1] if _process.rank == 0 else SystemExit(2)


def collected(value: R) -> list[R]:
    """Every rank's value, in order, on every rank; they wait for the slowest one."""
    if n_ranks() == 1:
        return [value]
    values: list[Any] = [None] * n_ranks()
    distributed.all_gather_object(values, value, group=_patient_group())
    return values


@cache
def _patient_group() -> Any:  # noqa: ANN401
    """Of all ranks, which may wait for days; made once a training, by all together."""
    return distributed.new_group(backend="gloo", timeout=PATIENCE)


def run_together(function: Callable[..., None], n_processes: int, *args: object) -> None:
    """Call `function(*args)` in so many processes of this machine that can talk to each other.

    They end with this process, whatever ends it, and all end when one of them fails. The function
    is importable by name, its arguments can be pickled.

    Raises:
        GdmnetError: what the first process that failed raised, if the user can mend it.
        TrainingError: any other failure, with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        arguments = (function, n_processes, meeting, args)
        together = start_processes(
            _run_one, arguments, n_processes, join=False, start_method="spawn"
        )
        try:
            while not together.join():
                pass
        except (ProcessRaisedException, ProcessExitedException) as problem:
            raise _failure(together.processes, Path(f"{meeting}.error"), problem) from None
        finally:
            end_processes(together.processes)


def _failure(processes: Sequence[BaseProcess], error: Path, problem: Exception) -> GdmnetError:
    """What ended the training: a killed process, rather than what that did to the others."""
    for rank, process in enumerate(processes):
        number = -(process.exitcode or 0)
        if number > 0 and number != signal.SIGTERM:  # which ends the others
            return TrainingError(
                f"training process {rank} was killed by signal {number}; most often"
                " memory ran out: use fewer devices or a smaller patch; go on with --continue"
            )
    if error.is_file():
        return GdmnetError(error.read_text(encoding="utf-8"))
    return TrainingError(f"a training process ended: {problem}")


def end_processes(processes: Iterable[BaseProcess]) -> None:
    """End those that still run, and wait for that: by force after ten seconds."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(_GRACE_SECONDS)
        if process.is_alive():
            process.kill()


def _run_one(
    rank: int,
    function: Callable[..., None],
    n_processes: int,
    meeting: Path,
    args: tuple[object, ...],
) -> None:
    log_to_stderr()
    try:
        with process_group(ProcessRank(rank, n_processes, rank, n_processes, f"file://{meeting}")):
            function(*args)
            distributed.barrier()
    except GdmnetError as error:
        first = Path(f"{meeting}.error")
        with contextlib.suppress(FileExistsError), first.open("x", encoding="utf-8") as handle:
            handle.write(str(error))
        raise
    # torch's and gloo's threads sometimes outlive the interpreter and abort the process at its very
    # end (seen with 2.13 on a busy machine); all that had to be written is written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def gathered(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Every rank's state, in order, on rank 0; elsewhere an empty list."""
    if n_ranks() == 1:
        return [state]
    states: list[Any] | None = [None] * n_ranks() if distributed.get_rank() == 0 else None
    distributed.gather_object(state, states)
    return states or []
