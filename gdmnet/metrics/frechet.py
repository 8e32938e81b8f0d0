"""How far two sets of feature vectors are apart, with intervals over the subjects they come from.

Features are float64 (n, d), one row a patch; a set is a list of them, one entry a subject.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_DIMENSIONS = 32
RESAMPLES, _SEED = 200, 0
_CONSTANT = 1e-6  # standard deviation of a feature that says nothing, and share of the variance


@dataclass(frozen=True)
class Distance:
    """A distance and its 95 % bootstrap interval over subjects; None with a single subject."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Distances:
    """Frechet and kernel distance of the same two sets."""

    frechet: Distance
    kernel: Distance


@dataclass(frozen=True)
class Projection:
    """Standardised features on their principal axes: (x - mean) / spread @ axes."""

    mean: NDArray
    spread: NDArray
    axes: NDArray

    def __call__(self, features: NDArray) -> NDArray:
        """(n, d) -> (n, n_axes)."""
        return ((features - self.mean) / self.spread) @ self.axes


def principal_axes(features: NDArray, most: int = MOST_DIMENSIONS) -> Projection:
    """Fit a projection onto at most `most` principal axes of features (n, d); nothing is whitened.

    The axes are scaled by one common number, so that the variances along them have the mean 1.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > _CONSTANT, spread, np.inf)
    standard = (features - mean) / spread
    variances, axes = np.linalg.eigh(standard.T @ standard / len(standard))
    chosen = np.arange(len(variances))[::-1][: min(most, len(features) - 1)]
    chosen = chosen[variances[chosen] > _CONSTANT * max(float(variances[-1]), _CONSTANT)]
    if chosen.size == 0:
        raise ValueError("all features are the same everywhere")
    return Projection(mean, spread, axes[:, chosen] / np.sqrt(variances[chosen].mean()))


def compare(
    first: Sequence[NDArray], second: Sequence[NDArray], *, paired: bool = False
) -> Distances:
    """Both distances of two sets of subjects, with bootstrap intervals over subjects.

    Frechet: of the two Gaussians that fit best, squared (Dowson & Landau 1982),
    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of means and sample covariances.

    Kernel: the unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3; paired:
    eq. 4) with the kernel of KID (Binkowski et al. 2018), k(x, y) = (x y / d + 1)^3. It is 0 on
    average for samples of one distribution, and may be negative.

    Sets have more than one row in all. If they are paired, subject i, row j of both is the same
    place; such pairs of rows do not count, and subjects are drawn together. Intervals are
    percentiles of 200 resamples, always the same; none where a set has only one subject.
    """
    gaussians = _gaussians(first), _gaussians(second)
    within, beside = (_kernel_means(one, one, same_places=True) for one in (first, second))
    across = _kernel_means(first, second, same_places=paired)

    def frechet(weights: NDArray, others: NDArray) -> float:
        return _frechet(gaussians[0](weights), gaussians[1](others))

    def kernel(weights: NDArray, others: NDArray) -> float:
        return within(weights, weights) + beside(others, others) - 2 * across(weights, others)

    draws = _draws(len(first), len(second), paired=paired)
    return Distances(_interval(frechet, draws), _interval(kernel, draws))


def _draws(n: int, m: int, *, paired: bool) -> list[tuple[NDArray, NDArray]]:
    """How often each subject of the two sets counts: once each, then the resamples."""
    rng = np.random.default_rng(_SEED)
    draws = [(np.ones(n), np.ones(m))]
    for _ in range(RESAMPLES if min(n, m) > 1 else 0):
        weights = rng.multinomial(n, np.full(n, 1 / n)).astype(float)
        others = weights if paired else rng.multinomial(m, np.full(m, 1 / m)).astype(float)
        draws.append((weights, others))
    return draws


def _interval(
    distance: Callable[[NDArray, NDArray], float], draws: list[tuple[NDArray, NDArray]]
) -> Distance:
    value, *resampled = (distance(*draw) for draw in draws)
    if not resampled:
        return Distance(value)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Distance(value, float(low), float(high))


Gaussian = tuple[NDArray, NDArray]


def _frechet(first: Gaussian, second: Gaussian) -> float:
    (mean, covariance), (other_mean, other_covariance) = first, second
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ other_covariance @ root)  # those of S1 S2
    traces = np.trace(covariance) + np.trace(other_covariance)
    spreads = traces - 2 * np.sqrt(product.clip(min=0)).sum()
    return max(0.0, float(np.square(mean - other_mean).sum() + spreads))  # rounding may go below


def _gaussians(features: Sequence[NDArray]) -> Callable[[NDArray], Gaussian]:
    """Weights (s,) -> mean and sample covariance where subject i counts `weights[i]` times."""
    sizes = np.array([len(one) for one in features], dtype=float)
    sums = np.stack([one.sum(axis=0) for one in features])
    products = np.stack([one.T @ one for one in features])

    def gaussian(weights: NDArray) -> Gaussian:
        n = weights @ sizes
        mean = weights @ sums / n
        weighted = np.tensordot(weights, products, axes=1)
        return mean, (weighted - n * np.outer(mean, mean)) / (n - 1)

    return gaussian


def _kernel_means(
    first: Sequence[NDArray], second: Sequence[NDArray], *, same_places: bool
) -> Callable[[NDArray, NDArray], float]:
    """Weights (s,), (t,) -> mean of the kernel over pairs of rows, where subjects count so often.

    With `same_places` row j of subject i in both sets is no pair, however often subjects count.
    """
    sizes, others = (np.array([len(x) for x in one], float) for one in (first, second))
    counts = np.outer(sizes, others)
    rows = np.concatenate(second)
    starts = np.cumsum([0, *(len(one) for one in second[:-1])])
    sums = np.stack([np.add.reduceat(_kernel(x @ rows.T, x).sum(axis=0), starts) for x in first])
    if same_places:
        pairs = zip(first, second, strict=True)
        sums -= np.diag([_kernel(np.einsum("ij,ij->i", x, y), x).sum() for x, y in pairs])
        counts -= np.diag(sizes)
    return lambda weights, others: float(weights @ sums @ others / (weights @ counts @ others))


def _kernel(products: NDArray, features: NDArray) -> NDArray:
    return (products / features.shape[1] + 1) ** 3
