"""One picture of a case: source, predictions, target and errors in up to three planes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray
from PIL import Image

from gdmnet.charts import chart_style
from gdmnet.files import whole_file
from gdmnet.geometry import Spacing

_INCHES = 2.05  # of a column, at 100 pixels an inch: six then fit a web page
_GREY = "#969696"
_SIGNED = ("#4696ff", "black", "#ff821e")  # too low blue, too high orange: told apart by all eyes


@dataclass(frozen=True)
class Panel:
    """One column of the picture: an image under its title."""

    title: str
    image: NDArray  # (z, y, x) in LPS
    low: float  # shown black, of differences blue
    high: float  # shown white, of differences orange
    signed: bool = False  # differences, whose middle is shown black
    unit: str = ""  # beside the colour bar's numbers


def draw_panels(panels: Sequence[Panel], spacing: Spacing, *, heading: str = "") -> Image.Image:
    """A row of panels in their middle planes of three directions, with titles and colour bars.

    Planes stand as radiologists look at them: the patient's left is on the right, front and head
    are on top (sagittal: front on the left). Planes one voxel thin are left out.

    Args:
        panels: of equal shape.
        spacing: mm (z, y, x).
        heading: a line above all.

    Raises:
        ValueError: no panels, or panels of unequal shape.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    shapes = {panel.image.shape for panel in panels}
    if len(shapes) != 1:
        raise ValueError(f"panels must share one shape, got {sorted(shapes)}")
    lengths = [n * s for n, s in zip(*shapes, spacing, strict=True)]  # mm
    planes = [_planes(panel.image, spacing) for panel in panels]
    heights = [plane.shape[0] * side / max(lengths) for plane, (side, _) in planes[0]]
    pair = (("black", "white"), _SIGNED)
    colours = [LinearSegmentedColormap.from_list("panel", ends) for ends in pair]
    file = io.BytesIO()
    with chart_style({"text.color": "white", "font.size": 9}):
        size = (_INCHES * len(panels), _INCHES * sum(heights) + (0.9 if heading else 0.65))
        figure = Figure(size, dpi=100, facecolor="black", layout="constrained")
        if heading:
            figure.suptitle(heading, x=0.01, ha="left", fontsize=9)
        grid = figure.subplots(len(heights), len(panels), squeeze=False, height_ratios=heights)
        for panel, own, column in zip(panels, planes, grid.T, strict=True):
            column[0].set_title(panel.title, fontsize=9)
            colour, low, high = colours[panel.signed], panel.low, max(panel.high, panel.low + 1e-12)
            for axes, (plane, (down, right)) in zip(column, own, strict=True):
                axes.set_axis_off()
                shown = axes.imshow(
                    plane, colour, aspect=down / right, interpolation="bicubic", vmin=low, vmax=high
                )
            bar = figure.colorbar(shown, ax=list(column), location="bottom", aspect=22)
            text = f"{_number(panel.high)} {panel.unit}".strip()
            bar.set_ticks([panel.low, panel.high], labels=[_number(panel.low), text])
            for label, side in zip(bar.ax.get_xticklabels(), ("left", "right"), strict=True):
                label.set(ha=side, color=_GREY)
        figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG."""
    with whole_file(path) as aside:
        picture.save(aside, format="PNG", optimize=True)


def _planes(image: NDArray, spacing: Spacing) -> list[tuple[NDArray, tuple[float, float]]]:
    """Middle axial, coronal and sagittal planes with the spacing (down, right) of each."""
    z, y, x = (n // 2 for n in image.shape)
    dz, dy, dx = spacing
    planes = [(image[z], (dy, dx)), (image[::-1, y], (dz, dx)), (image[::-1, :, x], (dz, dy))]
    return [plane for plane in planes if min(plane[0].shape) > 1] or planes[:1]


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
