"""The charts of a comparison: fidelity, plausibility and time against each other."""

from __future__ import annotations

from gdmnet.compare.record import Comparison


def scatter_figures(compared: Comparison) -> list[str]:
    """Fidelity against plausibility, then seconds against either; lower left is better."""
    return []
