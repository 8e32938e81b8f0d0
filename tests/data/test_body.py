"""N4: a strong bias field goes, the level stays, CT is left alone, one thread or many."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its own custom)

from gdmnet.data.body import Body, find_body, log_field, without_bias
from gdmnet.data.case import Volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry, shape_of

SPACING = (7.0, 4.0, 4.0)


def make_head(shape=(14, 26, 24)):
    """Two tissues in air under a bias field, the body, and one of the tissues."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = z**2 + y**2 + x**2 < 0.9
    grey = (np.sin(9 * x) * np.cos(8 * y + 3 * z) > 0) & body
    flat = np.where(body, np.where(grey, 300.0, 500.0) + rng.normal(0, 10, shape), 0.0)
    field = np.exp(0.5 * z + 0.4 * x * y - 0.5 * x)
    return (flat * field).astype(np.float32), body, grey


def corrected_by(sources, schemes, method, inside=None):
    volume = Volume(sources, Geometry(shape_of(sources), SPACING))
    if inside is None:
        body = find_body(volume, schemes, "body", None, case="a")
    else:
        body = Body(inside, "otsu", inside)
    return without_bias(volume, schemes, method, body)


def variation(image, where):
    return image[where].std() / image[where].mean()


def test_a_tissue_comes_out_flatter_and_the_level_stays():
    biased, body, grey = make_head()
    (corrected,) = corrected_by(biased[None], ["zscore"], "n4")
    assert variation(biased, grey) > 0.25
    assert variation(corrected, grey) < 0.3 * variation(biased, grey)
    assert corrected.dtype == np.float32
    inside = body & (biased > 0)
    assert np.log(corrected[inside]).mean() == pytest.approx(
        np.log(biased[inside]).mean(), abs=0.02
    )
    assert (corrected[~body] == 0).all()


def test_only_channels_on_an_arbitrary_scale_are_corrected():
    biased, _, _ = make_head()
    sources = np.stack([biased, biased, biased])
    corrected = corrected_by(sources, ["ct", "none", "percentiles"], "n4")
    np.testing.assert_array_equal(corrected[:2], sources[:2])
    assert (corrected[2] != sources[2]).any()
    np.testing.assert_array_equal(sources[2], biased)  # what was given is not changed
    assert corrected_by(sources, ["ct"] * 3, "n4") is sources
    assert corrected_by(sources, ["zscore"] * 3, "none") is sources


def test_the_field_does_not_depend_on_the_number_of_threads():
    biased, body, _ = make_head()
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    fields = []
    try:
        for n_threads in (1, 3):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(n_threads)
            fields.append(log_field(biased, body, SPACING))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == n_threads
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_array_equal(*fields)
    assert fields[0][body].mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 26, 24), (2, 26, 24), (14, 1, 24), (1, 1, 24), (2, 2, 2)])
def test_single_slices_and_thin_volumes_pass(shape):
    rng = np.random.default_rng(0)
    image = (rng.normal(300, 10, shape) * np.linspace(0.6, 1.6, shape[2])).astype(np.float32)
    field = log_field(image, np.ones(shape), SPACING)
    assert field.shape == shape
    assert np.isfinite(field).all()
    if max(shape[:2]) > 2:
        assert variation(image / np.exp(field), ...) < 0.3 * variation(image, ...)


def test_a_constant_image_has_hardly_a_field():
    field = log_field(np.full((6, 9, 9), 7.0), np.ones((6, 9, 9)), SPACING)
    np.testing.assert_allclose(field, 0, atol=0.01)


def test_an_image_that_is_no_gain_times_a_signal_is_refused():
    biased, body, _ = make_head()
    sources = np.stack([biased, (biased - 600) * body])
    with pytest.raises(DatasetError, match="source channel 1: is not positive in most of the body"):
        corrected_by(sources, ["ct", "zscore"], "n4", body)
