"""What an evaluation found: every case, all cases together, and by which rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gdmnet.metrics.conventions import CONVENTIONS, CT_RANGE, GDMNET, convention_ranges
from gdmnet.metrics.statistics import Values, aggregate_cases
from gdmnet.table import csv_text

HU = "HU"


@dataclass(frozen=True)
class Summary:
    """What summary.json holds."""

    convention: str  # a name of `CONVENTIONS`
    units: str  # of prediction and reference: "HU", or words where they have none of their own
    data_range: float | str  # of all cases, else how each case's `data_range` was found
    mask: str  # where the masks come from
    match_intensity: str | None  # "linear" where predictions were fitted to the references first
    # identifier -> metric -> value, None where it is not defined; with a match `gain` and `offset`
    cases: dict[str, Values]
    aggregate: dict[str, Values]  # metric -> the `STATISTICS` of the cases where it is defined
    ranges: dict[str, str] = field(default_factory=dict)  # metric -> range and clipping, in words
    failed: dict[str, str] = field(default_factory=dict)  # identifier -> why it has no values
    note: str | None = None  # what a reader must know beside the figures, if anything
    realism: dict[str, Values] = field(default_factory=dict)  # of the dial: T -> metric -> mean

    @property
    def unit(self) -> str:
        """What stands beside errors: "HU", or "" where there is none."""
        return HU if self.units == HU else ""


def summarise(
    cases: dict[str, Values],
    *,
    units: str,
    mask: str,
    convention: str = GDMNET,
    match_intensity: str | None = None,
    failed: Mapping[str, str] | None = None,
    note: str | None = None,
) -> Summary:
    """The summary of scored cases; arguments as the attributes of `Summary`."""
    ranges, span = convention_ranges(convention), _shared_range(cases, convention)
    rules = convention, units, span, mask, match_intensity
    return Summary(*rules, cases, aggregate_cases(cases), ranges, dict(failed or {}), note)


def as_csv(summary: Summary) -> str:
    """The cases as comma-separated values: a row a case, a column a metric, empty where None."""
    return csv_text([{"case": name, **values} for name, values in summary.cases.items()])


def _shared_range(cases: Mapping[str, Values], convention: str) -> float | str:
    span = CONVENTIONS[convention].span
    if span is not None:
        return span.width
    if all(case["data_range"] == CT_RANGE for case in cases.values()):
        return CT_RANGE
    return "per case: percentiles 0.5 to 99.5 of the reference inside the mask (HU: 4095)"
