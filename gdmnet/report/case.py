"""One case as the page shows it: packed volumes, charts, a thumbnail, facts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gdmnet import codec
from gdmnet.metrics.calibration import calibrate
from gdmnet.metrics.conventions import GDMNET
from gdmnet.metrics.edges import AIR_BELOW, BONE_ABOVE
from gdmnet.report.collect import ReportCase
from gdmnet.report.figures import agreement_figures, calibration_figure, histogram_figure
from gdmnet.report.images import Images, describe, read_images
from gdmnet.report.picture import Panel, draw_strip, embedded
from gdmnet.report.statistics import N_BINS, agreement, percentiles
from gdmnet.report.view import CaseView, case_view, describe_storage, reach

MOST_BYTES = 2_000_000  # of the page for one case: volumes, charts, thumbnail
_RESERVE = 60_000  # for all that is not packed volumes and charts
_THUMBNAIL = 64  # pixels high


@dataclass(frozen=True)
class CasePage:
    """Everything that the page holds about one case.

    Attributes:
        identifier: name of the case.
        view: a `CaseView` as JSON, safe inside a script element.
        figures: HTML of the charts.
        thumbnail: an HTML image.
        facts: about grid, mask and storage, in words.
        values: mean, minimum and maximum of the prediction inside the mask.
        unit: of prediction and target: "HU" or "".
    """

    identifier: str
    view: str
    figures: tuple[str, ...]
    thumbnail: str
    facts: tuple[str, ...]
    values: tuple[float, float, float]
    unit: str


def case_page(
    case: ReportCase,
    channel_names: Sequence[str] = (),
    match: tuple[float, float] = (1.0, 0.0),
    convention: str = GDMNET,
) -> CasePage:
    """Read, measure and pack one case into at most `MOST_BYTES`.

    Args:
        case: its files.
        channel_names: of the sources.
        match: gain and offset that the prediction needs.
        convention: of the metrics; it settles the mask where none is given.

    Raises:
        DatasetError: an image cannot be read, or the mask is empty.
    """
    images = read_images(case, match, convention)
    figures = _figures(images)
    room = MOST_BYTES - _RESERVE - sum(map(len, figures))
    view = case_view(case.identifier, images, channel_names, room)
    inside = images.prediction[images.mask != 0]
    return CasePage(
        identifier=case.identifier,
        view=json.dumps(codec.encode(view), allow_nan=False).replace("<", "\\u003c"),
        figures=figures,
        thumbnail=_thumbnail(images, view),
        facts=(*describe(images), *describe_storage(view)),
        values=(
            float(inside.mean(dtype=np.float64)),
            float(inside.min()),
            float(inside.max()),
        ),
        unit=images.unit,
    )


def _figures(images: Images) -> tuple[str, ...]:
    prediction, target, mask = images.prediction, images.target, images.mask
    if target is None:
        low, high = percentiles(prediction, mask, (0.1, 99.9))
        high = high if high > low else low + 1
        counts, _ = np.histogram(np.clip(prediction[mask != 0], low, high), N_BINS, (low, high))
        return (histogram_figure({"prediction": counts}, (low, high), images.unit),)
    edges: tuple[float, ...] = (AIR_BELOW, BONE_ABOVE)
    if not images.hounsfield:
        edges = tuple(np.unique(percentiles(target, mask, (25, 50, 75))).tolist())
    figures = agreement_figures(agreement(prediction, target, mask, edges), images.unit)
    if images.uncertainty is not None:
        spread = calibrate(images.uncertainty, prediction - target, mask)
        if spread is not None:
            figures.append(calibration_figure(spread, images.unit))
    return tuple(figures)


def _thumbnail(images: Images, view: CaseView) -> str:
    kind = next(p for p in view.pictures if p.kind == "prediction")
    panels = [Panel("", images.prediction, kind.low, kind.high)]
    words, z = "prediction, middle axial slice", images.geometry.shape[0] // 2
    if images.target is not None:
        limit = reach(images)
        error = images.prediction - images.target
        panels.append(Panel("", error, -limit, limit, signed=True))
        words = "prediction and signed error in the axial slice with the largest error"
        if view.worst:
            z = min(view.worst[0].at[0] * view.factors[0], images.geometry.shape[0] - 1)
    return embedded(draw_strip(panels, images.geometry.spacing, z, _THUMBNAIL), words)
