"""How large errors are to be expected, voxel by voxel and on average, where there is no reference.

A table, measured on cases that were not trained on, has a cell for each band of predicted values
(CT: air, soft tissue, bone) and each bin of `difficulty`: Mondrian conformal prediction (Vovk,
Gammerman and Shafer 2005, Algorithmic Learning in a Random World, 4.5) over two attributes, the
second of which is the estimated difficulty of Lei et al. 2018 (JASA 113, 5.2).
`training.expected_error` makes it.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from gdmnet.errors import SettingError
from gdmnet.geometry import Spacing
from gdmnet.models.card import PredictionSettings
from gdmnet.settings import Settings, setting

EXPECTED_JSON = "expected_error.json"
REGION_MM = 40.0  # side of the cube over which disagreement is averaged
COVERAGE = 0.9  # share of the voxels whose error shall be within the stated half-width


@dataclass(frozen=True)
class ExpectedError(Settings):
    """What |error| was on the validation cases, in the prediction's file units (CT: HU).

    Edges ascend; no band edges are one band; difficulty 0 is a bin of its own. `half_widths`, of
    cases that were left out in turn, and `means` have a row a band and a column a bin.
    """

    folds: tuple[str, ...] = setting(MISSING, "whose validation cases these are")
    n_cases: int = setting(MISSING, "validation cases", least=2)
    band_edges: tuple[float, ...] = setting(MISSING, "predicted values that part the bands")
    difficulty_edges: tuple[float, ...] = setting(MISSING, "that part the bins", least=0)
    half_widths: tuple[float, ...] = setting(MISSING, "of 90 % of the voxels", least=0)
    means: tuple[float, ...] = setting(MISSING, "of |error|", least=0)
    mae: tuple[float, ...] = setting(MISSING, "lowest and highest of a case", least=0)
    # lowest and highest of a left-out case: share of voxels within the half-width, true MAE
    coverage: tuple[float, ...] = setting(MISSING, "of a left-out case", least=0, most=1)
    mae_ratio: tuple[float, ...] = setting(MISSING, "true over expected MAE", least=0)
    # Spearman's over the cases, 0 where it is not defined
    rank_correlation: float = setting(MISSING, "of true and expected MAE", least=-1, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        n_cells = (len(self.band_edges) + 1) * (len(self.difficulty_edges) + 1)
        ends = (self.mae, self.coverage, self.mae_ratio)
        for edges in (self.band_edges, self.difficulty_edges, *ends):
            if list(edges) != sorted(edges):
                raise SettingError(f"{edges} must ascend")
        if {len(self.half_widths), len(self.means)} != {n_cells} or {*map(len, ends)} != {2}:
            raise SettingError(f"half_widths and means need {n_cells} entries, ranges two ends")

    def half_width(self, prediction: NDArray, difficulty: NDArray) -> NDArray:
        """Float32 of the arrays' shape, file units: 90 % of voxels are expected within +- it."""
        cells = cells_of(prediction, difficulty, self.band_edges, self.difficulty_edges)
        return np.array(self.half_widths, np.float32)[cells]

    def expected_mae(self, prediction: NDArray, difficulty: NDArray) -> float:
        """The MAE that is expected of voxels; file units."""
        cells = cells_of(prediction, difficulty, self.band_edges, self.difficulty_edges)
        return float(np.array(self.means)[cells].mean())

    def fits(self, folds: set[str], settings: PredictionSettings) -> bool:
        """Whether predictions of these folds and settings are those that were measured.

        There may be mirrored copies and several folds: the spread is that of each fold alone, and
        a mean errs by no more than its parts do on average.
        """
        usual = PredictionSettings()
        names = ("checkpoint", "step_size", "ensemble", "realism", "finish")
        same = all(getattr(settings, name) == getattr(usual, name) for name in names)
        return same and folds <= set(self.folds)


def difficulty(prediction: NDArray, spread: NDArray, body: NDArray, spacing: Spacing) -> NDArray:
    """How hard a voxel is: geometric mean of disagreement around it and of the contrast there.

    Opinions are few, so that their variance at one voxel says next to nothing; its mean over a cube
    of 4 cm tells hard cases and regions from easy ones. The standard deviation of the prediction
    over 3 x 3 x 3 voxels tells edges and noise from even tissue.

    Args:
        prediction: float32 (z, y, x), network units, on the prepared grid, whose spacing is one.
        spread: standard deviations (z, y, x) of windows and mirrored copies, the same units.
        body: (z, y, x), non-zero inside.
        spacing: mm (z, y, x).

    Returns:
        float32 (z, y, x), the same units; 0 where all opinions agree or all is even.
    """
    inside = (body != 0).astype(np.float32)
    sides = [max(1, round(REGION_MM / side)) for side in spacing]
    share, power = (
        uniform_filter(values, sides, mode="constant") for values in (inside, inside * spread**2)
    )
    variance = uniform_filter(prediction**2, 3) - uniform_filter(prediction, 3) ** 2
    disagreement = np.divide(power, share, out=np.zeros_like(power), where=share > 0)
    found: NDArray = (np.maximum(disagreement, 0) * np.maximum(variance, 0)) ** 0.25
    return found


def cells_of(
    prediction: NDArray,
    difficulty: NDArray,
    band_edges: tuple[float, ...],
    difficulty_edges: tuple[float, ...],
) -> NDArray:
    """Number of each voxel's cell: band * n_bins + bin."""
    band = np.searchsorted(band_edges, prediction, side="right")
    return band * (len(difficulty_edges) + 1) + np.searchsorted(difficulty_edges, difficulty)
