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
    """What summary.json holds.

    Attributes:
        convention: a name of `CONVENTIONS`; it decides on clipping, ranges, masks and borders.
        units: of prediction and reference: "HU", or words where they have none of their own.
        data_range: of PSNR, SSIM and MS-SSIM where all cases share it, else how each case's was
            found.
        mask: where the masks come from.
        match_intensity: None, or "linear" where predictions were fitted to the references first.
        cases: identifier -> metric -> value; None where a metric is not defined. Each case has
            its `data_range`, and with a match its `gain` and `offset`.
        aggregate: metric -> the `STATISTICS` of the cases where it is defined.
        ranges: metric -> its data range and what is clipped, in words.
        failed: identifier -> why that case could not be evaluated.
        note: what a reader must know beside the figures, if anything.
        realism: the realism dial's front, T -> metric -> mean, where a model has one.
    """

    convention: str
    units: str
    data_range: float | str
    mask: str
    match_intensity: str | None
    cases: dict[str, Values]
    aggregate: dict[str, Values]
    ranges: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    note: str | None = None
    realism: dict[str, Values] = field(default_factory=dict)

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
