import numpy as np
import pytest
from scipy import ndimage

from gdmnet.datasets.levels import contrast, look_alikes, outliers, signature, why_not_plausible
from gdmnet.datasets.phantom import make_patient

SHAPE = (24, 40, 40)


@pytest.fixture(scope="module")
def patients():
    return [make_patient(np.random.default_rng(seed), SHAPE) for seed in range(4)]


def test_hounsfield_units_are_plausible(patients):
    for _, ct, body in patients:
        assert why_not_plausible(ct, body) is None


def test_padding_around_the_field_of_view_is_no_air(patients):
    _, ct, body = patients[0]
    padded = np.where((body == 0) & (np.arange(40) < 20), -3024, ct)
    assert why_not_plausible(padded, body) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda ct: ct + 1024, "1024"),
        (lambda ct: ct / 1000, "normalised"),
        (lambda ct: ct + 200, "air outside the body is at -"),
        (lambda ct: ct * 0.5, "air outside the body is at -"),
        (lambda ct: np.where(ct > -900, ct + 150, ct), "soft tissue is at"),
        (lambda ct: np.clip(ct, -1024, 150), "windowed"),
    ],
)
def test_other_units_are_named(patients, change, text):
    _, ct, body = patients[0]
    assert text in str(why_not_plausible(change(ct), body))


def test_contrast_does_not_depend_on_scale_and_offset(patients):
    sources, _, body = patients[0]
    first = contrast(sources[0], body)
    np.testing.assert_allclose(contrast(3 * sources[0] + 100, body), first, atol=1e-4)
    assert not np.allclose(contrast(-sources[0], body), first, atol=0.1)


def test_a_contrast_among_others_is_an_outlier(patients):
    curves = [contrast(sources[0], body) for sources, _, body in patients]
    strange = contrast(np.exp(patients[0][0][0] / 100), patients[0][2])
    assert outliers([100.0] * 4, curves) == [None] * 4
    found = outliers([100.0] * 5, [*curves, strange])
    assert found[:4] == [None] * 4
    assert "contrast" in str(found[4])


def test_a_scale_among_others_is_an_outlier(patients):
    curves = [contrast(sources[0], body) for sources, _, body in patients]
    found = outliers([100.0, 900.0, 80.0, 0.5], curves)
    assert found[:3] == [None] * 3
    assert "0.00556 times" in str(found[3])
    assert outliers([1.0, 1e6], curves[:2]) == [None, None]  # too few to tell


def test_the_same_patient_is_recognised_though_shifted_and_noisy(patients):
    rng = np.random.default_rng(0)
    images = [(sources[0], body) for sources, _, body in patients]
    image, body = images[1]
    noisy = ndimage.shift(image, (0.4, 1.3, -0.6), order=1) + rng.normal(0, 5, SHAPE)
    images.append((noisy, ndimage.shift(body, (0.4, 1.3, -0.6), order=0)))
    found = look_alikes([signature(image, body) for image, body in images])
    assert [(i, j) for i, j, _ in found] == [(1, 4)]
    assert 0.9 < found[0][2] <= 1.0
