import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from gdmnet.compare.judge import (
    FEATURES,
    GroupNormEncoder,
    Judge,
    Subject,
    _training_patch,
    in_own_units,
    make_judge,
    patch_starts,
    read_encoder,
    thin_subjects,
)
from gdmnet.compare.settings import JUDGE_KINDS, JudgeSettings
from gdmnet.encoders.frozen import FrozenEncoder
from gdmnet.errors import CheckpointError, TrainingError
from gdmnet.models import checkpoint
from gdmnet.models.checkpoint import weights_sha256
from gdmnet.plan import Architecture

SHAPE = (16, 24, 28)


def subject(seed=0, *, shape=SHAPE, offset=100.0, **more):
    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.normal(size=shape), 1.0) * 300 + offset
    mask = np.zeros(shape, np.uint8)
    mask[2:-2, 3:-3, 3:-3] = 1
    return Subject(f"s{seed}", image.astype(np.float32), mask, (2.0, 1.0, 1.0), **more)


@pytest.mark.parametrize("kind", JUDGE_KINDS)
def test_a_judge_is_a_function_of_its_seed_and_of_its_own_width(kind):
    reals = [subject(0), subject(1)]
    first, again, other = (
        make_judge(reals, JudgeSettings(kind=kind, iterations=2, seed=s)) for s in (0, 0, 1)
    )
    assert weights_sha256(first.encoder) == weights_sha256(again.encoder)
    assert weights_sha256(first.encoder) != weights_sha256(other.encoder)
    assert first.encoder.encoder.channels == FEATURES != (16, 32, 32)
    has_norms = any(isinstance(m, torch.nn.GroupNorm) for m in first.encoder.modules())
    assert has_norms == (kind == "groupnorm")
    assert kind in first.description


def test_training_changes_the_weights_and_a_random_judge_has_none():
    reals = [subject()]
    random, trained = (
        make_judge(reals, JudgeSettings(kind=kind, iterations=2)).encoder.state_dict()
        for kind in ("random", "self")
    )
    assert random.keys() == trained.keys()
    assert all(not torch.equal(random[name], trained[name]) for name in random)


class Given(torch.nn.Module):
    """Two known maps: the image and its square, on two grids."""

    def forward(self, x):
        return [torch.cat([x, -x], 1), (x**2)[..., ::2]]


def test_features_are_means_and_deviations_of_maps_over_patches(rng):
    image = rng.normal(size=(10, 12, 14)).astype(np.float32) * 5 + 3
    judge = Judge("given", FrozenEncoder(Given()), (4, 5, 6), 3.0, 5.0)
    starts = [(0, 0, 0), (3, 4, 5), (6, 7, 8)]
    found = judge.features(image, starts)
    for row, (z, y, x) in zip(found, starts, strict=True):
        p = (image[z : z + 4, y : y + 5, x : x + 6].astype(float) - 3) / 5
        squares = p[..., ::2] ** 2
        expected = [p.mean(), -p.mean(), p.std(), p.std(), squares.mean(), squares.std()]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_hounsfield_units_stay_and_others_become_shares_of_the_real_range():
    one = subject()
    inside = one.mask != 0
    ct = one.real.copy()
    ct[0, 0, 0] = -1000
    np.testing.assert_array_equal(in_own_units(one.real + 7, ct, inside), one.real + 7)
    shares = in_own_units(one.real, one.real, inside)
    assert np.percentile(shares[inside], (0.5, 99.5)) == pytest.approx([0, 1], abs=1e-5)
    scaled = in_own_units(one.real * 3 + 5, one.real * 3 + 5, inside)
    np.testing.assert_allclose(scaled, shares, atol=1e-5)
    flat = np.ones(SHAPE)
    assert np.isfinite(in_own_units(flat, flat, inside)).all()


def test_units_are_those_of_the_body_and_patches_of_features_are_half_as_long():
    one = subject()
    inside = one.mask != 0
    one.real[~inside] = 900  # shares of the range far above 1
    judge = make_judge([one], JudgeSettings(kind="random"))
    assert 0.2 < judge.centre < 0.8
    assert 0.05 < judge.scale < 0.3
    assert _training_patch(one) == (16, 16, 16)
    assert judge.patch == (8, 8, 8)


