import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.inference import sliding
from gdmnet.inference.sliding import predict_volume
from gdmnet.inference.windows import (
    BODY_MARGIN,
    WEIGHT_FLOOR,
    Tiling,
    gaussian_weight,
    window_starts,
    windows,
)
from gdmnet.models.card import PredictionSettings

SIZES = st.tuples(st.integers(1, 13), st.integers(1, 19), st.integers(1, 23))
PATCHES = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 12))
STEPS = st.sampled_from([0.25, 0.5, 0.7, 1.0])


def predict(network, source, patch, **how):
    return estimate(network, source, patch, **how).mean


def estimate(network, source, patch, *, fill=None, region=(None, 0.0), spread=None, **how):
    tiling = Tiling(patch, fill or [0.0] * len(source), *region)
    settings = PredictionSettings(**how)
    return predict_volume(network, source, tiling, device="cpu", settings=settings, spread=spread)


def ramp(patch_size):
    """A different number at every place of a window."""
    return torch.arange(np.prod(patch_size), dtype=torch.float32).reshape(patch_size) / 100


def slow_prediction(source, patch, step, network):
    """The same in float64 from first principles: no padding, a voxel at a time."""
    shape = source.shape[1:]
    total, weights = np.zeros(shape), np.zeros(shape)
    for first in itertools.product(
        *(window_starts(n, p, step) for n, p in zip(shape, patch, strict=True))
    ):
        window = tuple(slice(f, f + p) for f, p in zip(first, patch, strict=True))
        output = network(torch.from_numpy(source[(slice(None), *window)])[None])[0, 0].numpy()
        for voxel in itertools.product(*(range(p) for p in patch)):
            distance = sum(
                ((v - (p - 1) / 2) / (p / 8)) ** 2 for v, p in zip(voxel, patch, strict=True)
            )
            nearest = sum((((p - 1) % 2) / 2 / (p / 8)) ** 2 for p in patch)
            weight = max(np.exp(-0.5 * (distance - nearest)), WEIGHT_FLOOR)
            place = tuple(f + v for f, v in zip(first, voxel, strict=True))
            total[place] += weight * output[voxel]
            weights[place] += weight
    return total / weights


@given(shape=SIZES, patch=PATCHES, step=STEPS, tta=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_perfect_predictor_is_reproduced_everywhere(shape, patch, step, tta, seed):
    source = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32) * 3
    result = predict(lambda x: x[:, 1:], source, patch, step_size=step, tta=tta, fill=[-7, 9])
    assert result.shape == (1, *shape)
    assert result.dtype == np.float32
    # up to 5 windows an axis are summed in fp32, and all say the same: the error grows with it
    np.testing.assert_allclose(result[0], source[1], rtol=5e-6)


def test_windows_are_blended_by_gaussian_weights(rng):
    source = rng.normal(size=(1, 5, 9, 11)).astype(np.float32)
    patch = (4, 5, 6)

    def network(x):
        return x + ramp(patch)

    result = predict(network, source, patch)
    np.testing.assert_allclose(result[0], slow_prediction(source, patch, 0.5, network), atol=1e-5)


@pytest.mark.parametrize("how", [{}, {"tta": True}, {"ensemble": "median"}])
def test_results_do_not_depend_on_how_many_patches_share_a_call(how, rng, monkeypatch):
    source, patch, sizes = rng.normal(size=(1, 7, 11, 13)).astype(np.float32), (4, 5, 6), []

    def network(x):  # three folds
        sizes.append(len(x))
        return torch.cat([x + ramp(patch), x.square(), x.sin()])

    single = estimate(network, source, patch, spread="opinions", **how)
    assert set(sizes) == {1}
    monkeypatch.setattr(sliding, "patches_a_call", lambda _: 3)
    several = estimate(network, source, patch, spread="opinions", **how)
    assert max(sizes) == 3
    np.testing.assert_allclose(several.mean, single.mean, atol=1e-5)
    np.testing.assert_allclose(several.std, single.std, atol=1e-5)


@given(size=st.integers(1, 200), patch=st.integers(1, 64), step=STEPS)
@settings(max_examples=200, deadline=None)
def test_window_starts_cover_the_axis_evenly(size, patch, step):
    size = max(size, patch)
    starts = window_starts(size, patch, step)
    covered = {voxel for start in starts for voxel in range(start, start + patch)}
    assert covered == set(range(size))
    gaps = np.diff(starts)
    assert len(gaps) == 0 or gaps.max() <= max(1, np.ceil(patch * step))
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("step", [0.0, -0.5, 1.01])
def test_a_step_size_outside_its_range_is_refused(step):
    with pytest.raises(ValueError, match="step size"):
        window_starts(10, 5, step)


def test_a_window_larger_than_the_axis_is_refused():
    with pytest.raises(ValueError, match="smaller than the window"):
        window_starts(4, 5, 0.5)


