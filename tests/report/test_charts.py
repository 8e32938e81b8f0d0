import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from gdmnet.report.charts import Axis, Frame, bars, density, draw, label, legend, line, points

FRAME = Frame(Axis("epoch", 0, 10), Axis("error", -1, 1))


def texts(svg):
    return [node.text for node in ET.fromstring(svg).iter() if node.tag.endswith("text")]


def test_a_chart_is_well_formed_and_says_what_it_shows():
    parts = [line(FRAME, [(0, 0), (10, 1)]), bars(FRAME, [0.5, None, -0.5]), legend(["a & b"])]
    svg = draw(FRAME, [*parts, points(FRAME, [(1, 1)])], title="<Loss>", text="falls & rests")
    root = ET.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert [node.text for node in root[:2]] == ["<Loss>", "falls & rests"]
    assert {"epoch", "error", "a & b", "0", "10", "-1"} <= set(texts(svg))


def test_up_is_more_and_right_is_later():
    assert FRAME.down(1) < FRAME.down(0) < FRAME.down(-1)
    assert FRAME.across(0) < FRAME.across(10)
    assert FRAME.down(5) == FRAME.down(1)  # what is beyond an end is drawn there


def test_logarithmic_axes_have_equal_decades():
    frame = Frame(Axis("", 0, 1), Axis("", 0.01, 100, logarithmic=True))
    assert frame.down(1) - frame.down(10) == pytest.approx(frame.down(0.1) - frame.down(1))
    assert {"0.01", "1", "100"} <= set(texts(draw(frame, [], title="", text="")))


def test_a_line_breaks_where_there_is_no_number():
    path = line(FRAME, [(0, 0), (1, float("nan")), (2, 0), (3, 0)])
    assert re.findall("[ML]", path.split('d="')[1]) == ["M", "M", "L"]


def test_a_density_shows_many_dark_and_high_values_above():
    counts = np.zeros((4, 6), int)
    counts[3, 0] = 100
    data = re.search('base64,([^"]+)', density(counts))[1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))
    assert np.argwhere(picture < 100).tolist() == [[0, 0]]
    assert picture[3, 5] == 255


def test_words_stand_above_or_below_their_point():
    above, below = label(FRAME, 10, 0, "x"), label(FRAME, 10, 0, "x", above=False)
    heights = [float(re.search(' y="([^"]+)"', text)[1]) for text in (above, below)]
    assert heights[0] < FRAME.down(0) < heights[1]
