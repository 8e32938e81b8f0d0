import numpy as np
import pytest
from scipy.spatial.distance import cdist

from gdmnet.metrics.structures import dice, hd95, score_structures

SPACING = (3.0, 1.0, 2.0)


def block(z, y, x, shape=(20, 30, 30)):
    mask = np.zeros(shape, dtype=bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def slow_hd95(prediction, reference, spacing):
    """Every pair of surface voxels: those with a face neighbour that is not in the mask."""

    def surface(mask):
        padded = np.pad(mask, 1)
        inner = np.logical_and.reduce(
            [np.roll(padded, step, axis) for axis in range(3) for step in (1, -1)]
        )
        return np.argwhere(mask & ~inner[1:-1, 1:-1, 1:-1]) * spacing

    distances = cdist(surface(prediction), surface(reference))
    return max(np.percentile(distances.min(axis), 95) for axis in (0, 1))


def test_a_shifted_box_has_the_dice_and_distance_of_the_formula():
    truth = block((5, 15), (10, 20), (8, 18))
    guess = block((5, 15), (10, 20), (11, 21))
    assert dice(guess, truth) == pytest.approx(0.7)
    assert type(dice(guess, truth)) is float
    assert hd95(guess, truth, SPACING) == pytest.approx(6)  # three voxels of 2 mm along x
    assert hd95(block((7, 17), (10, 20), (8, 18)), truth, SPACING) == pytest.approx(6)


def test_the_distance_equals_that_of_all_pairs(rng):
    from scipy.ndimage import gaussian_filter

    truth = gaussian_filter(rng.normal(size=(16, 20, 18)), 2) > 0.05
    guess = gaussian_filter(rng.normal(size=(16, 20, 18)), 2) > 0.06
    found = hd95(guess, truth, SPACING)
    assert found == pytest.approx(slow_hd95(guess, truth, SPACING))
    assert found == hd95(truth, guess, SPACING)


def test_the_95th_percentile_forgives_a_few_outliers():
    truth = block((0, 20), (5, 25), (5, 25))
    guess = truth.copy()
    guess[10, 29, 29] = True
    assert hd95(guess, truth, (1.0, 1.0, 1.0)) == 0


def test_labels_are_scored_one_by_one_and_averaged():
    reference = np.zeros((20, 30, 30), dtype=np.int32)
    reference[block((5, 15), (5, 15), (5, 15))] = 3
    reference[block((5, 15), (20, 28), (20, 28))] = 7
    prediction = np.where(reference == 3, 3, 0)
    prediction[block((5, 15), (20, 28), (18, 26))] = 7
    found = score_structures(prediction, reference, SPACING)
    assert found["dice_3"] == 1
    assert found["hd95_3"] == 0
    assert found["dice_7"] == pytest.approx(0.75)
    assert found["hd95_7"] == pytest.approx(4)
    assert found["dice"] == pytest.approx(0.875)
    assert found["hd95"] == pytest.approx(2)
    assert (found["n_structures"], found["n_structures_lost"]) == (2, 0)


def test_a_lost_structure_costs_all_and_an_invented_one_is_counted():
    reference, prediction = (np.zeros((4, 30, 40), dtype=np.int32) for _ in range(2))
    reference[1, 2:5, 2:5] = 1
    reference[2, 10:15, 10:15] = 2
    prediction[1, 2:5, 2:5] = 1
    prediction[3, 20:25, 20:25] = 9
    found = score_structures(prediction, reference, SPACING)
    assert found["dice_2"] == 0
    assert found["hd95_2"] == pytest.approx(np.sqrt(12**2 + 30**2 + 80**2))
    assert found["dice"] == pytest.approx(0.5)
    assert (found["n_structures_lost"], found["n_structures_invented"]) == (1, 1)
    assert "dice_9" not in found


def test_a_reference_without_structures_has_no_means():
    empty = np.zeros((4, 5, 6), dtype=np.int32)
    found = score_structures(empty + 2, empty, SPACING)
    assert found["dice"] is None
    assert found["hd95"] is None
    assert (found["n_structures"], found["n_structures_invented"]) == (0, 1)


def test_a_single_slice_has_contours_and_no_lids():
    reference, prediction = (np.zeros((1, 40, 40), dtype=np.int32) for _ in range(2))
    reference[0, 4:36, 4:36] = 1
    prediction[0, 4:36, 4:36] = 1
    prediction[0, 20, 20] = 0  # a hole far from every contour
    found = score_structures(prediction, reference, (1.0, 1.0, 1.0))
    assert found["hd95_1"] == 0
    moved = np.roll(reference, 1, axis=2)  # by far most voxels still lie on each other
    assert score_structures(moved, reference, (1.0, 1.0, 1.0))["hd95_1"] == 1
    prediction[0, 10:30, 10:30] = 0
    assert score_structures(prediction, reference, (1.0, 1.0, 1.0))["hd95_1"] > 3
