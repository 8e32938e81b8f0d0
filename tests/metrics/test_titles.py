import math

import pytest

from gdmnet.metrics.titles import best_value, penalty, title_of


def test_every_metric_has_a_direction():
    assert penalty("ms_ssim", 0.9) < penalty("ms_ssim", 0.8)
    assert penalty("mae_bone", 5.0) < penalty("mae_bone", 6.0)
    assert penalty("bias_soft", -3.0) == penalty("bias_soft", 3.0)
    assert penalty("edge_width", 1.0) < penalty("edge_width", 0.5) == penalty("edge_width", 2.0)
    assert penalty("sharpness", 0.0) == math.inf
    assert penalty("mae", None) is None


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("psnr", "higher is better"),
        ("gain", "1 is best"),
        ("bias", "0 is best"),
        ("mae", "lower is better"),
    ],
)
def test_the_direction_is_said_in_words(metric, words):
    assert best_value(metric) == words


def test_metrics_without_a_title_are_called_by_their_name():
    assert (title_of("psnr"), title_of("mae_soft")) == ("PSNR [dB]", "mae soft")


def test_errors_carry_the_unit_of_the_images():
    assert title_of("mae", "HU") == "MAE [HU]"
    assert title_of("bias_bone", "HU") == "bias bone [HU]"
    assert title_of("gradient_w1", "HU") == "gradient w1 [HU/mm]"
    assert title_of("ssim", "HU") == "SSIM"
