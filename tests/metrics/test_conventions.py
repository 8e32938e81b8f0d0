import numpy as np
import pytest

from gdmnet.arrays.body import inscribed_circle
from gdmnet.metrics.conventions import CONVENTIONS, convention_ranges


def test_the_two_ranges_of_synthrad_are_where_the_challenge_put_them():
    spans = {name: rules.span for name, rules in CONVENTIONS.items()}
    assert spans["gdmnet"] is None
    assert {name: (s.low, s.low + s.width) for name, s in spans.items() if s} == {
        "synthrad2023": (-1024, 3000),
        "synthrad2025": (-1024, 3071),
        "synthrad2025-3000": (-1024, 3000),
        "sparse-ct": (-1024, 3071),
    }


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_metric_with_a_range_says_it(name):
    ranges = convention_ranges(name)
    assert {"mae", "bias", "psnr", "ssim", "ms_ssim"} <= set(ranges)
    for window in CONVENTIONS[name].windows:
        assert f"ssim_window_{window}" in ranges
    if name.startswith("synthrad"):
        assert "clipped" in ranges["psnr"]
        assert ranges["mae"] == "nothing clipped"


def test_the_windows_are_those_of_the_field():
    ranges = convention_ranges("sparse-ct")
    assert ranges["mae_window_soft"].startswith("400, -160 to 240")
    assert ranges["psnr_window_lung"].startswith("1400, -1000 to 400")


def test_the_circle_fills_its_share_of_the_slice_in_mm():
    circle = inscribed_circle((3, 100, 200), (5.0, 2.0, 1.0))
    assert circle.shape == (3, 100, 200)
    assert circle.mean() == pytest.approx(np.pi / 4, abs=0.01)
    assert np.array_equal(circle[0], circle[2])
    assert np.array_equal(circle, circle[:, ::-1, ::-1])
    wide = inscribed_circle((1, 100, 200), (5.0, 1.0, 1.0))
    assert wide.mean() == pytest.approx(np.pi / 8, abs=0.01)
    assert not wide[:, :, :49].any()
