"""What a fold's training is: its run.json, which nothing rewrites, and what was decided later."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gdmnet import codec
from gdmnet.folders import RUN_JSON
from gdmnet.plan import Run

CONTINUED_JSON, DIAL_JSON = "continued.json", "dial.json"


@dataclass(frozen=True)
class Computation:
    """What a continued training may do otherwise than it began: how it computes."""

    precision: str
    device: str
    n_threads: int
    n_workers: int

    @classmethod
    def of(cls, run: Run) -> Computation:
        """How a run computes."""
        return cls(run.recipe.precision, run.device, run.n_threads, run.n_workers)


@dataclass(frozen=True)
class DialChoice:
    """The dial's setting T that a validation chose, and the share of the twin's MAE it may cost."""

    realism: float
    fidelity_budget: float


def read_run(fold: Path) -> Run:
    """The training of a fold as it last was.

    Args:
        fold: its folder, with run.json; with continued.json if it was continued otherwise than it
            began; with dial.json if its validation chose a setting of the realism dial (models of
            before have that in run.json).

    Raises:
        PlanError: a file is missing, damaged or of another version.
    """
    run = codec.load(Run, fold / RUN_JSON)
    if (fold / CONTINUED_JSON).is_file():
        now = asdict(codec.load(Computation, fold / CONTINUED_JSON))
        recipe = replace(run.recipe, precision=now.pop("precision"))
        run = replace(run, recipe=recipe, **now)
    if (fold / DIAL_JSON).is_file():
        run = replace(run, realism=codec.load(DialChoice, fold / DIAL_JSON).realism)
    return run
