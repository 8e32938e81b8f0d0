"""Oblique grids for tests."""

from __future__ import annotations

import numpy as np


def oblique_direction(degrees: float = 12.0) -> tuple[float, ...]:
    """Direction cosines turned by `degrees` about x and then by half of that about z."""
    a, b = np.deg2rad([degrees, degrees / 2])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return tuple(float(cosine) for cosine in (about_z @ about_x).ravel())
