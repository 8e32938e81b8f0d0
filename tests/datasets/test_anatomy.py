import numpy as np

from gdmnet.datasets.anatomy import TISSUES, coarsen, is_body, look_up, patient, smooth_noise


def test_coarsening_takes_means_of_blocks():
    fine = np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)
    coarse = coarsen(fine, (1, 2, 2))
    expected = [
        [fine[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() for x in range(2)] for y in range(2)
    ]
    assert np.allclose(coarse[0], expected)


def test_a_patient_is_painted_twice_as_fine_as_it_is_scanned(rng):
    assert patient(rng, (24, 26, 28)).shape == (48, 52, 56)
    assert patient(rng, (1, 26, 28)).shape == (1, 52, 56)


def test_every_tissue_is_found_in_a_few_patients(rng):
    found = set()
    for _ in range(3):
        found |= set(np.unique(patient(rng, (24, 40, 40))))
    assert found == set(range(len(TISSUES)))


def test_looking_up_lays_values_over_numbers():
    tissue = np.array([[0, 2], [1, 0]], dtype=np.uint8)  # air, muscle; fat, air
    assert np.array_equal(look_up(tissue, "CT"), [[-1000, 55], [-105, -1000]])
    assert np.array_equal(look_up(tissue, "T2"), np.float32([[0.0, 0.25], [0.6, 0.0]]))


def test_only_air_is_outside_the_body(rng):
    tissue = patient(rng, (24, 24, 24))
    assert np.array_equal(is_body(tissue), tissue > 0)


def test_smooth_noise_has_unit_spread_and_neighbours_alike(rng):
    noise = smooth_noise(rng, (32, 32, 32), 1.5)
    assert abs(noise.std() - 1) < 1e-3
    assert np.mean(noise[1:] * noise[:-1]) > 0.7
    assert abs(np.mean(noise[8:] * noise[:-8])) < 0.1