def test_every_real_image_counts_alike():
    reals = [subject(0, offset=-1000), subject(1, offset=-700)]  # read as HU
    assert make_judge(reals, JudgeSettings(kind="random")).centre == pytest.approx(-850, abs=20)


def test_patches_lie_around_the_mask_and_in_the_volume(rng):
    inside = np.zeros((20, 20, 20), bool)
    inside[12:, 3:5, 18:] = True
    starts = np.array(patch_starts(inside, (4, 6, 8), 200, rng))
    assert starts.min(axis=0).tolist() == [10, 0, 12]
    assert starts.max(axis=0).tolist() == [16, 1, 12]


@pytest.mark.parametrize(
    ("shape", "spacing", "patch"),
    [
        ((100, 200, 200), (1.0, 1.0, 1.0), (32, 32, 32)),
        ((100, 200, 200), (4.0, 1.0, 1.0), (8, 32, 32)),
        ((1, 200, 20), (4.0, 1.0, 1.0), (1, 32, 16)),
        ((30, 200, 200), (100.0, 1.0, 1.0), (1, 32, 32)),
    ],
)
def test_the_patch_is_a_cube_in_millimetres_as_far_as_the_image_reaches(shape, spacing, patch):
    image = np.zeros(shape, np.float32)
    assert _training_patch(Subject("s", image, image, spacing)) == patch


@pytest.mark.parametrize("shape", [(1, 40, 40), (9, 9, 9)])
def test_single_slices_and_small_volumes_can_be_judged(shape):
    mask = np.ones(shape)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    judge = make_judge([Subject("s", image, mask, (5.0, 1.0, 1.0))], JudgeSettings(iterations=1))
    starts = patch_starts(mask != 0, judge.patch, 5, np.random.default_rng(0))
    assert np.isfinite(judge.features(image, starts)).all()


def test_many_subjects_are_thinned_evenly():
    assert list(thin_subjects(range(100), 4)) == [0, 25, 50, 75]
    assert list(thin_subjects(range(3), 4)) == [0, 1, 2]


def test_images_that_are_the_same_everywhere_are_refused():
    flat = np.ones(SHAPE, np.float32)
    with pytest.raises(TrainingError, match="same everywhere"):
        make_judge([Subject("s", flat, flat, (1.0, 1.0, 1.0))], JudgeSettings())


def test_the_encoder_of_a_training_can_be_the_judge_of_another(tmp_path):
    from gdmnet import codec
    from gdmnet.encoders.self_supervised import WEIGHTS, encoder_for

    ones, twos, threes = (1, 1, 1), (2, 2, 2), (3, 3, 3)
    architecture = Architecture((4, 8, 8), (threes,) * 3, (ones, twos, twos), ones)
    encoder = encoder_for(architecture, seed=3)
    file = tmp_path / "encoder.pt"
    settings = {"architecture": codec.encode(architecture)}
    checkpoint.save(file, {"settings": settings, WEIGHTS: encoder.state_dict()})
    given = read_encoder(file)
    assert weights_sha256(given) == weights_sha256(FrozenEncoder(encoder))
    judge = make_judge([subject()], JudgeSettings(encoder=file))
    assert judge.description == f"encoder {file}"
    assert judge.features(subject().real, [(0, 0, 0)]).shape == (1, 2 * (16 + 32 + 32))
    checkpoint.save(file, {WEIGHTS: encoder.state_dict()})
    with pytest.raises(CheckpointError, match="no encoder of gdm_train"):
        read_encoder(file)


def test_group_norm_hides_a_gain_that_plain_convolutions_see():
    from gdmnet.encoders.self_supervised import encoder_for

    architecture = Architecture((1,), ((3, 3, 3),), ((1, 1, 1),), (1,))
    plain = encoder_for(architecture, seed=0, features=FEATURES)
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.allclose(plain(2 * x)[0], 2 * plain(x)[0], atol=1e-5)
    normed = GroupNormEncoder(plain)
    assert torch.allclose(normed(2 * x)[0], normed(x)[0], atol=1e-3)
