import base64
import io
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gdmnet.charts import (
    COLOURS,
    Chart,
    Curve,
    Dot,
    as_svg,
    draw_curves,
    draw_density,
    draw_dots,
    save_charts,
    set_logarithmic,
)
from gdmnet.errors import OutputError

LINKS = {"xlink": "http://www.w3.org/1999/xlink"}
RISING = Curve("a", [(1, 0.5), (2, 1.0), (3, 2.0)])


def axes_of(draw):
    """The axes that `draw` has filled."""
    kept = []

    def keep(axes):
        draw(axes)
        kept.append(axes)

    svg = as_svg(keep, title="title", text="text")
    return kept[0], svg


def parsed(svg):
    return ET.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" '))


def texts(svg):
    return ["".join(node.itertext()) for node in parsed(svg).iter() if node.tag == "text"]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def where(picture, colour):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere(np.abs(picture - rgb).max(axis=2) < 8)


def test_an_svg_is_well_formed_small_and_says_what_it_shows():
    chart = Chart("", [RISING, Curve("a & <b> $x$ _c", [(1, 1.0)])])
    svg = as_svg(lambda axes: draw_curves(axes, chart), title="<Loss>", text="falls & rests")
    root = parsed(svg)
    assert root.attrib["role"] == "img"
    assert [node.text for node in root[:2]] == ["<Loss>", "falls & rests"]
    assert {"epoch", "a & <b> $x$ _c"} <= set(texts(svg))
    assert len(svg) < 12_000
    assert not re.search("https?:|<style|<metadata|font-family", svg)


def test_the_same_chart_is_the_same_text_and_another_has_other_references():
    def drawn(title):
        return as_svg(lambda axes: draw_curves(axes, Chart("", [RISING])), title=title, text="")

    assert drawn("a") == drawn("a")
    ids = [set(re.findall(r' id="([^"]+)"', drawn(title))) for title in "ab"]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = set(re.findall(r"#([mp][0-9a-f]{10})", drawn("a")))
    assert used == ids[0]


def test_numbers_on_axes_stay_whole():
    chart = Chart("", [Curve("a", [(0.0, 0.000121), (1.0, 0.000129)])], x_title="T")
    _, svg = axes_of(lambda axes: draw_curves(axes, chart))
    assert any(
        float(text) == pytest.approx(0.000122)
        for text in texts(svg)[:-1]
        if re.fullmatch(r"[-.\de]+", text)
    )


@pytest.mark.parametrize("values", [[0.0], [5.0], [-1.0, 3.0], [2.0, 2.0], [math.nan, 1.0], []])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_all_values_are_inside_the_axes(values, logarithmic):
    points = [(float(i), v) for i, v in enumerate(values)]
    marks = (0.3,) if not logarithmic else ()
    chart = Chart("", [Curve("a", points)], logarithmic, marks)
    axes, _ = axes_of(lambda axes: draw_curves(axes, chart))
    low, high = axes.get_ylim()
    assert low < high
    shown = [v for v in values if math.isfinite(v) and (v > 0 or not logarithmic)]
    assert all(low <= v <= high for v in (*shown, *marks))


def test_logarithmic_axes_have_plain_numbers_and_equal_decades():
    curve = Curve("a", [(float(i), 10.0 ** (i - 3)) for i in range(6)])
    axes, svg = axes_of(lambda axes: draw_curves(axes, Chart("", [curve], logarithmic=True)))
    assert {"0.001", "1", "100"} <= set(texts(svg))
    y = axes.transData.transform([(0, 10.0**i) for i in range(4)])[:, 1]
    assert np.ptp(np.diff(y)) < 1e-6


def test_epochs_are_whole_numbers_and_other_axes_are_not():
    for title, whole in (("epoch", True), ("realism T", False)):
        axes, _ = axes_of(lambda axes, t=title: draw_curves(axes, Chart("", [RISING], x_title=t)))
        assert all(tick == round(tick) for tick in axes.get_xticks()) is whole


def test_a_curve_breaks_where_there_is_no_number():
    points = [(float(i), math.nan if i == 40 else 1.0) for i in range(80)]
    axes, _ = axes_of(lambda axes: draw_curves(axes, Chart("", [Curve("a", points)])))
    assert np.isnan(axes.lines[0].get_ydata()[40])
    assert axes.lines[0].get_marker() in ("", "None")  # too many to be seen one by one


