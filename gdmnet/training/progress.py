"""progress.png: the curves of a training that tell what to do; internals.png: the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from gdmnet.charts import Chart, Curve, save_charts

PROGRESS_PNG, INTERNALS_PNG = "progress.png", "internals.png"
_MOST_CURVES = 6  # of a chart: more cannot be told apart
Record = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One chart of the picture.

    Attributes:
        title: above it.
        names: log keys and their names in the legend; a key that ends in * stands for all that
            begin like it.
        logarithmic: the y axis.
        marks: dashed lines.
    """

    title: str
    names: dict[str, str]
    logarithmic: bool = False
    marks: tuple[float, ...] = ()


PANELS = (
    Panel(
        "Loss on training patches",
        {"fidelity": "fidelity", "perceptual": "perceptual", "loss": "loss"},
    ),
    Panel(
        "Validation: mean absolute error (network units)",
        {"validation_mae": "each epoch", "validation_mae_smoothed": "smoothed; circle: best"},
    ),
    Panel(
        "Validation: sharpness (1 is the target's, 1.1 suspect)",
        {"validation_sharpness": "sharpness"},
        marks=(1.0, 1.1),
    ),
    Panel(
        "Validation: distance from the targets' look",
        {
            "validation_spectrum_distance": "spectrum (dB)",
            "validation_gradient_w1": "gradients",
            "validation_histogram_w1": "histogram",
        },
        logarithmic=True,
    ),
)
INTERNALS = (
    Panel(
        "Gradient norms",
        {"gradient_norm": "weights", "norm_fidelity": "fidelity", "norm_drift": "drift"},
        logarithmic=True,
    ),
    Panel("Drift against fidelity", {"cos*": "cosine", "conflict": "conflict share"}, marks=(0.0,)),
    Panel("Drift: force by level", {"force*": "force"}, logarithmic=True),
    Panel(
        "Generator against critic (1/4 each: undecided)",
        {"adversarial": "generator", "critic": "critic"},
        marks=(0.25,),
    ),
    Panel("Learning rate", {"learning_rate": "learning rate"}),
    Panel("Seconds an epoch", {"seconds": "seconds"}),
)


def draw_progress(records: list[Record], path: Path, *, more: Sequence[Chart] = ()) -> None:
    """Draw the log's curves, what a user can act on apart from the rest; empty panels are left out.

    Args:
        records: of `log.read`, one an epoch.
        path: of the picture; `INTERNALS_PNG` beside it holds the rest, where there is any.
        more: charts that come after the first ones.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    heading = _heading(records)
    shown, internal = (
        [chart for panel in panels if (chart := _panel_chart(panel, records)).curves]
        for panels in (PANELS, INTERNALS)
    )
    save_charts([*shown, *more], path, heading=heading, n_columns=2)
    if internal:
        save_charts(internal, path.with_name(INTERNALS_PNG), heading=heading, n_columns=3)


def _panel_chart(panel: Panel, records: list[Record]) -> Chart:
    keys = sorted({key for record in records for key in record})
    curves = []
    for pattern, name in panel.names.items():
        stem = pattern.rstrip("*")
        matching = [k for k in keys if k == pattern or (stem != pattern and k.startswith(stem))]
        for key in matching:
            points = [(float(r["epoch"]), _value(r.get(key))) for r in records]
            if any(math.isfinite(y) for _, y in points):
                curves.append(Curve(f"{name}{key[len(stem) :]}".replace("_", " "), points))
    star = _best(records) if "validation_mae_smoothed" in panel.names else None
    return Chart(panel.title, curves[:_MOST_CURVES], panel.logarithmic, panel.marks, star)


def _best(records: list[Record]) -> tuple[float, float] | None:
    best = [record for record in records if record.get("best")]
    if not best:
        return None
    return float(best[-1]["epoch"]), _value(best[-1].get("validation_mae_smoothed"))


def _heading(records: list[Record]) -> str:
    if not records:
        return "no epoch is finished yet"
    last, best = records[-1], _best(records)
    seconds = timedelta(seconds=round(sum(record.get("seconds") or 0 for record in records)))
    words = [f"epoch {last['epoch']} of {last['epochs']}", f"step {last.get('step')}"]
    words += [f"skipped steps {last.get('skipped')}", str(seconds)]
    if best is not None:
        words.append(f"best epoch {best[0]:.0f}: smoothed MAE {best[1]:.4g}")
    return "   ".join(words)


def _value(value: Any) -> float:  # noqa: ANN401
    return float(value) if isinstance(value, (int, float)) else math.nan
