"""How long a comparison will take, measured before anything long begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gdmnet.compare.bench import Bench
from gdmnet.compare.costs import n_windows
from gdmnet.compare.pace import N_STEPS, Pace, Steps, measure, probe, steps_of
from gdmnet.compare.study import SLAB
from gdmnet.compare.variant import Method, Variant
from gdmnet.compare.work import is_predicted
from gdmnet.data.volume import read_geometry

_NOT_COUNTED = "; feature encoder and judge take about a minute each, and the scores their time"


@dataclass(frozen=True)
class Estimate:
    """What is left to do for one variant.

    Attributes:
        name: of the variant.
        length: epochs and steps an epoch.
        pace: that was measured.
        n_folds: left to train.
        training: seconds.
        prediction: seconds.
    """

    name: str
    length: tuple[int, int]
    pace: Pace
    n_folds: int
    training: float
    prediction: float


def look(bench: Bench, variants: Sequence[Variant]) -> dict[str, Steps | None]:
    """The steps of each variant, None without a sampler; complains of options it does not know.

    Raises:
        TrainingError: an unknown option, or a value out of range.
    """
    fold = bench.settings.folds[0]
    objectives = {v.name: probe(bench.job(v, fold))[1] for v in variants}
    return {name: steps_of(objective) for name, objective in objectives.items()}


def estimate(
    bench: Bench,
    steps: Mapping[str, Steps | None],
    work: Mapping[Method, Sequence[str]],
) -> list[Estimate]:
    """Measure every variant that has something left to do.

    Args:
        bench: of the comparison.
        steps: of `look`.
        work: method -> the scopes it is judged on.
    """
    found = []
    for variant in dict.fromkeys(method.variant for method in work):
        folds = [f for f in bench.settings.folds if not bench.is_trained(variant, f)]
        missing = [
            (method, scope)
            for method, scopes in work.items()
            for scope in scopes
            if method.variant == variant and not is_predicted(bench, method, scope)
        ]
        if not folds and not missing:
            continue
        pace = measure(*probe(bench.job(variant, bench.settings.folds[0])))
        length = length_of(bench, variant, pace)
        calls = sum(
            _windows(bench, scope) * _calls(method, steps[variant.name], pace)
            for method, scope in missing
        )
        found.append(
            Estimate(
                name=variant.name,
                length=length,
                pace=pace,
                n_folds=len(folds),
                training=len(folds) * pace.training(*length),
                prediction=calls * pace.call,
            )
        )
    return found


def length_of(bench: Bench, variant: Variant, pace: Pace) -> tuple[int, int]:
    """Epochs and steps an epoch: as begun, else what the budget gives."""
    begun = bench.begun(variant)
    if begun is not None:
        return begun
    settings = bench.settings
    if settings.minutes is not None:
        return pace.length(60 * settings.minutes, settings.iterations)
    return settings.epochs or 1, settings.iterations


def told(estimates: Sequence[Estimate], device: str) -> str:
    """The estimate as text."""
    if not estimates:
        return "estimated time: everything is trained and predicted already"
    rows = [("variant", "training", "prediction")]
    for one in estimates:
        epochs, iterations = one.length
        training = "there already"
        if one.n_folds:
            folds = f"{one.n_folds} x " if one.n_folds > 1 else ""
            steps = f"{folds}{epochs * iterations} steps at {one.pace.step:.2g} s"
            training = f"{steps}: {_time(one.training)}"
        rows.append((one.name, training, _time(one.prediction)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    total = sum(one.training + one.prediction for one in estimates)
    return "\n".join(
        [
            *(line.rstrip() for line in lines),
            f"estimated time: {_time(total)} on {device}, from {N_STEPS} steps of each and one"
            f" window{_NOT_COUNTED}",
        ]
    )


def _calls(method: Method, steps: Steps | None, pace: Pace) -> int:
    """Network calls of one window."""
    return pace.calls if method.steps is None or steps is None else method.steps * steps.calls


def _windows(bench: Bench, scope: str) -> int:
    """Windows of all held-out cases and folds, at most."""
    settings, slab = bench.settings, bench.slab if scope == SLAB else None
    configuration = bench.plan.configuration(settings.configuration)
    n = 0
    for group in bench.held_out.groups:
        for case in group.cases:
            geometry = read_geometry(case.sources[0])
            if slab is not None:
                z, y, x = geometry.shape
                geometry = replace(geometry, shape=(min(z, slab), y, x))
            n += len(group.folds) * n_windows(geometry, configuration, settings.step_size)
    return n


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
