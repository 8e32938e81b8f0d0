"""What the plans of GPUs predict that a training step takes, beside a step on fake CUDA tensors.

    python documentation/benchmarks/simulated_memory.py --memory 8 24 40 80 -o table.md

A row is one plan trained in one way: GB planned for, patch, batch, GiB that tensors hold at the
peak of a step, predicted and simulated (tests/fakecuda), and GB that a device then needs, with what
CUDA and its allocator take. No GPU is needed, but g++; two minutes on one core a memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from fakecuda import fake_cuda

from gdmnet.commands.terminal import guarded, new_parser
from gdmnet.errors import DatasetError
from gdmnet.plan import Configuration
from gdmnet.planning.memory import device_gb_for
from gdmnet.planning.table import times
from gdmnet.training.memory import predicted_gb

Options = dict[str, object]
TRAININGS: dict[str, tuple[str, Options]] = {
    name: (name, {}) for name in ("regression", "gdm", "gan")
}
TRAININGS |= {"gdm, dial": ("gdm", {"realism_dial": True})}
TRAININGS |= {"perceptual": ("regression", {"perceptual": 0.1})}
TRAININGS |= {"gdm, perceptual": ("gdm", {"perceptual": 0.1})}
TRAININGS |= {"gdm, perceptual, dial": ("gdm", {"perceptual": 0.1, "realism_dial": True})}
HEADER = """| data | GB | patch | batch | training | predicted | simulated | error | device |
|---|---|---|---|---|---|---|---|---|"""


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = new_parser(__doc__ or "")
    parser.add_argument("--memory", nargs="+", type=float, default=[8.0, 24.0, 40.0, 80.0])
    parser.add_argument("--patients", nargs="+", default=[*fake_cuda.PATIENTS])
    parser.add_argument("--trainings", nargs="+", default=[*TRAININGS], choices=TRAININGS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        library = fake_cuda.build(Path(scratch))
        if library is None:
            raise DatasetError("no g++, or a torch that it does not fit: nothing can be simulated")
        plans = {
            (patient, memory): fake_cuda.planned(patient, memory)
            for patient in args.patients
            for memory in args.memory
        }
        rows = [(*where, plan, name) for where, plan in plans.items() for name in args.trainings]
        jobs = [fake_cuda.job(plan, *TRAININGS[name]) for _, _, plan, name in rows]
        found = fake_cuda.run_steps(library, jobs, Path(scratch))
    lines = [_row(*row, step["peak"]) for row, step in zip(rows, found, strict=True)]
    args.output.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return 0


def _row(patient: str, memory: float, plan: Configuration, name: str, peak: int) -> str:
    predicted = predicted_gb(plan, *TRAININGS[name], "bf16")
    simulated = peak / 2**30
    cells = [
        patient,
        f"{memory:g}",
        times(plan.patch_size),
        str(plan.batch_size),
        name,
        f"{predicted:.2f}",
        f"{simulated:.2f}",
        f"{predicted / simulated - 1:+.1%}",
        f"{device_gb_for(simulated):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
