from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gdmnet.encoders import FrozenEncoder
from gdmnet.encoders.self_supervised import (
    WEIGHTS,
    PlainEncoder,
    cell_shape,
    decoder_for,
    encoder_for,
    masked_error,
    random_encoder,
    random_mask,
    self_encoder,
)
from gdmnet.errors import CheckpointError
from gdmnet.plan import Architecture

CUBE = (3, 3, 3)


def architecture(strides, kernels=None) -> Architecture:
    n = len(strides)
    return Architecture((16,) * n, kernels or (CUBE,) * n, strides, (1,) * n)


ISOTROPIC = architecture(((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)))
THICK = architecture(((1, 1, 1), (1, 2, 2), (2, 2, 2)), ((1, 3, 3), (1, 3, 3), CUBE))
SLICE = architecture(((1, 1, 1), (1, 2, 2), (1, 2, 2)), ((1, 3, 3),) * 3)
FLAT = architecture(((1, 1, 1),))


@pytest.mark.parametrize(
    ("plan", "size", "sizes"),
    [
        (ISOTROPIC, (8, 12, 16), [(8, 12, 16), (4, 6, 8), (2, 3, 4)]),
        (ISOTROPIC, (7, 9, 11), [(7, 9, 11), (4, 5, 6), (2, 3, 3)]),
        (THICK, (6, 16, 12), [(6, 16, 12), (6, 8, 6), (3, 4, 3)]),
        (SLICE, (1, 16, 12), [(1, 16, 12), (1, 8, 6), (1, 4, 3)]),
        (FLAT, (4, 5, 6), [(4, 5, 6)] * 3),
    ],
)
def test_three_maps_follow_the_plans_strides_and_the_decoder_comes_back(plan, size, sizes):
    encoder = encoder_for(plan, seed=0)
    maps = encoder(torch.randn(2, 1, *size))
    assert [tuple(m.shape[2:]) for m in maps] == sizes
    assert [m.shape[1] for m in maps] == [16, 32, 32]
    assert decoder_for(encoder, seed=0)(maps).shape == (2, 1, *size)


def test_an_axis_that_the_plan_leaves_alone_is_not_mixed():
    encoder = encoder_for(SLICE, seed=0)
    assert [k[0] for k in encoder.kernels] == [1, 1, 1]
    first = torch.randn(1, 1, 3, 8, 8)
    second = first.clone()
    second[:, :, 0] += 1
    for a, b in zip(encoder(first), encoder(second), strict=True):
        assert not torch.equal(a[:, :, 0], b[:, :, 0])
        assert torch.equal(a[:, :, 1:], b[:, :, 1:])


def test_a_strided_axis_is_seen_as_a_whole_even_with_kernel_one_in_the_plan():
    plan = architecture(((1, 1, 1), (1, 2, 2), (2, 2, 2)), ((1, 3, 3),) * 3)
    assert encoder_for(plan, seed=0).kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3))


def test_contrast_passes_through_unnormalised():
    encoder = encoder_for(ISOTROPIC, seed=0)  # biases are zero: homogeneous
    x = torch.randn(1, 1, 8, 8, 8)
    for single, double in zip(encoder(x), encoder(2 * x), strict=True):
        torch.testing.assert_close(double, 2 * single)


def test_the_last_map_is_linear_and_the_middle_ones_are_not():
    encoder = encoder_for(ISOTROPIC, seed=0)
    fine, middle, coarse = encoder(torch.randn(1, 1, 16, 16, 16))
    assert coarse.min() / coarse.max() < -0.5
    assert fine.min() / fine.max() > -0.5
    assert middle.min() / middle.max() > -0.5


