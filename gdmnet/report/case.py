"""One case as the page shows it: packed volumes, charts, a thumbnail, facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdmnet import codec
from gdmnet.metrics.calibration import calibrate
from gdmnet.metrics.conventions import GDMNET
from gdmnet.metrics.edges import AIR_BELOW, BONE_ABOVE
from gdmnet.metrics.summary import Summary
from gdmnet.report.collect import ReportCase
from gdmnet.report.figures import (
    agreement_figures,
    calibration_figure,
    charts,
    folded,
    histogram_figure,
)
from gdmnet.report.images import CaseImages, describe, read_images
from gdmnet.report.picture import Panel, draw_strip, embedded
from gdmnet.report.statistics import agreement, histograms, percentiles
from gdmnet.report.view import CaseView, case_view, describe_storage, error_limit

MOST_BYTES = 2_000_000  # of the page for one case: volumes, charts, thumbnail
_RESERVE = 60_000  # for all that is not packed volumes and charts
_THUMBNAIL = 64  # pixels high


@dataclass(frozen=True)
class CasePage:
    """Everything that the page holds about one case.

    Attributes:
        identifier: name of the case.
        view: a `CaseView` as JSON, safe inside a script element.
        figures: HTML of the charts; those of several methods are folded away under their names.
        thumbnail: an HTML image.
        facts: about grid, mask and storage, in words.
        values: method -> mean, minimum and maximum of its prediction inside the mask.
        unit: of predictions and target: "HU" or "".
    """

    identifier: str
    view: str
    figures: tuple[str, ...]
    thumbnail: str
    facts: tuple[str, ...]
    values: Mapping[str, tuple[float, float, float]]
    unit: str


def case_page(
    case: ReportCase,
    channel_names: Sequence[str] = (),
    summaries: Mapping[str, Summary] | None = None,
    convention: str = GDMNET,
) -> CasePage:
    """Read, measure and pack one case into at most `MOST_BYTES`.

    Args:
        case: its files.
        channel_names: of the sources.
        summaries: method -> what gdm_evaluate says; predictions get the gain and offset of their
            case, if there are any.
        convention: of the metrics; it decides on the mask where none is given.

    Raises:
        DatasetError: an image cannot be read, or the mask is empty.
    """
    matches = {}
    for method, summary in (summaries or {}).items():
        values = summary.cases[case.identifier]
        gain, offset = values.get("gain"), values.get("offset")
        if gain is not None and offset is not None:
            matches[method] = (gain, offset)
    images = read_images(case, channel_names, matches, convention)
    figures = _figures(images)
    room = MOST_BYTES - _RESERVE - sum(map(len, figures))
    view = case_view(case.identifier, images, room)
    return CasePage(
        identifier=case.identifier,
        view=json.dumps(codec.encode(view), allow_nan=False).replace("<", "\\u003c"),
        figures=figures,
        thumbnail=_thumbnail(images, view),
        facts=(*describe(images), *describe_storage(view)),
        values={
            method: _values(prediction[images.mask != 0])
            for method, prediction in images.predictions.items()
        },
        unit=images.unit,
    )


def _values(inside: NDArray) -> tuple[float, float, float]:
    return float(inside.mean(dtype=np.float64)), float(inside.min()), float(inside.max())


def _figures(images: CaseImages) -> tuple[str, ...]:
    """Histograms of all methods in one chart; what compares with the target for each method."""
    volumes = dict(images.predictions)
    if images.target is not None:
        volumes = {"target": images.target, **volumes}
    counts, ends = histograms(volumes, images.mask)
    figures = [histogram_figure(counts, ends, images.unit)]
    for method in images.predictions if images.target is not None else ():
        own = _against_target(images, method)
        if len(images.predictions) > 1:
            own = [folded(f"{method} against the target", charts(own))]
        figures += own
    return tuple(figures)


def _against_target(images: CaseImages, method: str) -> list[str]:
    prediction, target, mask = images.predictions[method], images.target, images.mask
    assert target is not None
    edges: tuple[float, ...] = (AIR_BELOW, BONE_ABOVE)
    if not images.hounsfield:
        edges = tuple(np.unique(percentiles(target, mask, (25, 50, 75))).tolist())
    figures = agreement_figures(agreement(prediction, target, mask, edges), images.unit)
    if method in images.uncertainties:
        spread = calibrate(images.uncertainties[method], prediction - target, mask)
        if spread is not None:
            figures.append(calibration_figure(spread, images.unit))
    return figures


def _thumbnail(images: CaseImages, view: CaseView) -> str:
    """The first method's prediction, and its error where there is a target."""
    kind = next(p for p in view.pictures if p.kind == "prediction")
    first = next(iter(images.predictions.values()))
    panels = [Panel("", first, kind.low, kind.high)]
    words, z = "prediction, middle axial slice", images.geometry.shape[0] // 2
    if images.target is not None:
        limit = error_limit(images)
        panels.append(Panel("", first - images.target, -limit, limit, signed=True))
        words = "prediction and signed error in the axial slice with the largest error"
        if view.worst:
            z = min(view.worst[0].at[0] * view.factors[0], images.geometry.shape[0] - 1)
    return embedded(draw_strip(panels, images.geometry.spacing, z, _THUMBNAIL), words)
