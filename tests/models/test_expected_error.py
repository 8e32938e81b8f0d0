from __future__ import annotations

import numpy as np
import pytest
import small_models

from gdmnet import codec
from gdmnet.errors import PlanError
from gdmnet.models.card import PredictionSettings
from gdmnet.models.expected_error import ExpectedError, difficulty


def test_a_voxel_is_looked_up_by_its_tissue_and_its_difficulty():
    table = small_models.make_expected()
    prediction = np.array([[0.0, 199.9, 200.0], [-1000.0, 900.0, 900.0]])
    difficulty = np.array([[0.0, 5.0, 0.0], [5.1, 4.0, 1e6]])
    widths = table.half_width(prediction, difficulty)
    assert widths.tolist() == [[10, 20, 100], [30, 200, 300]]
    assert table.expected_mae(prediction, difficulty) == pytest.approx(widths.mean() / 2)


def test_the_difficulty_is_that_of_a_slow_count(rng):
    shape, spacing = (6, 9, 12), (20.0, 10.0, 5.0)  # the cube is 2 x 4 x 8 voxels
    prediction, spread = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    body = np.zeros(shape, np.uint8)
    body[1:5, 2:8, 2:11] = 1
    found = difficulty(prediction, np.abs(spread), body, spacing)
    for z, y, x in ((3, 5, 6), (1, 3, 4)):
        around = (slice(z - 1, z + 1), slice(y - 2, y + 2), slice(x - 4, x + 4))
        disagreement = np.sqrt((spread[around] ** 2)[body[around] > 0].mean())
        near = tuple(slice(i - 1, i + 2) for i in (z, y, x))
        assert found[z, y, x] == pytest.approx(
            np.sqrt(disagreement * prediction[near].std()), rel=1e-3
        )
    scaled = difficulty(7 * prediction + 3, 7 * np.abs(spread), body, spacing)
    np.testing.assert_allclose(scaled[2:4], 7 * found[2:4], rtol=1e-3)
    assert found.dtype == np.float32
    assert not difficulty(prediction, 0 * spread, body, spacing).any()


def test_it_is_about_predictions_that_are_made_as_the_measured_ones():
    table = small_models.make_expected(folds=("0", "1"))
    assert table.fits({"1"}, PredictionSettings(tta=True, mixed_folds=True))
    assert not table.fits({"0", "all"}, PredictionSettings())
    for other in ({"step_size": 0.7}, {"realism": 1.0}, {"finish": False}, {"checkpoint": "best"}):
        assert not table.fits({"0"}, PredictionSettings(**other))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"half_widths": [1.0]}, "need 6 entries"),
        ({"means": [-1.0] * 6}, "means must be at least 0"),
        ({"difficulty_edges": [5.0, 0.0]}, "must ascend"),
        ({"mae": [1.0]}, "ranges two ends"),
        ({"coverage": [0.5, 1.5]}, "coverage must be at most 1|at least 0 and at most 1"),
        ({"n_cases": 1}, "n_cases must be at least 2"),
        ({"band_edges": ["x"]}, "band_edges"),
        ({"more": 1}, "unknown key"),
    ],
)
def test_a_table_that_says_something_else_is_refused_with_its_file(tmp_path, changes, words):
    path = tmp_path / "expected_error.json"
    codec.save(codec.encode(small_models.make_expected()) | changes, path)
    with pytest.raises(PlanError, match=words) as error:
        codec.load(ExpectedError, path)
    assert "expected_error.json" in str(error.value)
