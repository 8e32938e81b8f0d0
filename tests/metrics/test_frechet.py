import numpy as np
import pytest
from scipy.linalg import sqrtm

from gdmnet.metrics.frechet import MOST_DIMENSIONS, compare, principal_axes


def frechet_distance(first, second):
    return compare([first], [second]).frechet.value


def kernel_distance(first, second, *, paired=False):
    return compare([first], [second], paired=paired).kernel.value


def sample_with(rng, mean, covariance, n=400):
    """Samples whose sample mean and covariance are exactly these."""
    x = rng.normal(size=(n, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def slow_kernel_distance(first, second, *, paired):
    """Gretton et al. 2012: plain sums over pairs."""

    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    def mean(xs, ys, *, skip):
        pairs = [(i, j) for i in range(len(xs)) for j in range(len(ys)) if not (skip and i == j)]
        return np.mean([k(xs[i], ys[j]) for i, j in pairs])

    within = mean(first, first, skip=True) + mean(second, second, skip=True)
    return within - 2 * mean(first, second, skip=paired)


def test_the_frechet_distance_of_gaussians_is_the_closed_form(rng):
    a, b = rng.normal(size=(2, 5, 5))
    s1, s2 = a @ a.T + np.eye(5), b @ b.T + np.eye(5)
    m1, m2 = rng.normal(size=(2, 5))
    found = frechet_distance(sample_with(rng, m1, s1), sample_with(rng, m2, s2))
    expected = np.sum((m1 - m2) ** 2) + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert found == pytest.approx(expected, rel=1e-6)


def test_shift_and_scale_have_their_known_distances(rng):
    x = sample_with(rng, np.zeros(3), np.eye(3))
    assert frechet_distance(x + np.array([3, 0, 4]), x) == pytest.approx(25)
    assert frechet_distance(2 * x, x) == pytest.approx(3 * (2 - 1) ** 2)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("paired", [False, True])
def test_the_kernel_distance_is_the_plain_sum(rng, paired):
    first, second = rng.normal(size=(9, 4)), rng.normal(size=(9, 4)) + 0.5
    found = kernel_distance(first, second, paired=paired)
    assert found == pytest.approx(slow_kernel_distance(first, second, paired=paired))


def test_the_kernel_distance_is_unbiased(rng):
    found = [kernel_distance(*rng.normal(size=(2, 8, 3))) for _ in range(3000)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    assert min(found) < 0
    assert kernel_distance(rng.normal(size=(50, 3)) + 1, rng.normal(size=(50, 3))) > 1


def test_a_paired_set_is_no_way_from_itself(rng):
    x = rng.normal(size=(20, 3))
    assert kernel_distance(x, x, paired=True) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("paired", [False, True])
def test_comparing_subjects_is_comparing_all_of_their_patches(rng, paired):
    first = [rng.normal(size=(n, 4)) for n in (5, 9, 7)]
    second = [x + rng.normal(size=x.shape) for x in first]
    found = compare(first, second, paired=paired)
    everything = np.concatenate(first), np.concatenate(second)
    assert found.frechet.value == pytest.approx(frechet_distance(*everything))
    assert found.kernel.value == pytest.approx(kernel_distance(*everything, paired=paired))


def test_resampling_subjects_is_repeating_their_patches_without_pairs_of_copies(rng):
    from gdmnet.metrics.frechet import _gaussians, _kernel_means

    features = [rng.normal(size=(n, 2)) for n in (4, 6)]
    others = [rng.normal(size=(n, 2)) for n in (4, 6)]
    weights = np.array([2.0, 0.0])
    repeated = np.concatenate([features[0], features[0]])
    mean, covariance = _gaussians(features)(weights)
    np.testing.assert_allclose(mean, repeated.mean(axis=0))
    np.testing.assert_allclose(covariance, np.cov(repeated.T))
    for paired in (False, True):
        sets = ((features, features, True), (others, others, True), (features, others, paired))
        within, beside, across = (
            _kernel_means(first, second, same_places=same)(weights, weights)
            for first, second, same in sets
        )
        expected = kernel_distance(features[0], others[0], paired=paired)
        assert within + beside - 2 * across == pytest.approx(expected)


def test_intervals_hold_the_value_and_grow_with_differences_of_subjects(rng):
    def subjects(spread, shift):
        return [rng.normal(size=(40, 3)) + shift + spread * rng.normal(size=3) for _ in range(8)]

    alike = compare(subjects(0.0, 0.0), subjects(0.0, 1.0))
    unlike = compare(subjects(0.5, 0.0), subjects(0.5, 1.0))
    for distance in (alike.frechet, unlike.frechet, alike.kernel):
        assert distance.low < distance.value < distance.high
    assert unlike.frechet.high - unlike.frechet.low > 2 * (alike.frechet.high - alike.frechet.low)


def test_the_interval_is_that_of_95_percent_of_the_resampled_subjects(rng):
    from gdmnet.metrics.frechet import RESAMPLES, _draws

    first, second = ([rng.normal(size=(9, 2)) + rng.normal() for _ in range(5)] for _ in "ab")
    resampled = []
    for weights, others in _draws(5, 5, paired=False)[1:]:
        assert weights.sum() == others.sum() == 5
        sets = zip((first, second), (weights, others), strict=True)
        resampled.append(
            frechet_distance(
                *(np.repeat(one, w.astype(int), axis=0).reshape(-1, 2) for one, w in sets)
            )
        )
    assert len(resampled) == RESAMPLES
    found = compare(first, second).frechet
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(resampled, (2.5, 97.5))))


def test_paired_subjects_are_drawn_together(rng):
    features = [rng.normal(size=(9, 2)) + rng.normal() for _ in range(4)]
    found = compare(features, features, paired=True)
    for distance in (found.frechet, found.kernel):
        assert (distance.low, distance.high) == pytest.approx((0, 0), abs=1e-9)


def test_a_single_subject_has_no_interval(rng):
    found = compare([rng.normal(size=(9, 2))], [rng.normal(size=(8, 2))])
    assert found.frechet.low is found.frechet.high is found.kernel.low is None


def test_principal_axes_are_few_orthogonal_and_of_mean_variance_one(rng):
    features = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 40)) * 7 + 5
    features = np.concatenate([features, np.full((500, 1), 4.0)], axis=1)
    projected = principal_axes(features)(features)
    assert projected.shape == (500, 3)
    covariance = np.cov(projected.T, bias=True)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-9)
    assert np.diag(covariance).mean() == pytest.approx(1)
    assert np.all(np.diff(np.diag(covariance)) < 0)
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-9)
    rich = principal_axes(rng.normal(size=(100, 50)))
    assert rich.axes.shape == (50, MOST_DIMENSIONS)


def test_features_that_never_change_are_refused():
    with pytest.raises(ValueError, match="same everywhere"):
        principal_axes(np.ones((10, 4)))
