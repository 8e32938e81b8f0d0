import numpy as np
import pytest

from gdmnet.report.wavelet import LIFTS, SCALE, bands, forward, inverse

SHAPES = [(16, 17, 18), (1, 30, 31), (9, 8, 40), (3, 4, 5), (33, 64, 2)]


def mirrored(i, n):
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


def split_slowly(line):
    """One level of one line, a sample at a time."""
    line, n = [float(value) for value in line], len(line)
    for number, weight in enumerate(LIFTS):
        for i in range(1 - number % 2, n, 2):
            line[i] += weight * (line[mirrored(i - 1, n)] + line[mirrored(i + 1, n)])
    return [v * SCALE for v in line[0::2]] + [v / SCALE for v in line[1::2]]


@pytest.mark.parametrize("shape", SHAPES)
def test_volumes_come_back(rng, shape):
    volume = rng.normal(0, 100, shape).astype(np.float32)
    assert np.allclose(inverse(forward(volume)), volume, atol=1e-2)


@pytest.mark.parametrize("n", [9, 10, 16])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_level_is_the_slow_one(rng, n, axis):
    shape = [1, 1, 1]
    shape[axis] = n  # at most 16: after one level no axis is longer than 8
    volume = rng.normal(0, 1, shape)
    assert np.allclose(forward(volume).ravel(), split_slowly(volume.ravel()), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_bands_tile_the_volume(shape):
    seen = np.zeros(shape, int)
    for box in bands(shape):
        seen[box] += 1
    assert (seen == 1).all()


def test_a_constant_lies_in_the_overview_alone():
    coefficients = forward(np.full((20, 20, 20), 7.0))
    boxes = bands(coefficients.shape)
    assert all(np.abs(coefficients[box]).max() < 1e-4 for box in boxes[1:])
    assert (coefficients[boxes[0]] > 7).all()


def test_an_error_in_coefficients_is_about_as_large_in_the_volume(rng):
    wrong = rng.normal(0, 1, (32, 32, 32))
    assert np.std(inverse(wrong)) == pytest.approx(1, abs=0.1)


def test_bands_are_counted_in_binary_from_z():
    low, high = slice(0, 8), slice(8, 16)
    assert bands((16, 16, 16))[:4] == [
        (low, low, low),
        (high, low, low),
        (low, high, low),
        (high, high, low),
    ]
