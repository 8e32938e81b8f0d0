import numpy as np
import pytest

from gdmnet.compare.record import add_criteria, find_winners, pareto_front
from gdmnet.metrics.statistics import compare_paired


def values(histogram_w1, gradient_w1, spectrum_distance, edge_width, sharpness, mae=3.0):
    return {
        "mae": mae,
        "data_range": 60.0,
        "histogram_w1": histogram_w1,
        "gradient_w1": gradient_w1,
        "spectrum_distance": spectrum_distance,
        "edge_width": edge_width,
        "sharpness": sharpness,
    }


def criteria(*models, in_hu=True):
    scores = {str(i): {"a": found} for i, found in enumerate(models)}
    add_criteria(scores, in_hu=in_hu)
    return [scores[str(i)]["a"] for i in range(len(models))]


def test_plausibility_is_the_mean_share_of_the_models_mean_distance():
    first, second = criteria(values(1, 2, 3, 2.0, 0.5), values(3, 2, 1, 1.0, 1.0))
    assert first["plausibility"] == pytest.approx((0.5 + 1 + 1.5 + 2 + 2) / 5)
    assert second["plausibility"] == pytest.approx((1.5 + 1 + 0.5 + 0 + 0) / 5)


def test_too_sharp_is_as_far_from_real_as_too_blurred():
    blurred, noisy = criteria(values(1, 1, 1, 2.0, 0.8), values(1, 1, 1, 0.5, 1.25))
    assert blurred["plausibility"] == pytest.approx(noisy["plausibility"]) == pytest.approx(1)


def test_what_is_not_defined_for_all_models_does_not_count():
    first, second = criteria(values(1, 2, 3, None, 1.0), values(3, 2, 1, 5.0, 1.0))
    assert first["plausibility"] == pytest.approx((0.5 + 1 + 1.5 + 1) / 4)  # none differs: 1
    assert second["plausibility"] == pytest.approx((1.5 + 1 + 0.5 + 1) / 4)
    nothing = dict.fromkeys(("histogram_w1", "gradient_w1", "spectrum_distance"))
    (flat,) = criteria({"mae": 1.0, "data_range": 0.0, **nothing}, in_hu=False)
    assert flat["plausibility"] is None
    assert flat["fidelity"] is None


def test_fidelity_is_the_error_in_hu_or_in_percent_of_the_range():
    (in_hu,) = criteria(values(1, 1, 1, 1.0, 1.0))
    (relative,) = criteria(values(1, 1, 1, 1.0, 1.0), in_hu=False)
    assert in_hu["fidelity"] == 3
    assert relative["fidelity"] == pytest.approx(5)


def test_the_front_of_known_points():
    points = {"a": (1, 5), "b": (2, 3), "c": (3, 3), "d": (4, 1), "e": (5, 5)}
    assert pareto_front(points) == ("a", "b", "d")


def test_a_third_axis_can_save_a_point():
    flat = {"fast": (2.0, 2.0), "good": (1.0, 1.0)}
    assert pareto_front(flat) == ("good",)
    assert pareto_front({"fast": (2.0, 2.0, 1), "good": (1.0, 1.0, 16)}) == ("fast", "good")


def test_equal_points_are_both_on_the_front_and_unknown_ones_are_not():
    assert pareto_front({"a": (1, 1), "b": (1, 1), "c": (None, 0)}) == ("a", "b")
    assert pareto_front({"a": (None,)}) == ()


def cases(metric, values):
    return {str(i): {metric: float(value)} for i, value in enumerate(values)}


def test_a_winner_beats_every_other_method_beyond_chance(rng):
    base = rng.normal(50, 20, 12)
    better, noise = base - 1, rng.normal(0, 3, 12)
    methods = {"a": cases("mae", base), "b": cases("mae", better)}
    assert find_winners(methods, ["mae", "psnr"]) == {"mae": "b"}
    alike = {**methods, "c": cases("mae", better + noise - noise.mean())}
    assert find_winners(alike, ["mae"]) == {}


def test_the_interval_of_the_difference_decides_who_wins(rng):
    n_winners = 0
    for _ in range(20):
        first, second = rng.normal(0.5, 1, 9), rng.normal(0, 1, 9)
        found = compare_paired(second, first)
        winners = find_winners({"a": cases("mae", first), "b": cases("mae", second)}, ["mae"])
        expected = (
            {"mae": "b"} if found.ci95_high < 0 else {"mae": "a"} if found.ci95_low > 0 else {}
        )
        assert winners == expected
        n_winners += bool(winners)
    assert 0 < n_winners < 20


def test_a_winner_may_be_the_highest_or_the_nearest_to_one():
    ones = np.linspace(-0.01, 0.01, 6)
    methods = {"low": cases("psnr", 20 + ones), "high": cases("psnr", 30 + ones)}
    assert find_winners(methods, ["psnr"]) == {"psnr": "high"}
    sharp = {"noisy": cases("sharpness", 1.5 + ones), "near": cases("sharpness", 0.9 + ones)}
    assert find_winners(sharp, ["sharpness"]) == {"sharpness": "near"}
    # opposite errors do not make up for each other
    sharp["mixed"] = cases("sharpness", [0.5, 1.5] * 3)
    assert find_winners(sharp, ["sharpness"]) == {"sharpness": "near"}


def test_a_single_case_or_method_has_no_winner():
    assert find_winners({"a": cases("mae", [1]), "b": cases("mae", [2])}, ["mae"]) == {}
    assert find_winners({"a": cases("mae", [1, 2])}, ["mae"]) == {}
