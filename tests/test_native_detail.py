"""Where source and target are the same quantity, a coarser grid costs the source nothing."""

from __future__ import annotations

import numpy as np
import pytest
from test_preprocessing import CT, SPACING, ZSCORE, configure, make_patient

from gdmnet.data.case import Volume
from gdmnet.geometry import Geometry
from gdmnet.preprocessing import prepare_volumes, restore

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
