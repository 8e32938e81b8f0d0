"""CPU seconds of a training step at a plan's own size, by objective and by how gdm pairs.

    taskset -c 0 python documentation/benchmarks/step_cost.py PREPARED -n 10

PREPARED is a dataset's folder among the preprocessed. All take turns at the same batch, which is in
memory already: forward, encoder, drift, backward, optimiser and weight average. The first rounds
fill gdm's banks and do not count; ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rivals import FILLING

from gdmnet import codec, folders
from gdmnet.commands.terminal import guarded, new_parser, positive_int
from gdmnet.data.store import open_case
from gdmnet.drifting.pairing import PAIRINGS
from gdmnet.encoders import build_encoder
from gdmnet.models.precision import PRECISIONS, autocast
from gdmnet.objectives.base import Batch, Context, Inputs
from gdmnet.objectives.build import OBJECTIVES, generator_of
from gdmnet.plan import Configuration, Plan, Recipe
from gdmnet.training.batches import Batches
from gdmnet.training.step import GeneratorOptimizer

STEPS = 1000  # a training's length; only schedules look at it
DRIFTING = {"regression_share": 0.0}  # from the first step: as in the last 80 % of a training
RUNS: dict[str, tuple[str, dict[str, Any]]] = {"regression": ("regression", {})}
RUNS |= {f"gdm, {name}": ("gdm", {**DRIFTING, "pairing": name}) for name in PAIRINGS}
RUNS["gdm, perceptual"] = ("gdm", {**DRIFTING, "perceptual": 2.0})


def make_step(
    configuration: Configuration, batch: Batch, objective: str, options: Mapping[str, Any]
) -> Callable[[str], None]:
    """A training without its loop's checkpoints and logs, as `training.loop` steps it.

    The step takes the precision. The encoder's weights are random: its work is the same.
    """
    encoder = build_encoder("random", weights=None, configuration=configuration)
    context = Context(configuration, dict(options), total_steps=STEPS, encoder=encoder)
    built, device = OBJECTIVES[objective](context), torch.device("cpu")
    torch.manual_seed(0)
    generator = generator_of(configuration, Inputs()).train()
    optimizer = GeneratorOptimizer(generator, Recipe(epochs=1, iterations=STEPS), device)
    rng, numbers = torch.Generator(), iter(range(STEPS))

    def step(precision: str) -> None:
        with autocast(precision, device):
            descent = built.descend(optimizer.trained, batch, rng)
        optimizer.step(descent, next(numbers))

    return step


def measure(steps: Mapping[str, Callable[[str], None]], precision: str, n: int) -> list[str]:
    """The lines of a table: seconds of each step, and its ratio to the first one's beside it."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-FILLING, n):
        for name, step in steps.items():
            begun = time.process_time()
            step(precision)
            if turn >= 0:
                seconds[name].append(time.process_time() - begun)
    first = next(iter(seconds.values()))
    lines = [f"| step in {precision} | CPU s | over {next(iter(seconds))}'s |", "|---|---|---|"]
    for name, own in seconds.items():
        ratio = median(cost / other for cost, other in zip(own, first, strict=True))
        lines.append(f"| {name} | {median(own):.3f} | {ratio:.3f} |")
    return lines


def build_parser() -> argparse.ArgumentParser:
    """Of the measurement."""
    parser = new_parser(__doc__ or "")
    parser.add_argument("prepared", type=Path)
    parser.add_argument("-c", dest="configuration", default="3d_fullres")
    parser.add_argument("-n", dest="rounds", type=positive_int, default=10)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        plan = codec.load(Plan, args.prepared / folders.PLAN_JSON)
        configuration = plan.configuration(args.configuration)
        place = args.prepared / configuration.name
        cases = [open_case(place, path.parent.name) for path in sorted(place.glob("*/case.json"))]
        batch = Batches(cases, configuration, seed=0, augment=True).batch(0, 0)
        steps = {name: make_step(configuration, batch, *run) for name, run in RUNS.items()}
        size = " x ".join(map(str, configuration.patch_size))
        print(f"{plan.dataset}: {configuration.batch_size} patches of {size}\n")
        print("\n".join(measure(steps, args.precision, args.rounds)))
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
