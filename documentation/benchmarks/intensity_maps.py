"""The two baselines that a translation of MR contrasts must beat: a constant and a cubic.

    python documentation/benchmarks/intensity_maps.py RAW/Dataset501_X PLAN.json NAME=FOLDER ...

Judges every case of imagesTs/targetsTs inside source > 0 and target > 0 (all sources), in the
target's network units (each case's own percentiles 1 and 99), with and without the linear
intensity match of gdm_evaluate (predictions are written with the plan's medians, which takes them
back to network units): the best constant, the best polynomial of degree 3 of the first
source's z-score that the training cases give (least squares, 200000 voxels a case), and every
folder of predictions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from gdmnet import codec
from gdmnet.arrays import normalise
from gdmnet.data.case import CaseFiles
from gdmnet.data.raw import read_description, test_cases, training_cases
from gdmnet.data.volume import read_channels, read_volume
from gdmnet.metrics.image import mae, match_linear
from gdmnet.plan import Normalisation, Plan

ZSCORE = Normalisation("zscore", 0.0, 1.0, None, None, 0.0)
PERCENTILES = Normalisation("percentiles", 0.0, 1.0, None, None, 0.0)


def load(case: CaseFiles) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source z-score, target in network units, mask."""
    sources = read_channels(case.sources).array
    assert case.target is not None
    target = read_volume(case.target).array[0]
    mask = (sources > 0).all(axis=0) & (target > 0)
    units = normalise.fit(PERCENTILES, target, mask)
    source = normalise.apply(sources[0], normalise.fit(ZSCORE, sources[0], mask))
    return source, normalise.apply(target, units), mask


def cubic(cases: list[CaseFiles]) -> np.ndarray:
    """Coefficients of the polynomial that the training cases give."""
    random = np.random.default_rng(0)
    x, y = [], []
    for case in cases:
        source, target, mask = load(case)
        chosen = random.choice(int(mask.sum()), 200_000)
        x.append(source[mask][chosen])
        y.append(target[mask][chosen])
    return np.polyfit(np.concatenate(x), np.concatenate(y), 3)


def matched(guess: np.ndarray, target: np.ndarray, mask: np.ndarray) -> float:
    """Mean absolute error after the linear intensity match."""
    gain, offset = match_linear(guess, target, mask)
    return mae(gain * guess + offset, target, mask)


def main() -> None:
    """Print one line a case and method, then the means."""
    raw = Path(sys.argv[1])
    written = codec.load(Plan, Path(sys.argv[2])).configurations["3d_fullres"].target
    folders = dict(argument.split("=", 1) for argument in sys.argv[3:])
    description = read_description(raw)
    coefficients = cubic(training_cases(raw, description)[0])
    rows: dict[str, list[tuple[float, float]]] = {}
    for case in test_cases(raw, description)[0]:
        source, target, mask = load(case)
        guesses = {
            "constant": np.full_like(target, np.median(target[mask])),
            "cubic": np.polyval(coefficients, source),
        }
        for name, folder in folders.items():
            path = Path(folder) / f"{case.identifier}{description.file_ending}"
            guesses[name] = normalise.apply(read_volume(path).array[0], written)
        print(f"{case.identifier}: {int(mask.sum())} voxels")
        best = None
        for name, guess in guesses.items():
            figures = matched(guess, target, mask), mae(guess, target, mask)
            rows.setdefault(name, []).append(figures)
            if name in ("constant", "cubic"):
                best = min(best or figures[0], figures[0])
            print(
                f"  {name:12s} matched {figures[0]:.4f} ({figures[0] / best - 1:+.1%} of the better"
                f" baseline)  unmatched {figures[1]:.4f}"
            )
    for name, figures in rows.items():
        means = np.mean(figures, axis=0)
        print(f"mean {name:12s} matched {means[0]:.4f}  unmatched {means[1]:.4f}")


if __name__ == "__main__":
    main()