def test_the_weight_is_a_gaussian_of_an_eighth_of_the_patch_with_a_floor():
    weight = gaussian_weight((17, 33, 65))
    assert weight.max() == weight[8, 16, 32] == 1
    assert weight[8, 16, 0] == np.float32(WEIGHT_FLOOR)
    assert weight[8, 16, 32 + 8] == pytest.approx(np.exp(-0.5 * (8 / (65 / 8)) ** 2))
    assert weight[8 - 2, 16, 32] == pytest.approx(np.exp(-0.5 * (2 / (17 / 8)) ** 2))


def test_a_small_volume_is_padded_with_the_fill_of_each_channel():
    seen = []

    def network(x):
        seen.append(x.clone())
        return x[:, :1]

    source = np.ones((2, 2, 3, 4), dtype=np.float32)
    predict(network, source, (4, 3, 6), fill=[-5.0, 8.0])
    (patch,) = seen
    assert patch.shape == (1, 2, 4, 3, 6)
    assert patch[0, 0, 0, 0, 0] == -5
    assert patch[0, 1, 0, 0, 0] == 8
    assert patch[0, :, 1:3, :, 1:5].eq(1).all()


def test_there_is_one_network_call_a_window():
    calls = []

    def network(x):
        calls.append(x.shape)
        return x

    source = np.zeros((1, 6, 9, 9), dtype=np.float32)
    predict(network, source, (4, 6, 6))
    assert len(calls) == len(list(windows((6, 9, 9), (4, 6, 6), 0.5)))
    assert set(calls) == {(1, 1, 4, 6, 6)}


