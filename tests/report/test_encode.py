import base64
import zlib

import numpy as np
import pytest
from report.phantoms import unpack

from gdmnet.errors import OutputError
from gdmnet.report.encode import FINEST_STEP, pack, pack_mask, reduce, reduction


def size(packed):
    return sum(len(one.text) for one in packed)


def test_what_is_packed_is_shown_within_what_is_said(rng):
    volume = np.cumsum(rng.normal(0, 10, (20, 24, 31)), axis=2).astype(np.float32)
    (packed,) = pack([volume], [1000.0], 1_000_000)
    shown = unpack(packed.text, packed.step, volume.shape)
    assert packed.step == FINEST_STEP * 1000
    assert packed.rms == pytest.approx(np.sqrt(np.mean((shown - volume) ** 2)), rel=1e-3)
    assert packed.rms < packed.step
    assert np.abs(shown - volume).max() < 6 * packed.step


@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 5, 8), (4, 4, 4)])
def test_large_and_negative_values_come_back_whatever_the_shape(shape):
    volume = np.zeros(shape, np.float32)
    volume[0, 2, 3], volume[-1, 1, -1] = 70_000, -70_000
    (packed,) = pack([volume], [200.0], 1_000_000)
    assert np.abs(unpack(packed.text, packed.step, shape) - volume).max() < 10


def test_values_far_beyond_the_scale_get_coarser_steps_and_stay():
    volume = np.full((8, 8, 8), 1e6, np.float32)
    (packed,) = pack([volume], [1.0], 1_000_000)
    assert np.abs(unpack(packed.text, packed.step, volume.shape) / 1e6 - 1).max() < 1e-4


def test_details_of_blocks_cost_less_than_differences(rng):
    smooth = np.cumsum(np.cumsum(rng.normal(0, 1, (32, 32, 32)), axis=1), axis=2)
    volume = (smooth + rng.normal(0, 5, smooth.shape)).astype(np.float32)
    (packed,) = pack([volume], [100.0], volume.size // 6)
    step = 100.0
    for _ in range(60):  # the plain way: steps, differences along x, zlib, in as many bytes
        levels = np.rint(volume / step).astype(np.int16)
        text = base64.b64encode(zlib.compress(np.diff(levels, axis=2, prepend=0).tobytes(), 6))
        if len(text) > len(packed.text):
            break
        plain, step = np.sqrt(np.mean((levels * step - volume) ** 2)), step / 1.1
    assert packed.rms < 0.8 * plain


@pytest.mark.parametrize("n_bytes", [8_000, 30_000])
def test_packing_keeps_to_the_bytes_and_uses_them(rng, n_bytes):
    volumes = [rng.normal(0, 100, (24, 32, 32)).astype(np.float32) for _ in range(2)]
    packed = pack(volumes, [100.0, 100.0], n_bytes)
    assert 0.85 * n_bytes < size(packed) <= n_bytes


def test_a_larger_scale_gets_coarser_steps(rng):
    volume = rng.normal(0, 100, (16, 16, 16)).astype(np.float32)
    fine, coarse = pack([volume, volume], [100.0, 300.0], 9_000)
    assert coarse.step == pytest.approx(3 * fine.step)
    assert coarse.rms > fine.rms


@pytest.mark.parametrize("n_bytes", [10, 0, -500])  # below 0: charts of many methods leave nothing
def test_what_cannot_fit_is_refused_in_a_line(rng, n_bytes):
    with pytest.raises(OutputError, match="show fewer methods at once"):
        pack([rng.normal(0, 1, (15, 16, 17))], [1.0], n_bytes)


def test_masks_are_bits_with_x_fastest():
    mask = np.zeros((2, 3, 5), np.uint8)
    mask[0, 0, 1] = mask[1, 2, 4] = 1
    data = zlib.decompress(base64.b64decode(pack_mask(mask)))
    bits = np.unpackbits(np.frombuffer(data, np.uint8))[: mask.size]
    assert np.flatnonzero(bits).tolist() == [1, 29]


def test_reduction_makes_the_finest_axis_coarser_first():
    assert reduction((200, 512, 512), (1.5, 0.9, 0.9)) == (2, 2, 2)
    assert reduction((40, 1024, 1024), (5.0, 0.5, 0.5)) == (1, 3, 3)
    assert reduction((100, 100, 100), (1.0, 1.0, 1.0)) == (1, 1, 1)
    assert reduction((1, 64, 64), (0.1, 1.0, 1.0), most_voxels=1024) == (1, 2, 2)


def test_reduced_voxels_are_means_of_blocks(rng):
    volume = rng.normal(0, 1, (5, 4, 7))
    reduced = reduce(volume, (2, 1, 3))
    assert reduced.shape == (3, 4, 3)
    assert reduced[0, 1, 1] == pytest.approx(volume[0:2, 1, 3:6].mean(), rel=1e-5)
    assert reduced[2, 3, 2] == pytest.approx(volume[4:, 3, 6:].mean(), rel=1e-5)
