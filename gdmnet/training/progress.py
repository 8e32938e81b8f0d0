"""progress.png: a validation case and the curves that tell what to do; internals.png: others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from gdmnet.charts import Chart, Curve, Picture, save_charts
from gdmnet.training.log import short, unit_of

PROGRESS_PNG, INTERNALS_PNG = "progress.png", "internals.png"
_MOST_CURVES = 6  # of a chart: more cannot be told apart
Record = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One chart of the picture; what is not explained is as in a `Chart`."""

    title: str
    names: dict[str, str]  # log keys, of which "cos*" stands for all that begin so, to legends
    logarithmic: bool = False
    marks: tuple[float, ...] = ()


PANELS = (
    Panel(
        "Loss on training patches",
        {"fidelity": "fidelity", "perceptual": "perceptual", "loss": "loss"},
    ),
    Panel(
        "Validation: mean absolute error (UNIT)",
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


def draw_progress(
    records: list[Record], path: Path, title: str = "", pictures: Sequence[Picture] = ()
) -> None:
    """Draw a validation case with a title, and below it the curves that a user can act on.

    Records are those of `log.read`, one an epoch; panels without numbers are left out.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    unit, records = _in_file_units(records)
    heading = "\n".join(filter(None, (_heading(records, unit), title)))
    save_charts(_charts(PANELS, records, unit), path, heading=heading, n_columns=2, above=pictures)


def draw_internals(records: list[Record], path: Path, *, more: Sequence[Chart] = ()) -> None:
    """Draw the curves that explain a training, then more charts; otherwise as `draw_progress`."""
    unit, records = _in_file_units(records)
    charts = [*_charts(INTERNALS, records, unit), *more]
    save_charts(charts, path, heading=_heading(records, unit), n_columns=3)


def _in_file_units(records: list[Record]) -> tuple[str, list[Record]]:
    """The unit of errors, and the records with the validation's errors in it."""
    unit, scale = unit_of(records[-1]) if records else ("", 1.0)
    errors = ("validation_mae", "validation_mae_smoothed")
    scaled = [{k: r[k] * scale for k in errors if r.get(k) is not None} for r in records]
    return unit, [r | own for r, own in zip(records, scaled, strict=True)]


def _charts(panels: Sequence[Panel], records: list[Record], unit: str) -> list[Chart]:
    charts = (_panel_chart(panel, records, unit) for panel in panels)
    return [chart for chart in charts if chart.curves]


def _panel_chart(panel: Panel, records: list[Record], unit: str) -> Chart:
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
    title = panel.title.replace("UNIT", unit)
    return Chart(title, curves[:_MOST_CURVES], panel.logarithmic, panel.marks, star)


def _best(records: list[Record]) -> tuple[float, float] | None:
    best = [record for record in records if record.get("best")]
    if not best:
        return None
    return float(best[-1]["epoch"]), _value(best[-1].get("validation_mae_smoothed"))


def _heading(records: list[Record], unit: str) -> str:
    if not records:
        return "no epoch is finished yet"
    last, best = records[-1], _best(records)
    seconds = timedelta(seconds=round(sum(record.get("seconds") or 0 for record in records)))
    words = [f"epoch {last['epoch']} of {last['epochs']}", f"step {last.get('step')}"]
    words += [f"skipped steps {last['skipped']}"] if last.get("skipped") else []
    words.append(f"{seconds} h")
    if best is not None:
        words.append(f"best epoch {best[0]:.0f}: smoothed MAE {short(best[1])} {unit}")
    return "   ".join(words)


def _value(value: Any) -> float:  # noqa: ANN401
    return float(value) if isinstance(value, (int, float)) else math.nan