def test_weights_are_a_function_of_the_seed_and_kaiming_wide():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (encoder_for(ISOTROPIC, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)  # torch's own generator is not drawn from
    weight = "convolutions.1.weight"
    assert torch.equal(first[weight], again[weight])
    assert not torch.equal(first[weight], other[weight])
    wanted = np.sqrt(2 / (1 + 0.2**2) / (16 * 27))
    assert float(first[weight].std()) == pytest.approx(wanted, rel=0.03)


def test_a_frozen_encoder_stays_eval_and_passes_gradients_to_the_image_only():
    encoder = FrozenEncoder(nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)))
    outer = nn.ModuleDict({"encoder": encoder})
    outer.train()
    assert not any(module.training for module in encoder.modules())
    x = torch.randn(1, 1, 4, 4, 4, requires_grad=True)
    encoder(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize(
    ("spacing", "patch", "cell"),
    [
        ((3.0, 1.0, 1.0), (64, 128, 128), (4, 16, 16)),  # 5.3 voxels are rounded to 4
        ((1.0, 1.0, 1.0), (48, 48, 48), (8, 8, 8)),  # 16 is more than a quarter
        ((1.0, 1.0, 0.7), (1, 192, 128), (1, 16, 32)),  # a single slice
        ((5.0, 0.9, 0.7), (6, 128, 128), (1, 16, 32)),
        ((40.0, 20.0, 2.0), (32, 32, 64), (2, 2, 8)),  # at least 2
    ],
)
def test_cells_are_about_sixteen_millimetres(spacing, patch, cell):
    assert cell_shape(spacing, patch) == cell


@settings(deadline=None, max_examples=25)
@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.sampled_from([1, 2, 4])] * 3),
    st.floats(0, 0.99),
)
def test_masks_hide_an_exact_number_of_whole_cells(shape, cell, ratio):
    mask = random_mask(3, shape, cell, ratio=ratio, generator=torch.Generator().manual_seed(0))
    assert mask.shape == (3, 1, *shape)
    n_cells = int(np.prod([-(-s // c) for s, c in zip(shape, cell, strict=True)]))
    for patch in mask[:, 0].numpy():
        cells = [
            patch[z : z + cell[0], y : y + cell[1], x : x + cell[2]]
            for z in range(0, shape[0], cell[0])
            for y in range(0, shape[1], cell[1])
            for x in range(0, shape[2], cell[2])
        ]
        assert all(c.all() or not c.any() for c in cells)
        assert sum(c.all() for c in cells) == max(1, round(ratio * n_cells))


def test_every_patch_gets_a_mask_of_its_own():
    mask = random_mask(2, (16,) * 3, (4,) * 3, ratio=0.6, generator=torch.Generator())
    assert not torch.equal(mask[0], mask[1])


def test_the_error_counts_hidden_voxels_alone():
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(2, 1, 4, 4, 4, generator=generator) for _ in range(2))
    hidden = torch.rand(2, 1, 4, 4, 4, generator=generator) < 0.5
    pairs = zip(prediction[hidden].tolist(), target[hidden].tolist(), strict=True)
    by_hand = np.mean([(a - b) ** 2 for a, b in pairs])
    assert float(masked_error(prediction, target, hidden)) == pytest.approx(by_hand, rel=1e-5)
    prediction[~hidden] = 100
    assert float(masked_error(prediction, target, hidden)) == pytest.approx(by_hand, rel=1e-5)


def written(tmp_path, content):
    file = tmp_path / "encoder.pt"
    torch.save(content, file)
    return file


def test_a_written_encoder_is_read_back(tmp_path):
    encoder = encoder_for(ISOTROPIC, seed=3)
    file = written(tmp_path, {WEIGHTS: encoder.state_dict()})
    read = self_encoder(ISOTROPIC, file=file)
    x = torch.randn(1, 1, 8, 8, 8)
    for a, b in zip(encoder(x), read(x), strict=True):
        assert torch.equal(a, b)


def test_the_random_encoder_is_the_seeds_network():
    encoder = random_encoder(ISOTROPIC, seed=3)
    assert isinstance(encoder.encoder, PlainEncoder)
    wanted = encoder_for(ISOTROPIC, seed=3).state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in encoder.encoder.state_dict().items())


def test_files_that_do_not_fit_are_refused_by_name(tmp_path):
    weights = encoder_for(ISOTROPIC, seed=3).state_dict()
    lacking = {k: v for k, v in weights.items() if not k.endswith("1.bias")}
    infinite = {**weights, "convolutions.0.bias": torch.full((16,), torch.inf)}
    other = encoder_for(SLICE, seed=0).state_dict()
    contents = [
        {WEIGHTS: w} for w in (lacking, infinite, other, [1], {**weights, "convolutions.0.bias": 3})
    ] + [{}, [1, 2]]
    for content in contents:
        file = written(tmp_path, content)
        with pytest.raises(CheckpointError, match=r"encoder\.pt"):
            self_encoder(ISOTROPIC, file=file)


def test_missing_and_damaged_files_are_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt"):
        self_encoder(ISOTROPIC, file=tmp_path / "none.pt")
    file = written(tmp_path, {WEIGHTS: encoder_for(ISOTROPIC, seed=3).state_dict()})
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for content in (whole[:middle], b"", b"nonsense", flipped):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"encoder\.pt"):
            self_encoder(ISOTROPIC, file=file)
