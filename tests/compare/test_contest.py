import pytest

from gdmnet.compare.contest import add_criteria


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
    scores = {str(i): {"gdmnet": {"a": found}} for i, found in enumerate(models)}
    add_criteria(scores, in_hu=in_hu)
    return [scores[str(i)]["gdmnet"]["a"] for i in range(len(models))]


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
