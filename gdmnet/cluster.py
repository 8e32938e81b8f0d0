"""Which of several processes this one is, as torchrun, srun or a SLURM array says it; no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gdmnet.errors import GdmnetError

_FIRST_PORT, _PORTS = 20_000, 20_000  # where the processes of a SLURM step meet, by the job's id


class ClusterError(GdmnetError):
    """A launcher's environment that does not say which process this is."""


@dataclass(frozen=True)
class ProcessRank:
    """One process of a training that several share; all numbers count from 0."""

    rank: int
    n_ranks: int
    local_rank: int  # on its machine: which device is its own
    n_local: int  # processes on this machine, which share its cores
    meeting: str  # where all find each other, as torch.distributed's `init_method`
    restarts: int = 0  # by the launcher, after failures


def rank_from_environment(environment: Mapping[str, str] = os.environ) -> ProcessRank | None:
    """This process's rank under torchrun or srun; None where nobody else trains along.

    Raises:
        ClusterError: a number is missing or is none.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank = _torchrun(environment)
    elif "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        rank = _srun(environment)
    else:  # also the batch script of a SLURM job, which is no task of a step
        return None
    if not 0 <= rank.rank < rank.n_ranks or not 0 <= rank.local_rank < rank.n_local:
        raise ClusterError(f"the launcher's environment contradicts itself: {rank}")
    return rank if rank.n_ranks > 1 else None


def is_first_rank() -> bool:
    """Whether this process speaks for all that train together; alone it does."""
    rank = rank_from_environment()
    return rank is None or rank.rank == 0


def part_from_environment(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which part of the cases this process does, from 0, and of how many: (0, 1) for all.

    The tasks of a SLURM array, or of one srun, share the cases.

    Raises:
        ClusterError: a number is missing or is none, or the array has gaps.
    """
    if "SLURM_ARRAY_TASK_ID" in environment:
        first, last, task, count = (
            _number(environment, f"SLURM_ARRAY_TASK_{name}")
            for name in ("MIN", "MAX", "ID", "COUNT")
        )
        if last - first + 1 != count:
            raise ClusterError(
                f"the SLURM array has {count} tasks from {first} to {last}: a part of the cases"
                " would be done by none; use --array=0-N without gaps"
            )
        return task - first, count
    rank = rank_from_environment(environment)
    return (0, 1) if rank is None else (rank.rank, rank.n_ranks)


def chosen_part(num_parts: int | None, part_id: int | None) -> tuple[int, int]:
    """The part that --num-parts and --part-id name, or else the launcher's.

    Raises:
        ClusterError: one without the other, or a part that is none of them.
    """
    if num_parts is None and part_id is None:
        return part_from_environment()
    if num_parts is None or not 0 <= (part_id or 0) < num_parts:
        raise ClusterError(
            f"--part-id {part_id}: must be from 0 to N - 1, and --num-parts must say N"
        )
    return part_id or 0, num_parts


def first_host(nodes: str) -> str:
    """The first machine of a SLURM list: node03 of "node[03-06,9],login1"."""
    first = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).split(",")[0]
    if not first:
        raise ClusterError(f"SLURM_JOB_NODELIST={nodes}: no machine in it")
    return first


def _torchrun(environment: Mapping[str, str]) -> ProcessRank:
    n_ranks = _number(environment, "WORLD_SIZE")
    return ProcessRank(
        rank=_number(environment, "RANK"),
        n_ranks=n_ranks,
        local_rank=_number(environment, "LOCAL_RANK"),
        n_local=_number(environment, "LOCAL_WORLD_SIZE", n_ranks),
        meeting="env://",  # its agent may hold the place already, and hands it on
        restarts=_number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
    )


def _srun(environment: Mapping[str, str]) -> ProcessRank:
    n_ranks = _number(environment, "SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS"))
    per_node = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", str(n_ranks)))
    node = _number(environment, "SLURM_NODEID", 0)
    port = _FIRST_PORT + _number(environment, "SLURM_JOB_ID", 0) % _PORTS
    port = _number(environment, "MASTER_PORT", port)
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    return ProcessRank(
        rank=_number(environment, "SLURM_PROCID"),
        n_ranks=n_ranks,
        local_rank=_number(environment, "SLURM_LOCALID"),
        n_local=per_node[min(node, len(per_node) - 1)],
        meeting=f"tcp://{environment.get('MASTER_ADDR') or first_host(nodes)}:{port}",
        restarts=_number(environment, "SLURM_RESTART_COUNT", 0),
    )


def _tasks_per_node(text: str) -> list[int]:
    """The tasks of each machine: [4, 4, 3] of SLURM's "4(x2),3"."""
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(n) for n, times in groups for _ in range(int(times or 1))] or [1]


def _number(environment: Mapping[str, str], name: str, default: int | str | None = None) -> int:
    text = environment.get(name, default)
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ClusterError(
            f"the launcher's environment has {name}={text!r}, which is no number; start with"
            " torchrun or srun"
        ) from None