def test_a_density_shows_many_dark_nothing_empty_and_high_values_above():
    counts = np.zeros((4, 6), int)
    counts[3, 0], counts[0, 5] = 100, 1
    axes, svg = axes_of(lambda axes: draw_density(axes, counts, (-1, 1, 0, 2)))
    (image,) = parsed(svg).iter("image")
    data = image.attrib[f"{{{LINKS['xlink']}}}href"].split("base64,")[1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))
    assert picture.shape == (4, 6, 4)
    if float(re.search(r"matrix\(\S+ \S+ \S+ (\S+)", image.attrib["transform"])[1]) < 0:
        picture = picture[::-1]  # rows now count from above
    assert picture[0, 0, :3].max() < 110
    assert picture[3, 5, :3].min() > 200
    assert np.count_nonzero(picture[..., 3]) == 2
    assert (*axes.get_xlim(), *axes.get_ylim()) == (-1, 1, 0, 2)


def test_names_of_dots_lie_apart_and_inside():
    dots = [Dot(f"method {i}", 1 + i / 50, 2 + (i % 3) / 40) for i in range(8)]
    axes, svg = axes_of(lambda axes: draw_dots(axes, dots))
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text for text in texts(svg) if "method" in text] == [dot.name for dot in dots]
    overlaps = sum(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert overlaps <= 1
    assert all(axes.bbox.x0 - 1 <= box.x0 and box.x1 <= axes.bbox.x1 + 1 for box in boxes)


def test_no_name_of_a_dot_is_crossed_by_a_line_that_can_be_avoided():
    def draw(axes):
        axes.plot([1, 1.6, 1.6, 3, 3], [3, 3, 2, 2, 1], "--")
        draw_dots(axes, [Dot("first", 1, 3), Dot("second", 1.6, 2), Dot("third", 3, 1)])

    axes, _ = axes_of(draw)
    path = axes.lines[0].get_path().transformed(axes.transData)
    for name in axes.texts:
        assert not path.intersects_bbox(name.get_window_extent(), filled=False)


def test_axes_of_dots_do_not_magnify_small_differences():
    dots = [Dot("a", 100.0, -0.8), Dot("b", 100.1, -0.8, filled=False)]
    axes, _ = axes_of(lambda axes: draw_dots(axes, dots))
    assert np.ptp(axes.get_xlim()) == pytest.approx(5, rel=0.01)
    assert np.ptp(axes.get_ylim()) >= 0.04


def test_an_axis_without_positive_values_stays_linear():
    axes, _ = axes_of(lambda axes: (axes.plot([0, 1], [0, -1]), set_logarithmic(axes, "y")))
    assert axes.get_yscale() == "linear"


def test_charts_are_saved_side_by_side_each_curve_in_its_colour(tmp_path):
    curves = [Curve(f"curve {i}", [(1, i), (2, i + 1.0)]) for i in range(len(COLOURS))]
    chart = Chart("title", curves, marks=(0.0,), star=(1, 1.0))
    one, three = tmp_path / "new/one.png", tmp_path / "three.png"
    save_charts([chart], one, heading="words", n_columns=1)
    save_charts([chart] * 3, three, heading="words", n_columns=3)
    assert pixels(three).shape[1] == 3 * pixels(one).shape[1]
    assert all(len(where(pixels(one), colour)) > 20 for colour in COLOURS)
    rising = where(pixels(one), COLOURS[0])
    assert rising[rising[:, 1].argmax()][0] < rising[:, 0].max()  # rows count from above
    assert [path.name for path in one.parent.iterdir()] == ["one.png"]
    before = three.read_bytes()
    save_charts([chart] * 3, three, heading="words", n_columns=3)
    assert three.read_bytes() == before


def test_a_picture_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"progress.png: cannot be written"):
        save_charts([], tmp_path / "file/progress.png", heading="", n_columns=3)


def test_matplotlib_is_imported_only_to_draw_and_its_settings_stay_as_they_are():
    code = (
        "import sys, gdmnet.charts, gdmnet.report.page, gdmnet.training.progress as p\n"
        "assert not any(name.startswith('matplotlib') for name in sys.modules)\n"
        "import matplotlib\n"
        "names = [name for name in matplotlib.rcParams if name != 'backend']\n"
        "before = [matplotlib.rcParams[name] for name in names]\n"
        "gdmnet.charts.as_svg(lambda axes: None, title='', text='')\n"
        "assert [matplotlib.rcParams[name] for name in names] == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
