import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from gdmnet.metrics.calibration import calibrate
from gdmnet.report.figures import (
    agreement,
    bands_figure,
    bland_altman_figure,
    calibration_figure,
    histogram_figure,
)


def figures_of(rng, unit="HU"):
    target = rng.uniform(-1000, 1000, (6, 20, 20))
    prediction = target + np.where(target > 200, 50, -10)
    found = agreement(prediction, target, np.ones(target.shape), (-200.0, 200.0))
    return found, [bland_altman_figure(found, unit), bands_figure(found, unit)]


def test_every_figure_is_told_in_words(rng):
    found, figures = figures_of(rng)
    titles = [re.search("<h4>(.+?)</h4>", figure)[1] for figure in figures]
    assert titles == ["Bland-Altman", "Bias by tissue band"]
    assert all("<desc>" in figure and "<figcaption>" in figure for figure in figures)
    assert f"Bias {found.whole.bias:.4g} HU" in figures[0]


def pixels(figure):
    """The density of a figure, true where there are voxels, (rows from below, columns)."""
    data = re.search('base64,([^"]+)', figure)[1]
    assert re.search(r"matrix\(\S+ 0 0 -", figure)  # rows are stored from below
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))[..., 3] > 0


def test_means_go_to_the_right_and_differences_up(rng):
    target = rng.uniform(-500, 500, (6, 20, 20))
    found = agreement(target + 400, target, np.ones(target.shape), (0.0,))
    differences = bland_altman_figure(found, "HU")
    up, right = np.nonzero(pixels(differences))
    assert np.ptp(up) < 3 < 40 < np.ptp(right)  # one difference, at many means


@pytest.mark.parametrize("shape", [(3, 17, 21), (1, 5, 64)])
def test_medians_are_those_of_the_voxels_in_the_mask(rng, shape):
    target, mask = rng.normal(30, 20, shape), rng.uniform(size=shape) < 0.5
    target[0, 0, :5] = 30_000, -30_000, 20_000, 9000, 8000  # wide bins
    text = histogram_figure({"target": target, "prediction": target + 4}, mask, "HU")
    said = re.search(r"Medians: target (\S+) HU, prediction (\S+) HU", text).groups()
    median = np.median(target[mask])
    assert [float(word) for word in said] == pytest.approx([median, median + 4], rel=1e-3)


def test_bands_stand_in_a_table(rng):
    _, figures = figures_of(rng)
    row = re.search(r"<th scope=row>above 200(.+?)<tr>", figures[1])[1]
    assert re.findall("<td>([^<]+)", row)[1:] == ["50.00", "0.00", "50.00"]
    _, plain = figures_of(rng, "")
    assert "Bias by intensity" in plain[1]


def test_one_histogram_needs_no_target():
    volume = np.array([[[1.0, 1.5, 9.0]]])
    figure = histogram_figure({"prediction": volume}, np.ones(volume.shape), "")
    assert "<h4>Histogram</h4>" in figure
    assert "prediction 1.5" in figure


def test_a_collapsed_prediction_has_a_histogram(rng):
    nearly = (-1000 + rng.normal(0, 1e-3, (5, 13, 17))).astype(np.float32)
    assert "prediction -1000" in histogram_figure({"prediction": nearly}, nearly != 0, "HU")


def test_calibration_says_what_to_multiply_by(rng):
    spread = rng.uniform(1, 5, (8, 30, 30))
    error = 2 * spread * rng.normal(size=spread.shape)
    text = calibration_figure(calibrate(spread, error, np.ones(spread.shape)), "HU")
    assert "too small" in text
    assert re.search(r"multiplied by (1\.9|2\.0|2 )", text)
