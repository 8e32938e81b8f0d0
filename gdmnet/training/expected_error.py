"""The end of a fold's validation: what |error| was where it was so difficult.

Voxels of one case are not independent, cases are: every case counts alike, and the half-widths are
scaled by what cases that were left out in turn needed (cross-conformal prediction, Vovk 2015).
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from gdmnet import codec
from gdmnet.errors import CheckpointError
from gdmnet.files import whole_file
from gdmnet.metrics.edges import AIR_BELOW, BONE_ABOVE
from gdmnet.models.expected_error import COVERAGE, EXPECTED_JSON, ExpectedError, cells_of
from gdmnet.plan import Configuration

ERRORS_NPZ = "expected_error.npz"
N_VOXELS = 10_000  # of a case, evenly over its mask
LEAST_CASES = 3  # fewer say nothing of a new one
MOST_GROUPS = 25  # of cases that are left out in turn; one by one up to so many
THIN = 500  # voxels: a cell with fewer takes what its bin, or all, have
BINS = (0.2, 0.4, 0.6, 0.8, 0.95)  # quantiles of the difficulty at which bins end
_LEAST_WIDTH = 1e-9  # file units: an error of 0 is covered by no ratio
_log = logging.getLogger(__name__)


class CaseErrors(NamedTuple):
    """Some voxels of a case: float32 (n,), file units of the prediction; and its whole MAE."""

    prediction: NDArray
    difficulty: NDArray
    error: NDArray
    mae: float


def sample_errors(
    prediction: NDArray, difficulty: NDArray, target: NDArray, mask: NDArray
) -> CaseErrors:
    """The same number of voxels of every case, evenly over its mask.

    All are (z, y, x), prediction, difficulty (see `models.expected_error`) and target in file
    units.
    """
    inside = np.flatnonzero(mask)
    error = np.abs(prediction - target)
    chosen = inside[np.linspace(0, inside.size - 1, N_VOXELS).astype(int)]
    p, d, e = (array.flat[chosen].astype(np.float32) for array in (prediction, difficulty, error))
    return CaseErrors(p, d, e, float(error.flat[inside].mean(dtype=np.float64)))


def save_errors(cases: Sequence[CaseErrors], fold: Path) -> None:
    """Keep a fold's validation cases in its folder, for the table of all folds."""
    columns: dict[str, Any] = dict(
        zip(CaseErrors._fields, map(np.stack, zip(*cases, strict=True)), strict=True)
    )
    with whole_file(fold / ERRORS_NPZ, private=True) as aside, aside.open("wb") as handle:
        np.savez_compressed(handle, **columns)


def _load_errors(path: Path) -> list[CaseErrors]:
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = [file[name] for name in CaseErrors._fields]
            return [CaseErrors(*values) for values in zip(*columns, strict=True)]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
        raise CheckpointError(f"{path}: damaged ({problem}); delete it") from None


def update_table(model: Path, configuration: Configuration) -> None:
    """Make a model's table anew of the validations of all its folds; of too few cases, none.

    Raises:
        CheckpointError: a fold's errors are damaged.
    """
    files = {p.parent.name.removeprefix("fold_"): p for p in model.glob(f"fold_*/{ERRORS_NPZ}")}
    cases = [case for _, path in sorted(files.items()) for case in _load_errors(path)]
    if len(cases) < LEAST_CASES:
        (model / EXPECTED_JSON).unlink(missing_ok=True)
        return
    is_ct = configuration.target.scheme == "ct"
    table = fit_table(cases, tuple(sorted(files)), (AIR_BELOW, BONE_ABOVE) if is_ct else ())
    codec.save(table, model / EXPECTED_JSON)
    low, high = (f"{value:.4g}" for value in table.mae)
    _log.info(
        "expected errors, of %d cases (MAE %s to %s%s): 90 %% half-widths hold %.0f to %.0f %% of"
        " the voxels of a case left out; rank correlation of expected and true MAE %.2f",
        table.n_cases,
        low,
        high,
        " HU" if is_ct else "",
        *(100 * share for share in table.coverage),
        table.rank_correlation,
    )


def fit_table(
    cases: Sequence[CaseErrors], folds: tuple[str, ...], band_edges: tuple[float, ...]
) -> ExpectedError:
    """The table of at least two validation cases.

    A half-width is the cell's 90 % quantile of |error| over all cases, times one factor. With a
    case left out the others' quantiles q give each of its voxels the score |error| / q; the factor
    is the 90 % quantile of the scores of all cases, so that on average over the left-out cases
    90 % of the voxels are within.
    """
    prediction, difficulty, error, true = map(np.stack, zip(*cases, strict=True))  # case, voxel
    doubted = difficulty[difficulty > 0]
    quantiles = np.quantile(doubted, BINS) if doubted.size else []
    difficulty_edges = (0.0, *map(float, np.unique(quantiles)))
    cells = cells_of(prediction, difficulty, band_edges, difficulty_edges)
    shape = len(band_edges) + 1, len(difficulty_edges) + 1
    scores, guesses = np.empty_like(error), np.empty(len(cases))
    for out in np.array_split(np.arange(len(cases)), min(len(cases), MOST_GROUPS)):
        others = np.delete(error, out, axis=0), np.delete(cells, out, axis=0)
        scores[out] = error[out] / _of_cells(_quantile, *others, shape)[cells[out]]
        guesses[out] = _of_cells(np.mean, *others, shape)[cells[out]].mean(axis=1)
    factor = np.quantile(scores, COVERAGE)
    covered = (scores <= factor).mean(axis=1)
    return ExpectedError(
        folds=folds,
        n_cases=len(cases),
        band_edges=band_edges,
        difficulty_edges=difficulty_edges,
        half_widths=_numbers(factor * _of_cells(_quantile, error, cells, shape)),
        means=_numbers(_of_cells(np.mean, error, cells, shape)),
        mae=_ends(true),
        coverage=_ends(covered),
        mae_ratio=_ends(true / np.maximum(guesses, _LEAST_WIDTH)),
        rank_correlation=_rank_correlation(guesses, true),
    )


def _of_cells(
    statistic: Callable[[NDArray], float], error: NDArray, cells: NDArray, shape: tuple[int, int]
) -> NDArray:
    """(n_cells,): a statistic of each cell; a thin one takes that of its bin, or of all voxels."""
    everything, bins, (n_bands, n_bins) = statistic(error), cells % shape[1], shape

    def of(values: NDArray, otherwise: float) -> float:
        return statistic(values) if values.size >= THIN else otherwise

    of_bins = [of(error[bins == i], everything) for i in range(n_bins)]
    return np.array([of(error[cells == i], of_bins[i % n_bins]) for i in range(n_bands * n_bins)])


def _quantile(values: NDArray) -> float:
    return max(float(np.quantile(values, COVERAGE)), _LEAST_WIDTH)


def _rank_correlation(first: NDArray, second: NDArray) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.clip(spearmanr(first, second).statistic, -1, 1))


def _ends(values: NDArray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _numbers(values: NDArray) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)
