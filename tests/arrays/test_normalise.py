from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet import plan
from gdmnet.arrays.normalise import SCHEMES, apply, background_value, fit, invert, scheme_of
from gdmnet.errors import SettingError
from gdmnet.plan import Normalisation

CT = Normalisation("ct", centre=-40.0, scale=350.0, low=-1024.0, high=3071.0, background=-1024.0)
ZSCORE = Normalisation("zscore", 0.0, 1.0, None, None, background=0.0)
PERCENTILES = replace(ZSCORE, scheme="percentiles")
NONE = replace(ZSCORE, scheme="none")


@pytest.fixture
def image(rng):
    return rng.gamma(2.0, 150.0, size=(5, 9, 8)).astype(np.float32)


@pytest.fixture
def body(rng):
    return (rng.random((5, 9, 8)) < 0.6).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("CT", "ct", "ct"),
        ("planning ct", "ct", "ct"),
        ("CBCT_2", "ct", "ct"),
        ("T1", "zscore", "percentiles"),
        ("active contrast", "zscore", "percentiles"),  # "ct" inside a word is none
        ("PET", "zscore", "percentiles"),
        ("noNorm", "none", "none"),
        ("None", "none", "none"),
    ],
)
def test_the_words_of_a_name_decide_the_scheme(name, source, target):
    assert scheme_of(name, target=False) == source
    assert scheme_of(name, target=True) == target
    assert {source, target} <= set(SCHEMES)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-2000, 5000),
    st.floats(1e-2, 5000),
    st.lists(st.floats(-3000, 4000, width=32), min_size=1, max_size=20),
)
def test_back_from_network_units_is_the_clipped_original(centre, scale, values):
    normalisation = Normalisation("ct", centre, scale, -1000.0, 2000.0, -1000.0)
    image = np.array(values, dtype=np.float32).reshape(1, 1, -1)
    back = invert(apply(image, normalisation), normalisation)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, np.clip(image, -1000, 2000), rtol=0, atol=2e-3)


def test_hounsfield_units_come_back_exactly_once_rounded():
    units = np.arange(-1024, 3072, dtype=np.float32)
    assert np.array_equal(np.rint(invert(apply(units, CT), CT)), units)


def test_a_prediction_beyond_the_window_is_clipped():
    assert invert(np.array([-50.0, 50.0], dtype=np.float32), CT).tolist() == [-1024, 3071]


def test_ct_and_none_keep_the_plan_s_numbers(image, body):
    assert fit(CT, image, body) == CT
    assert fit(NONE, image, body) == NONE
    np.testing.assert_array_equal(apply(image, NONE), image)


def test_percentiles_bring_the_body_s_first_and_last_hundredth_to_0_and_1(image, body):
    outside = np.where(body, image, 1e6).astype(np.float32)  # must not count
    fitted = fit(PERCENTILES, outside, body)
    values = apply(image, fitted)[body != 0]
    np.testing.assert_allclose(np.percentile(values, (1, 99)), (0, 1), atol=1e-6)
    assert fitted.low is None
    assert fitted.high is None
    np.testing.assert_allclose(invert(apply(image, fitted), fitted), image, atol=1e-2)


def test_zscore_clips_spikes_and_gives_mean_0_and_deviation_1(image, body):
    image[tuple(np.argwhere(body)[0])] = 1e5
    fitted = fit(ZSCORE, image, body)
    values = apply(image, fitted)[body != 0]
    assert abs(values.mean()) < 1e-5
    assert abs(values.std() - 1) < 1e-5
    assert values.max() < 6
    assert fitted.low == pytest.approx(np.percentile(image[body != 0], 0.5))
    assert fitted.high == pytest.approx(np.percentile(image[body != 0], 99.5))


@pytest.mark.parametrize("plan", [PERCENTILES, ZSCORE])
@pytest.mark.parametrize("level", [0.0, 7.5, 1e6])
def test_a_constant_image_never_divides_by_zero(plan, level):
    image = np.full((2, 3, 4), level, dtype=np.float32)
    fitted = fit(plan, image, np.ones(image.shape))
    assert fitted.scale > 0
    np.testing.assert_array_equal(apply(image, fitted), 0)


@pytest.mark.parametrize("plan", [PERCENTILES, ZSCORE])
def test_a_body_that_is_almost_one_value_keeps_what_differs(plan):
    image = np.zeros((10, 10, 10), dtype=np.float32)
    image[0, 0, :2] = 100
    fitted = fit(plan, image, np.ones(image.shape))
    assert apply(image, fitted)[0, 0, 0] > 0.5


def test_the_background_in_network_units_is_air_not_zero():
    assert background_value(CT) == pytest.approx((-1024 + 40) / 350)
    clipped = replace(CT, low=-500.0)
    assert background_value(clipped) == pytest.approx((-500 + 40) / 350)


def test_the_original_is_never_changed(image, body):
    before = image.copy()
    invert(apply(image, fit(ZSCORE, image, body)), CT)
    np.testing.assert_array_equal(image, before)


def test_what_cannot_be_and_an_empty_body_are_refused(image):
    assert set(SCHEMES) == set(plan.SCHEMES)
    for wrong in ({"scheme": "rank"}, {"scale": 0.0}, {"low": 3.0, "high": 2.0}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            replace(CT, **wrong)
    with pytest.raises(ValueError, match="the body is empty"):
        fit(ZSCORE, image, np.zeros(image.shape))
