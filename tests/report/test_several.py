"""A page of several methods: their numbers, charts and sections."""

import json
import re

import numpy as np
import pytest
from report.phantoms import several_methods, target, unpack

METHODS = ["gdm", "regression <b>", "flow, 4 steps"]


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return several_methods(tmp_path_factory.mktemp("several"), METHODS)


@pytest.fixture(scope="module")
def view(html):
    return json.loads(re.search(r'id="case-0">(.+?)</script>', html)[1])


def test_every_method_has_its_own_volume_and_all_share_the_targets_window(view):
    images = {p["title"]: p for p in view["pictures"] if p["kind"] in ("prediction", "target")}
    assert list(images) == [*METHODS, "target"]
    assert {(p["low"], p["high"]) for p in images.values()} == {
        (images["target"]["low"], images["target"]["high"])
    }
    for i, method in enumerate(METHODS):
        packed = images[method]["packed"]
        shown = unpack(packed["text"], packed["step"], tuple(view["shape"]))
        bone = target(0) > 300
        assert np.mean(shown[bone] - target(0)[bone]) == pytest.approx(50 * (i + 1), abs=10)


def test_places_are_of_the_mean_over_the_methods(view):
    bone = 3 * 4 * 6 / (3 * 7 * 10)  # of the voxels in a cube of 1 cm
    mean = bone * 100 + (1 - bone) * 10  # of 50, 100, 150 HU and of 5, 10, 15
    assert view["worst"][0]["error"] == pytest.approx(mean, rel=0.1)


def test_the_table_has_a_column_a_method_and_the_charts_one_part(html):
    heads = re.findall(r"<th [^>]+><button [^>]*>([^<]+)</button>", html)
    names = ["gdm", "regression &lt;b&gt;", "flow, 4 steps"]
    assert heads[2:5] == [f"MAE [HU]: {name}" for name in names]
    assert html.count("<h4>Histograms</h4>") == 1
    assert re.findall(r"<summary>(.+?) against the target", html) == names


def test_the_methods_stand_above_the_pictures_and_are_linked(html):
    assert html.index('<a href="#methods">Methods</a>') < html.index("<main>")
    assert html.index("<p>much</p>") < html.index('<section id="viewer"')
    assert "<td>equal steps" in html
    assert "no predictions.json" not in html
    assert "3 methods on the same 1 case." in html
