"""Pictures of a comparison: source, every method and target side by side, with their errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gdmnet.compare.contest import FIDELITY
from gdmnet.compare.study import Scope, Study
from gdmnet.data.case import CaseFiles
from gdmnet.data.volume import read_volume
from gdmnet.geometry import Spacing
from gdmnet.metrics.folders import find_mask
from gdmnet.metrics.image import match_mean_and_std
from gdmnet.report.figures import number
from gdmnet.report.picture import Panel, draw_strip, embedded, translation_panels

_SIDE = 230  # pixels of the axial slice's height: five stand side by side on a laptop
_LOWEST = 40  # pixels of a coronal slice, however thin the slab is
_SCALE = (
    '<div class="scale">{name} <em>{low}</em><i class="{kind}"></i><em>{high}</em> {unit}</div>'
)


@dataclass(frozen=True)
class Shown:
    """One case of the pictures: its files and every method's prediction."""

    files: CaseFiles
    predictions: Mapping[str, Path]


def telling_cases(errors: Mapping[str, float | None]) -> dict[str, str]:
    """The worst, the median and the best case by their errors, each case once: name -> case."""
    known = {case: error for case, error in errors.items() if error is not None}
    ranked = sorted(known, key=lambda case: (-known[case], case))
    if not ranked:
        return {}
    chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    if len(ranked) == 1:
        return {"only": ranked[0]}
    if len(ranked) == 2:
        del chosen["median"]
    return chosen


def case_pictures(study: Study, scope: Scope, rank: str, case: Shown) -> str:
    """One case as HTML: a figure for the source, each method and the target.

    Axial through the middle of the mask, coronal below it; each method's error below that. All
    predictions and the target share one window, all errors another. Where intensities are matched,
    the predictions have the target's mean and standard deviation inside the mask: a linear fit
    would dull those that agree less.

    Raises:
        DatasetError: an image cannot be read.
    """
    files = case.files
    assert files.target is not None
    truth = read_volume(files.target)
    mask, _ = find_mask(files.mask, truth, study.convention)
    values = {name: scope.methods[name].cases[files.identifier] for name in case.predictions}
    images = {}
    for name, path in case.predictions.items():
        images[name] = read_volume(path).array[0].astype(np.float32)
        if study.match_intensity is not None:
            alike = match_mean_and_std(images[name], truth.array[0], mask != 0)
            images[name] = np.where(mask != 0, alike, images[name])
    unit = "HU" if study.units == "HU" else ""
    source = read_volume(files.sources[0]).array[0]
    panels = translation_panels(source, images, truth.array[0], unit=unit)
    shown, errors = panels[: len(images) + 2], panels[len(images) + 2 :]
    z, y, _ = (int(np.mean(axis)) for axis in np.nonzero(mask))
    spacing = truth.geometry.spacing
    wrong: list[Panel | None] = [None, *errors, None]
    figures = []
    for panel, error in zip(shown, wrong, strict=True):
        told = panel.title
        if panel.title in values:
            told += f": MAE {number(values[panel.title][FIDELITY])} {study.units}"
        figures.append(_figure(told, panel, error, spacing, (z, y)))
    reference = scope.methods[study.reference].cases[files.identifier][FIDELITY]
    title = f"{rank} case: {files.identifier}" if rank != "only" else files.identifier
    return (
        f"<h3>{escape(title[0].upper() + title[1:])} ({escape(study.reference)}: MAE"
        f" {number(reference)} {study.units})</h3>"
        f'<div class="scales">{_scale("predictions and target", shown[-1], "grey")}'
        f"{_scale('error', errors[0], 'signed')}</div>"
        f'<div class="row">{"".join(figures)}</div>'
    )


def _figure(
    told: str, panel: Panel, error: Panel | None, spacing: Spacing, at: tuple[int, int]
) -> str:
    pictures = [embedded(_slices(panel, spacing, at), f"{told}, axial and coronal")]
    if error is not None:
        pictures.append(embedded(_slices(error, spacing, at), f"{told}, error"))
    return f"<figure><figcaption>{escape(told)}</figcaption>{''.join(pictures)}</figure>"


def _slices(panel: Panel, spacing: Spacing, at: tuple[int, int]) -> Image.Image:
    """The axial slice above the coronal one, at the same scale."""
    z, y = at
    dz, dy, dx = spacing
    axial = draw_strip([panel], spacing, z, _SIDE)
    n_slices, n_rows, _ = panel.image.shape
    if n_slices == 1:
        return axial
    height = max(_LOWEST, round(_SIDE * n_slices * dz / (n_rows * dy)))
    coronal = draw_strip([_turned(panel)], (dy, dz, dx), y, height)
    picture = Image.new("RGB", (axial.width, axial.height + 2 + coronal.height), "black")
    picture.paste(axial, (0, 0))
    width = min(coronal.width, axial.width)
    picture.paste(coronal.resize((width, coronal.height)), (0, axial.height + 2))
    return picture


def _turned(panel: Panel) -> Panel:
    """The panel with coronal slices along its first axis, the head on top."""
    image: NDArray = panel.image[::-1].transpose(1, 0, 2)
    return Panel(panel.title, image, panel.low, panel.high, panel.signed, panel.unit)


def _scale(name: str, panel: Panel, kind: str) -> str:
    return _SCALE.format(
        name=name, low=number(panel.low), high=number(panel.high), kind=kind, unit=panel.unit
    )
