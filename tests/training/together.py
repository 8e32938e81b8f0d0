"""What the ranks of the distributed tests do: spawned processes import it by name."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from datetime import timedelta

import torch
from objectives.small import CountingEncoder, make_batch, make_context, small_generator

from gdmnet.cluster import rank_from_environment
from gdmnet.errors import GdmnetError
from gdmnet.objectives.base import Batch
from gdmnet.objectives.build import OBJECTIVES
from gdmnet.objectives.ranks import mean_over_ranks, n_ranks, on_all_ranks
from gdmnet.plan import Recipe
from gdmnet.training import distributed
from gdmnet.training.distributed import this_process
from gdmnet.training.step import GeneratorOptimizer

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=1, iterations=5, learning_rate=1e-2)
N_STEPS = 5


def masked_batch(step: int, rank: int) -> Batch:
    """A batch of one rank; the ranks' masks differ in size."""
    batch = make_batch(10 * step + rank)
    mask = batch.mask.clone()
    mask[..., : 3 + 4 * rank] = 0
    return dataclasses.replace(batch, mask=mask)


def joined(step: int) -> Batch:
    both = [masked_batch(step, rank) for rank in range(2)]
    return Batch(
        *(torch.cat([getattr(b, name) for b in both]) for name in ("source", "target", "mask"))
    )


def train(name: str, batches) -> dict[str, torch.Tensor]:
    options = {
        "gdm": {"locations": 32, "bank": 32, "regression_share": 0.0},
        "gdm r 0": {"locations": 32, "bank": 32, "drift_ratio": 0.0, "perceptual": 2.0},
        "regression of features": {"perceptual": 2.0},
        "gan": {"adversarial": 1.0},
    }
    context = make_context(N_STEPS, encoder=CountingEncoder(), **options.get(name, {}))
    objective = OBJECTIVES[name.split()[0]](context)
    stepper = GeneratorOptimizer(small_generator(), RECIPE, CPU)
    for step in range(N_STEPS):
        descent = objective.descend(stepper.trained, batches(step), torch.Generator())
        stepper.step(descent, step)
    critics = objective.modules().items() if name == "gan" else ()
    own = {f"{key}.{k}": v for key, part in critics for k, v in part.state_dict().items()}
    return stepper.generator.state_dict() | own


def rank_work(names: tuple[str, ...], folder) -> None:
    rank = this_process().rank
    assert n_ranks() == 2
    assert float(mean_over_ranks(torch.tensor(float(rank)))) == 0.5
    assert not on_all_ranks(condition=rank == 0, device=CPU)
    for name in names:
        weights = train(name, lambda step: masked_batch(step, rank))
        torch.save(weights, folder / f"{name}{rank}.pt")


def refused(folder) -> None:
    raise GdmnetError("case x: is not as it must be; mend it")


def killed(folder) -> None:
    if this_process().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    on_all_ranks(condition=True, device=CPU)


def run_apart(function, n_processes, *args) -> None:
    """`function(rank, *args)` in processes that no `run_together` has joined."""
    torch.multiprocessing.spawn(function, args, nprocs=n_processes)


def met_by_torchrun(rank, port, start, folder) -> None:
    """Join the group as a process of torchrun's start-th start; rank 1 comes late."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(start)}
    distributed.HANGS_AFTER = timedelta(seconds=30)
    time.sleep(rank * start * 3)
    with distributed.process_group(rank_from_environment()):
        assert on_all_ranks(condition=True, device=CPU)
        (folder / f"met{start}{rank}").touch()


def endless_but_one(fold, device, where, answers):
    """In the place of a fold's training, in its process."""
    if fold == "1":
        answers.put("no memory")
        sys.exit(2)
    time.sleep(600)
