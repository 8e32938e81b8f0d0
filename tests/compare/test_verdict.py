import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from gdmnet.compare.judge import Subject, make_judge
from gdmnet.compare.settings import JudgeSettings
from gdmnet.compare.verdict import give_verdict, subject_features
from gdmnet.metrics.frechet import compare, principal_axes
from gdmnet.metrics.image import match_mean_and_std

SHAPE = (14, 24, 26)


def subjects(change, *, n=3, first=0):
    made = []
    for seed in range(first, first + n):
        rng = np.random.default_rng(seed)
        real = (gaussian_filter(rng.normal(size=SHAPE), 0.7) * 100 + 300).astype(np.float32)
        mask = np.zeros(SHAPE, np.uint8)
        mask[1:-1, 2:-2, 2:-2] = 1
        made.append(Subject(f"s{seed}", real, mask, (2.0, 1.0, 1.0), change(real)))
    return made


@pytest.fixture(scope="module")
def judge():
    return make_judge(subjects(lambda x: x), JudgeSettings(kind="random"))


@pytest.fixture(autouse=True)
def _few_patches(monkeypatch):
    monkeypatch.setattr("gdmnet.compare.verdict.N_PATCHES", 120)
    monkeypatch.setattr("gdmnet.compare.verdict.FEWEST_A_SUBJECT", 40)


def test_perfect_predictions_are_no_way_from_the_real_and_blurred_ones_at_the_ceiling(judge):
    perfect = give_verdict(judge, subjects(lambda x: x))
    assert perfect.prediction.frechet.value == pytest.approx(0, abs=1e-6)
    assert perfect.prediction.kernel.value == pytest.approx(0, abs=1e-6)
    assert perfect.floor.frechet.value < perfect.ceiling.frechet.value
    blurred = give_verdict(judge, subjects(lambda x: gaussian_filter(x, 1.0, mode="nearest")))
    assert blurred.prediction.frechet.value == pytest.approx(
        blurred.ceiling.frechet.value, rel=1e-3
    )
    assert (blurred.n_subjects, blurred.n_patches) == (3, 120)
    mild = give_verdict(judge, subjects(lambda x: gaussian_filter(x, 0.5, mode="nearest")))
    assert 0 < mild.prediction.frechet.value < blurred.prediction.frechet.value
    assert 0 < mild.prediction.kernel.value < blurred.prediction.kernel.value


def test_the_numbers_are_those_of_the_features(judge):
    made = subjects(lambda x: x + 10)
    verdict = give_verdict(judge, made, seed=4)
    from gdmnet.models.seeds import numpy_rng

    rows = [
        subject_features(judge, one, n_patches=40, rng=numpy_rng(4, 1, i), match=False)
        for i, one in enumerate(made)
    ]
    real, guess = (np.concatenate([row[k] for row in rows]) for k in ("real", "prediction"))
    axes = principal_axes(real)
    assert verdict.n_dimensions == axes.axes.shape[1] <= 32
    assert verdict.prediction.frechet.value == pytest.approx(
        compare([axes(guess)], [axes(real)]).frechet.value
    )


def test_matching_takes_away_gain_and_offset_and_nothing_else(judge):
    made = subjects(lambda x: 3 * x - 40)
    plain, matched = (give_verdict(judge, made, match=match) for match in (False, True))
    assert plain.prediction.frechet.value > 1
    assert matched.prediction.frechet.value == pytest.approx(0, abs=1e-4)
    assert matched.matched


def test_matching_gives_mean_and_deviation_inside_the_mask(rng):
    image, real = rng.normal(size=(2, 6, 7, 8))
    inside = rng.random(image.shape) < 0.5
    found = match_mean_and_std(image * 4 + 9, real * 2 - 3, inside)[inside]
    assert found.mean() == pytest.approx((real * 2 - 3)[inside].mean(), abs=1e-5)
    assert found.std() == pytest.approx((real * 2 - 3)[inside].std(), abs=1e-5)
    constant = match_mean_and_std(np.ones(image.shape), real, inside)
    np.testing.assert_allclose(constant, real[inside].mean(), rtol=1e-4)


def test_what_lies_outside_the_mask_is_not_judged(judge):
    def spoilt(x):
        changed = x.copy()
        changed[0], changed[:, 0] = 1e5, -1e5
        return changed

    found = give_verdict(judge, subjects(spoilt))
    assert found.prediction.frechet.value == pytest.approx(0, abs=1e-6)


def test_the_floor_comes_from_others_or_from_halves_or_not_at_all(judge):
    made, others = subjects(lambda x: x), subjects(lambda x: None, n=2, first=10)
    assert give_verdict(judge, made, others).floor_from == "2 other real images"
    halves = give_verdict(judge, made)
    assert "halves of the 3" in halves.floor_from
    low, high = halves.floor.frechet.low, halves.floor.frechet.high
    assert 0.01 < low <= halves.floor.frechet.value <= high
    alone = give_verdict(judge, made[:1])
    assert alone.floor is None
    assert alone.prediction.frechet.low is None
    assert "--train-on" in alone.floor_from


def test_a_verdict_is_the_same_each_time(judge):
    made = subjects(lambda x: gaussian_filter(x, 0.5))
    assert give_verdict(judge, made, seed=1) == give_verdict(judge, made, seed=1)
    assert give_verdict(judge, made, seed=1) != give_verdict(judge, made, seed=2)
