"""One picture of a case: source, predictions, target and errors in up to three planes."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gdmnet.errors import OutputError
from gdmnet.geometry import Shape, Spacing

_LONGEST_SIDE = 200  # pixels of the longest body axis: six columns then fit a web page
_GAP, _TEXT = 6, 13
_BLACK, _WHITE, _GREY = (0, 0, 0), (255, 255, 255), (150, 150, 150)
_TOO_LOW, _TOO_HIGH = (70, 150, 255), (255, 130, 30)  # blue and orange: told apart by all eyes


@dataclass(frozen=True)
class Panel:
    """One column of the picture.

    Attributes:
        title: stands above it.
        image: (z, y, x) in LPS.
        low: shown black; of a signed panel blue.
        high: shown white; of a signed panel orange, and the middle of both black.
        signed: whether differences are shown.
        unit: stands beside the colour bar's numbers.
    """

    title: str
    image: NDArray
    low: float
    high: float
    signed: bool = False
    unit: str = ""


def translation_panels(
    source: NDArray, predictions: Mapping[str, NDArray], target: NDArray, *, unit: str = ""
) -> list[Panel]:
    """Panels source | predictions | target | errors; predictions and target share one grey scale.

    Args:
        source: (z, y, x), any unit.
        predictions: by title, (z, y, x) in the target's unit.
        target: (z, y, x).
        unit: of the target, "HU" or "".
    """
    low, high = _window(target)
    reach = (high - low) / 5  # errors are smaller than what they are errors of
    return [
        Panel("source", source, *_window(source)),
        *(Panel(title, image, low, high, unit=unit) for title, image in predictions.items()),
        Panel("target", target, low, high, unit=unit),
        *(
            Panel(f"{title} - target", image - target, -reach, reach, signed=True, unit=unit)
            for title, image in predictions.items()
        ),
    ]


def draw_panels(
    panels: Sequence[Panel], spacing: Spacing, *, at: Shape | None = None, heading: str = ""
) -> Image.Image:
    """A row of panels in axial, coronal and sagittal planes, with titles and colour bars.

    Planes stand as radiologists look at them: the patient's left is on the right, front and head
    are on top (sagittal: front on the left). Planes one voxel thin are left out.

    Args:
        panels: of equal shape.
        spacing: mm (z, y, x).
        at: the voxel (z, y, x) through which the planes go; None for the middle.
        heading: a line above all.

    Raises:
        ValueError: no panels, or panels of unequal shape.
    """
    shapes = {panel.image.shape for panel in panels}
    if len(shapes) != 1:
        raise ValueError(f"panels must share one shape, got {sorted(shapes)}")
    columns = [_column(panel, spacing, at) for panel in panels]
    top = _GAP + (2 * _TEXT if heading else 0)
    height = top + max(column.height for column in columns) + _GAP
    width = _GAP + sum(column.width + _GAP for column in columns)
    page = Image.new("RGB", (width, height), _BLACK)
    if heading:
        ImageDraw.Draw(page).text((_GAP, _GAP), heading, _WHITE, _font())
    left = _GAP
    for column in columns:
        page.paste(column, (left, top))
        left += column.width + _GAP
    return page


def draw_strip(panels: Sequence[Panel], spacing: Spacing, z: int, height: int) -> Image.Image:
    """The axial slice `z` of every panel side by side, without any words; `height` in pixels."""
    scale = height / (panels[0].image.shape[1] * spacing[1])
    slices = [_plane(panel.image[z], spacing[1:], scale, panel) for panel in panels]
    strip = Image.new("RGB", (sum(s.width + 1 for s in slices) - 1, height), _GREY)
    left = 0
    for part in slices:
        strip.paste(part, (left, 0))
        left += part.width + 1
    return strip


def embedded(picture: Image.Image, words: str) -> str:
    """An HTML image that holds the picture, in at most 64 colours; `words` say what it shows."""
    file = io.BytesIO()
    picture.quantize(64).save(file, format="PNG", optimize=True)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/png;base64,{text}" width="{picture.width}"'
        f' height="{picture.height}" alt="{escape(words)}">'
    )


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG aside and rename it.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(aside, format="PNG", optimize=True)
        aside.replace(path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise OutputError(
            f"{path}: cannot be written ({problem.strerror}); check the folder's permissions and"
            " free space"
        ) from None


def _column(panel: Panel, spacing: Spacing, at: Shape | None) -> Image.Image:
    scale = _LONGEST_SIDE / max(n * s for n, s in zip(panel.image.shape, spacing, strict=True))
    planes = [
        _plane(plane, sides, scale, panel) for plane, sides in _planes(panel.image, spacing, at)
    ]
    width = max(_LONGEST_SIDE, *(plane.width for plane in planes))
    height = 2 * _TEXT + sum(plane.height + _GAP for plane in planes) + 2 * _TEXT
    column = Image.new("RGB", (width, height), _BLACK)
    ImageDraw.Draw(column).text((width // 2, 2), panel.title, _WHITE, _font(), anchor="ma")
    y = 2 * _TEXT
    for plane in planes:
        column.paste(plane, ((width - plane.width) // 2, y))
        y += plane.height + _GAP
    _draw_bar(column, y, panel)
    return column


def _planes(
    image: NDArray, spacing: Spacing, at: Shape | None
) -> list[tuple[NDArray, tuple[float, float]]]:
    """Axial, coronal and sagittal planes with the spacing (down, right) of each."""
    z, y, x = at or tuple(n // 2 for n in image.shape)
    dz, dy, dx = spacing
    planes = [
        (image[z], (dy, dx)),
        (image[::-1, y], (dz, dx)),
        (image[::-1, :, x], (dz, dy)),
    ]
    return [plane for plane in planes if min(plane[0].shape) > 1] or planes[:1]


def _plane(plane: NDArray, sides: tuple[float, float], scale: float, panel: Panel) -> Image.Image:
    down, right = (
        max(1, round(n * side * scale)) for n, side in zip(plane.shape, sides, strict=True)
    )
    picture = Image.fromarray(_colours(plane, panel))
    return picture.resize((right, down), Image.Resampling.BICUBIC)


def _colours(values: NDArray, panel: Panel) -> NDArray:
    """RGB bytes (..., 3) of values in a panel's window."""
    span = max(panel.high - panel.low, 1e-12)
    share = np.clip((np.asarray(values, dtype=np.float64) - panel.low) / span, 0, 1)[..., None]
    if not panel.signed:
        colours = share * np.array(_WHITE)
    else:
        side = np.where(share < 0.5, np.array(_TOO_LOW), np.array(_TOO_HIGH))
        colours = np.abs(2 * share - 1) * side
    return np.round(colours).astype(np.uint8)


def _draw_bar(column: Image.Image, y: int, panel: Panel) -> None:
    ramp = np.linspace(panel.low, panel.high, column.width - 4)
    bar = np.repeat(_colours(ramp, panel)[None], _TEXT - 4, axis=0)
    column.paste(Image.fromarray(bar), (2, y))
    draw = ImageDraw.Draw(column)
    draw.rectangle((1, y - 1, column.width - 2, y + _TEXT - 4), outline=_GREY)
    below = y + _TEXT - 2
    high = f"{_number(panel.high)} {panel.unit}".strip()
    draw.text((2, below), _number(panel.low), _GREY, _font(), anchor="la")
    draw.text((column.width - 2, below), high, _GREY, _font(), anchor="ra")


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _window(image: NDArray) -> tuple[float, float]:
    low, high = np.percentile(image, (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT - 1)
