"""Pictures of pairs: each with what is wrong about it, and all of them on contact sheets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gdmnet.arrays.crop import bounding_box, crop
from gdmnet.arrays.normalise import scheme_of
from gdmnet.charts import Picture, save_pictures
from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.raw import Description
from gdmnet.data.volume import read_volume
from gdmnet.geometry import Spacing
from gdmnet.report.picture import Panel, draw_panels

_SQUARE = 24.0  # mm: a few to each organ
_CT_WINDOW = (-200.0, 600.0)  # HU: soft tissue and bone
_THUMBNAIL = 220  # pixels of its longest side
_SEEN = 0.15  # of the grey scale: what is darker around a target is cut off a thumbnail
A_SHEET = 36  # pairs


def draw_pair(
    files: CaseFiles,
    description: Description,
    heading: str,
    undo: Callable[[Volume], NDArray] | None = None,
) -> Image.Image:
    """A picture of a case's first channel and its target, with a heading above.

    `undo` brings the source (1, z, y, x) onto its target, (z, y, x), to be shown as well.

    Raises:
        DatasetError: a file cannot be read.
    """
    volume, target, window, wanted = _read(files, description)
    spacing, source = volume.geometry.spacing, volume.array[0]
    grey = _grey(target, *wanted)
    panels = [
        Panel(f"source: {description.channel_names[0]}", source, *window),
        Panel(f"target: {description.target_name}", target, *wanted),
        Panel("in squares", _squares(_grey(source, *window), grey, spacing), 0, 1),
    ]
    if undo is not None:
        moved = _grey(undo(volume), *window)
        panels.append(Panel("registered", _squares(moved, grey, spacing), 0, 1))
    return draw_panels(panels, spacing, heading=f"{files.identifier}: {heading}")


def draw_thumbnail(files: CaseFiles, description: Description) -> NDArray:
    """First channel and target in squares of each other: middle axial plane, and coronal below.

    Both around what the target shows; grey values from 0 to 1, (rows, columns), square pixels.

    Raises:
        DatasetError: a file cannot be read.
    """
    volume, target, window, wanted = _read(files, description)
    pair = _grey(volume.array[0], *window), _grey(target, *wanted)
    spacing = volume.geometry.spacing
    squares, seen = _squares(*pair, spacing), pair[1] > _SEEN
    squares = crop(squares, bounding_box(seen)) if seen.any() else squares
    z, y, _ = (n // 2 for n in squares.shape)
    pixel = max(n * side for n, side in zip(squares.shape, spacing, strict=True)) / _THUMBNAIL
    planes = (squares[z], spacing[1:]), (squares[::-1, y], spacing[::2])
    return np.concatenate([_resized(plane, sides, pixel) for plane, sides in planes])


def _resized(plane: NDArray, sides: tuple[float, ...], pixel: float) -> NDArray:
    """A plane whose pixels have sides (down, across) in mm, with square ones."""
    down, across = np.multiply(plane.shape, sides) / pixel
    size = max(1, round(across)), max(1, round(down))
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def save_contact_sheets(
    thumbnails: Sequence[tuple[str, NDArray]], folder: Path, *, heading: str
) -> list[Path]:
    """Write titles and thumbnails, `A_SHEET` to a picture: contact_sheet_1.png and so on.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    paths: list[Path] = []
    for first in range(0, len(thumbnails), A_SHEET):
        paths.append(folder / f"contact_sheet_{len(paths) + 1}.png")
        own = [Picture(*item, 0.0, 1.0) for item in thumbnails[first : first + A_SHEET]]
        save_pictures(own, paths[-1], heading=heading)
    return paths


def _read(
    files: CaseFiles, description: Description
) -> tuple[Volume, NDArray, tuple[float, float], tuple[float, float]]:
    """First channel and target (z, y, x), and the window of each."""
    assert files.target is not None
    source, target = read_volume(files.sources[0]), read_volume(files.target).array[0]
    window = _window(source.array[0], description.channel_names[0], target=False)
    return source, target, window, _window(target, description.target_name, target=True)


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
