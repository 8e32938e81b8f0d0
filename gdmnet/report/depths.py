"""Depths of beams and regions, as gdm_evaluate --wepl --regions measures them, as compact tables.

A depth is an error in water-equivalent path length in mm, a region a label of a label map.
"""

from __future__ import annotations

import re

from gdmnet.metrics.statistics import Values
from gdmnet.metrics.titles import title_of
from gdmnet.report.figures import html_table
from gdmnet.table import cell_text

_DEPTH = re.compile(r"wepl_(bias|p95|region_(?P<label>\d+))_(?P<angle>-?[\d.]+)")
_REGION = re.compile(r"(?P<metric>mae|bias|dice)_(region_)?(?P<label>\d+)")
_DECIMALS = {"mae": 1, "bias": 1, "dice": 3}


def is_of_section(metric: str) -> bool:
    """Whether a metric stands in these tables, and needs no column among all metrics."""
    return bool(_DEPTH.fullmatch(metric) or _REGION.fullmatch(metric))


def depth_tables(values: Values, unit: str) -> str:
    """The tables of `depth_rows` and `region_rows` in HTML."""
    tables = depth_rows(values), region_rows(values, unit)
    return "".join(f'<div class="scroll">{html_table(rows)}</div>' for rows in tables if rows)


def depth_rows(values: Values) -> list[list[str]]:
    """Titles, then a row a gantry angle; nothing without depths. Values are a case's or means."""
    found = [match for name in values if (match := _DEPTH.fullmatch(name))]
    angles = dict.fromkeys(match["angle"] for match in found)
    labels = dict.fromkeys(match["label"] for match in found if match["label"])
    heads = ["gantry angle [degrees]", "mean [mm]", "p95 [mm]"]
    heads += [f"to centre of region {label} [mm]" for label in labels]
    kinds = ["bias", "p95", *(f"region_{label}" for label in labels)]
    rows = [
        [angle, *(cell_text(values.get(f"wepl_{kind}_{angle}"), 1) for kind in kinds)]
        for angle in angles
    ]
    return [heads, *rows] if rows else []


def region_rows(values: Values, unit: str) -> list[list[str]]:
    """Titles, then a row a region; nothing without regions. Values are a case's or means."""
    found = {name: match for name in values if (match := _REGION.fullmatch(name))}
    labels = dict.fromkeys(match["label"] for match in found.values())
    known = {(match["metric"], match["label"]): values[name] for name, match in found.items()}
    metrics = [metric for metric in _DECIMALS if any(metric == own for own, _ in known)]
    rows = [
        [label, *(cell_text(known.get((metric, label)), _DECIMALS[metric]) for metric in metrics)]
        for label in labels
    ]
    return [["region", *(title_of(metric, unit) for metric in metrics)], *rows] if rows else []
