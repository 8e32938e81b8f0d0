import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from gdmnet.training.chart import (
    COLOURS,
    Chart,
    Curve,
    Style,
    draw_chart,
    log_ticks,
    ticks,
    value_range,
)

BOX = (0, 0, 400, 300)


def _drawn(chart):
    image = Image.new("RGB", (400, 300), "white")
    font = ImageFont.load_default(12)
    draw_chart(ImageDraw.Draw(image), chart, BOX, Style(font, font, 1))
    return np.asarray(image)


def _where(pixels, colour):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((pixels == rgb).all(axis=2))


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-2, 1e6))
def test_ticks_are_few_round_and_inside(low, width):
    found = ticks(low, low + width)
    assert 1 <= len(found) <= 7
    spare = 1e-6 * max(width, abs(low))
    assert all(low - spare <= t <= low + width + spare for t in found)
    if len(found) > 1:
        distance = found[1] - found[0]
        mantissa = distance / 10.0 ** math.floor(math.log10(distance) + 1e-9)
        assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-3


def test_ticks_of_a_known_range():
    np.testing.assert_allclose(ticks(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(ticks(0, 80), [0, 20, 40, 60, 80])
    np.testing.assert_allclose(log_ticks(0.9e-3, 1.1), [1e-3, 1e-2, 1e-1, 1])
    assert len(log_ticks(1e-12, 1e12)) < 10
    np.testing.assert_allclose(log_ticks(0.8, 12), [1, 2, 5, 10])


@pytest.mark.parametrize("values", [[0.0], [5.0], [-1.0, 3.0], [2.0, 2.0], [math.nan, 1.0], []])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_the_range_has_a_width_and_holds_the_values(values, logarithmic):
    points = [(float(i), v) for i, v in enumerate(values)]
    chart = Chart("", [Curve("a", points)], logarithmic)
    low, high = value_range(chart)
    assert low < high
    shown = [v for v in values if math.isfinite(v) and (v > 0 or not logarithmic)]
    assert all(low <= v <= high for v in shown)


def test_a_rising_curve_rises_in_the_picture():
    pixels = _drawn(Chart("title", [Curve("a", [(1, 0.0), (2, 1.0), (3, 2.0)])]))
    found = _where(pixels, COLOURS[0])
    left, right = found[found[:, 1].argmin()], found[found[:, 1].argmax()]
    assert right[0] < left[0]  # rows count from above


def test_a_logarithmic_axis_makes_powers_equidistant():
    curve = Curve("a", [(float(i), 10.0**i) for i in range(41)])  # too many for dots
    found = _where(_drawn(Chart("", [curve], logarithmic=True)), COLOURS[0])
    slope, offset = np.polyfit(found[:, 1], found[:, 0], 1)
    assert np.abs(slope * found[:, 1] + offset - found[:, 0]).max() < 4


def test_nan_breaks_a_curve():
    values = [1.0] * 20 + [math.nan] * 20 + [1.0] * 20
    points = [(float(i), v) for i, v in enumerate(values)]
    columns = np.unique(_where(_drawn(Chart("", [Curve("a", points)])), COLOURS[0])[:, 1])
    assert np.diff(columns).max() > 60


def test_every_curve_has_its_colour_in_plot_and_legend():
    curves = [Curve(f"curve {i}", [(1, i), (2, i + 1.0)]) for i in range(len(COLOURS))]
    pixels = _drawn(Chart("title", curves, marks=(0.0,), star=(1, 1.0)))
    assert all(len(_where(pixels, colour)) > 20 for colour in COLOURS)