def test_tta_is_the_mean_over_all_mirrored_copies(rng):
    patch = (2, 3, 4)
    source = rng.normal(size=(1, *patch)).astype(np.float32)
    result = predict(lambda x: x * ramp(patch), source, patch, tta=True)
    copies = []
    for flips in itertools.product((False, True), repeat=3):
        axes = tuple(axis for axis, flip in enumerate(flips) if flip)
        copies.append(np.flip(np.flip(source[0], axes) * ramp(patch).numpy(), axes))
    np.testing.assert_allclose(result[0], np.mean(copies, axis=0), atol=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
def test_skipped_windows_change_nothing_near_the_body(rng, mirrored):
    source = rng.normal(size=(1, 6, 40, 60)).astype(np.float32)
    body = np.zeros((6, 40, 60), dtype=np.uint8)
    body[2:4, 5:9, 6:12] = 1
    near = (slice(None), slice(0, 9 + BODY_MARGIN), slice(0, 12 + BODY_MARGIN))
    far = (slice(None), slice(30, None), slice(40, None))
    if mirrored:
        body = np.ascontiguousarray(body[:, ::-1, ::-1])
        near = (slice(None), slice(31 - BODY_MARGIN, None), slice(48 - BODY_MARGIN, None))
        far = (slice(None), slice(0, 10), slice(0, 20))
    patch, calls = (6, 8, 8), []

    def network(x):
        calls.append(1)
        return x * ramp(patch)

    whole = predict(network, source, patch)
    n_all = len(calls)
    calls.clear()
    part = predict(network, source, patch, region=(body, -2.5))
    assert len(calls) < n_all / 3
    np.testing.assert_array_equal(part[0][near], whole[0][near])
    assert (part[0][far] == -2.5).all()


def test_skipping_knows_where_padding_moved_the_body(rng):
    source = rng.normal(size=(1, 3, 5, 50)).astype(np.float32)
    body = np.zeros((3, 5, 50), dtype=np.uint8)
    body[0, 0, 49] = 1
    result = predict(lambda x: x, source, (8, 8, 8), region=(body, 9.0))
    np.testing.assert_allclose(result[0][..., 42:], source[0][..., 42:], atol=1e-6)
    assert (result[0][..., 0] == 9).all()


def test_low_precision_outputs_are_summed_in_fp32(rng):
    source = rng.normal(size=(1, 9, 20, 20)).astype(np.float32)
    rounded = torch.from_numpy(source).bfloat16().float().numpy()
    result = predict(lambda x: x.bfloat16(), source, (4, 8, 8))
    assert np.abs(result - rounded).max() < 1e-5


def test_an_output_of_another_shape_is_refused():
    source = np.zeros((1, 4, 4, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="the network gave"):
        predict(lambda x: x[..., 1:], source, (4, 4, 4))


def folds(x):
    """Three opinions that differ by place and from fold to fold."""
    place = ramp(tuple(x.shape[2:]))
    return torch.cat([x * place, x + 0.3, (x * 0.5 - place).flip(4)])


def slow_opinions(source, patch, step, *, tta):
    """Every opinion about every voxel, with its weight, in float64: (weights, values) a voxel."""
    shape = source.shape[1:]
    found = {voxel: ([], []) for voxel in np.ndindex(shape)}
    weight = gaussian_weight(patch).astype(np.float64)
    all_flips = [
        flip for n in range(4) for flip in itertools.combinations((2, 3, 4), n) if tta or n == 0
    ]
    for window in windows(shape, patch, step):
        part = torch.from_numpy(source[(slice(None), *window)])[None]
        outputs = [folds(part.flip(flip)).flip(flip)[:, 0].double().numpy() for flip in all_flips]
        outputs = np.concatenate(outputs)
        for voxel in np.ndindex(patch):
            place = tuple(s.start + v for s, v in zip(window, voxel, strict=True))
            for output in outputs:
                found[place][0].append(weight[voxel])
                found[place][1].append(output[voxel])
    return found


@pytest.mark.parametrize("tta", [False, True])
def test_the_spread_is_the_weighted_deviation_of_all_opinions(rng, tta):
    source = rng.normal(size=(1, 4, 5, 7)).astype(np.float32) + 100
    patch = (3, 3, 4)
    result = estimate(folds, source, patch, tta=tta, spread="opinions")
    assert result.std.shape == (1, 4, 5, 7)
    assert result.std.dtype == np.float32
    for voxel, (weights, values) in slow_opinions(source, patch, 0.5, tta=tta).items():
        mean = np.average(values, weights=weights)
        std = np.average((np.array(values) - mean) ** 2, weights=weights) ** 0.5
        assert result.std[0][voxel] == pytest.approx(std, rel=1e-4)
        assert result.mean[0][voxel] == pytest.approx(mean, rel=1e-5)


def test_windows_alone_have_a_spread_and_a_single_window_has_none(rng):
    source = rng.normal(size=(1, 4, 4, 9)).astype(np.float32)
    patch = (4, 4, 6)
    std = estimate(lambda x: x + ramp(patch), source, patch, spread="opinions").std[0]
    assert (std[..., :3] == 0).all()  # one window only
    assert (std[..., 6:] == 0).all()
    assert (std[..., 3:6] > 0).all()


@pytest.mark.parametrize("tta", [False, True])
def test_the_mirrored_spread_is_that_of_each_fold_whatever_the_settings(rng, tta):
    source = rng.normal(size=(1, 4, 5, 7)).astype(np.float32)
    patch = (3, 3, 4)
    result = estimate(folds, source, patch, tta=tta, spread="mirrored")

    def pair(x, n):
        return torch.cat([folds(x)[n : n + 1], folds(x.flip(4)).flip(4)[n : n + 1]])

    each = [
        estimate(lambda x, n=n: pair(x, n), source, patch, spread="opinions").std
        for n in range(len(folds(torch.zeros(1, 1, *patch))))
    ]
    np.testing.assert_allclose(result.std**2, np.square(each).mean(axis=0), rtol=1e-4)
    np.testing.assert_array_equal(result.mean, estimate(folds, source, patch, tta=tta).mean)


@pytest.mark.parametrize("ensemble", ["mean", "median"])
@pytest.mark.parametrize("tta", [False, True])
def test_measuring_the_spread_changes_no_bit_of_the_prediction(rng, ensemble, tta):
    source = rng.normal(size=(1, 7, 9, 8)).astype(np.float32)
    results = [
        estimate(folds, source, (4, 5, 6), ensemble=ensemble, tta=tta, spread=spread)
        for spread in (None, "opinions")
    ]
    assert results[0].std is None
    np.testing.assert_array_equal(results[0].mean, results[1].mean)


def test_folds_are_combined_by_their_mean_or_median(rng):
    source = np.ones((1, 2, 2, 2), dtype=np.float32)
    levels = torch.tensor([0.0, 1.0, 10.0, 3.0, -7.0])

    def network(x, n):
        return x * levels[:n].reshape(n, 1, 1, 1, 1)

    for n, mean, median in ((1, 0, 0), (2, 0.5, 0.5), (3, 11 / 3, 1), (4, 3.5, 2), (5, 1.4, 1)):
        for ensemble, expected in (("mean", mean), ("median", median)):
            result = predict(lambda x, n=n: network(x, n), source, (2, 2, 2), ensemble=ensemble)
            np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_half_precision_opinions_have_their_spread_in_fp32():
    def network(x):
        return torch.cat([x, x + 1]).bfloat16()

    source = np.full((1, 2, 2, 2), 7.0, dtype=np.float32)
    result = estimate(network, source, (2, 2, 2), spread="opinions")
    np.testing.assert_allclose(result.std, 0.5)


def test_skipped_places_have_no_spread(rng):
    source = rng.normal(size=(1, 6, 40, 60)).astype(np.float32)
    body = np.zeros((6, 40, 60), dtype=np.uint8)
    body[2:4, 5:9, 6:12] = 1
    result = estimate(folds, source, (6, 8, 8), region=(body, -2.5), spread="opinions")
    assert (result.std[0][:, 30:, 40:] == 0).all()
    assert (result.std[0][2:4, 5:9, 6:12] > 0).all()
