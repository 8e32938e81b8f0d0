"""Where source and target are the same quantity, a coarser grid costs the source nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_preprocessing import CT, SPACING, ZSCORE, configure, make_patient

from gdmnet.data.case import Volume
from gdmnet.geometry import Geometry
from gdmnet.preprocessing import prepare_volumes, restore
from gdmnet.training.run import detail_gain

COARSE = (3.0, 2.2, 2.6)


@pytest.fixture(scope="module")
def ct():
    _, image, _ = make_patient()
    geometry = Geometry(image.shape, SPACING)
    return Volume(image[None].astype(np.float32), geometry)


def restored(case):
    prediction = case.source[:1]  # of a network that corrects nothing
    array = restore(prediction, case.record, CT, body=case.outline, detail=case.detail)
    return array[0][tuple(slice(*side) for side in case.record.box)]


@pytest.mark.parametrize("spacing", [COARSE, (6.0, 1.1, 1.3), SPACING])
def test_without_a_correction_the_source_comes_back_voxel_by_voxel(ct, spacing):
    case, _ = prepare_volumes("a", ct, configure((CT,), spacing=spacing, residual_channel=0))
    here = ct.array[0][tuple(slice(*side) for side in case.record.box)].clip(CT.low, CT.high)
    inside = case.outline != 0
    np.testing.assert_allclose(restored(case)[inside], here[inside], atol=0.01)


def test_the_body_ends_where_it_ends_in_the_source(ct):
    configuration = configure((CT,), spacing=COARSE, residual_channel=0)
    case, _ = prepare_volumes("a", ct, configuration)
    np.testing.assert_array_equal(restored(case)[case.outline == 0], CT.background)
    assert prepare_volumes("a", ct, configuration, target=ct)[0].outline is None


def test_a_finer_grid_has_no_detail_to_give_back(ct):
    configuration = configure((CT,), spacing=(1.5, 1.0, 1.2), residual_channel=0)
    assert prepare_volumes("a", ct, configuration)[0].detail is None


def test_only_a_source_of_the_same_quantity_gives_detail_and_only_at_prediction(ct):
    other = configure((ZSCORE,), spacing=COARSE)
    assert prepare_volumes("a", ct, other)[0].detail is None
    same = configure((CT,), spacing=COARSE, residual_channel=0)
    assert prepare_volumes("a", ct, same)[0].detail is not None
    assert prepare_volumes("a", ct, same, target=ct)[0].detail is None


def test_of_noisy_detail_as_much_comes_back_as_costs_the_least_error(ct, rng):
    noise = rng.normal(0, 400, ct.array.shape).astype(np.float32)
    noisy = replace(ct, array=ct.array + noise)
    configuration = configure((CT,), spacing=COARSE, residual_channel=0)
    mask = Volume((ct.array > -500).astype(np.float32), ct.geometry)
    case = prepare_volumes("a", noisy, configuration, target=ct, mask=mask)[0]
    own, real = (prepare_volumes("a", image, configuration, mask=mask)[0] for image in (noisy, ct))
    inside = own.outline != 0
    gains = np.linspace(0, 1, 101)
    errors = [np.square(real.detail - a * own.detail)[0][inside].sum() for a in gains]
    assert detail_gain([case]) == pytest.approx(gains[np.argmin(errors)], abs=0.01)
    assert 0.05 < detail_gain([case]) < 0.5


def test_detail_comes_back_whole_where_pairs_are_equal_and_never_where_they_contradict(ct):
    configuration = configure((CT,), spacing=COARSE, residual_channel=0)
    inverted = replace(ct, array=80 - ct.array)
    mask = Volume((ct.array > -500).astype(np.float32), ct.geometry)

    def case(target):
        return prepare_volumes("a", ct, configuration, target=target, mask=mask)[0]

    assert detail_gain([case(ct), case(ct)]) == pytest.approx(1, abs=1e-6)
    assert detail_gain([case(inverted)]) == 0
    assert detail_gain([case(ct), case(inverted)]) < 0.1
    unpaired = prepare_volumes("a", ct, configure((ZSCORE,), spacing=COARSE), target=ct)[0]
    assert detail_gain([unpaired]) == 0
