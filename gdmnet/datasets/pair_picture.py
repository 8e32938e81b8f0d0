"""One picture of a pair: source, target, and both in squares before and after registration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gdmnet.arrays.normalise import scheme_of
from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.raw import Description
from gdmnet.data.volume import read_volume
from gdmnet.geometry import Spacing
from gdmnet.report.picture import Panel, draw_panels

_SQUARE = 24.0  # mm: a few to each organ
_CT_WINDOW = (-200.0, 600.0)  # HU: soft tissue and bone


def draw_pair(
    files: CaseFiles,
    description: Description,
    heading: str,
    undo: Callable[[Volume], NDArray] | None = None,
) -> Image.Image:
    """A picture of a case's first channel and its target.

    Args:
        files: of the case, with a target.
        description: of its dataset.
        heading: above the picture.
        undo: brings the source (1, z, y, x) onto its target, (z, y, x), to be shown as well.

    Raises:
        DatasetError: a file cannot be read.
    """
    assert files.target is not None
    volume, target = read_volume(files.sources[0]), read_volume(files.target)
    geometry, source = volume.geometry, volume.array[0]
    low, high = _window(target.array[0], description.target_name, target=True)
    grey = _grey(target.array[0], low, high)
    window = _window(source, description.channel_names[0], target=False)
    panels = [
        Panel(f"source: {description.channel_names[0]}", source, *window),
        Panel(f"target: {description.target_name}", target.array[0], low, high),
        Panel("in squares", _squares(_grey(source, *window), grey, geometry.spacing), 0, 1),
    ]
    if undo is not None:
        moved = _grey(undo(volume), *window)
        panels.append(Panel("registered", _squares(moved, grey, geometry.spacing), 0, 1))
    return draw_panels(panels, geometry.spacing, heading=f"{files.identifier}: {heading}")


def _window(image: NDArray, name: str, *, target: bool) -> tuple[float, float]:
    if scheme_of(name, target=target) == "ct":
        return _CT_WINDOW
    low, high = np.percentile(image, (1, 99.5))
    return float(low), float(max(high, low + 1e-6))


def _grey(image: NDArray, low: float, high: float) -> NDArray:
    return np.clip((image - low) / (high - low), 0, 1)


def _squares(first: NDArray, second: NDArray, spacing: Spacing) -> NDArray:
    """Cubes of one image in the other: edges that run on across them lie on each other."""
    z, y, x = (np.arange(n) * side // _SQUARE for n, side in zip(first.shape, spacing, strict=True))
    odd = (z[:, None, None] + y[:, None] + x) % 2 == 1
    return np.where(odd, first, second)
