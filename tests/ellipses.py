"""Ellipses as images and, in closed form, as line integrals: the truth of tomography's tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gdmnet.tomography.scan import Grid, Scan

MU = 0.02


@dataclass(frozen=True)
class Ellipse:
    """Centre (x, y), half axes (a along x, b along y, before the turn), all in mm; turn in rad."""

    x: float
    y: float
    a: float
    b: float
    value: float
    turn: float = 0.0


def disc(x, y, radius, value):
    return Ellipse(x, y, radius, radius, value)


def water_and_air(radius):
    """A water disc off the centre with an air hole in it."""
    return (
        disc(2.0, -3.0, radius, MU),
        disc(2.0 + 0.4 * radius, -3.0 + 0.3 * radius, 0.3 * radius, -MU),
    )


def inside(ellipse, y, x, margin=0.0):
    c, s = np.cos(ellipse.turn), np.sin(ellipse.turn)
    along = (x - ellipse.x) * c + (y - ellipse.y) * s
    across = -(x - ellipse.x) * s + (y - ellipse.y) * c
    return (along / (ellipse.a - margin)) ** 2 + (across / (ellipse.b - margin)) ** 2 <= 1


def paint(ellipses, grid: Grid, fine=8):
    """The mean attenuation of each pixel, (1, rows, columns)."""
    (ny, nx), (dy, dx) = grid.shape, grid.spacing
    shift = (np.arange(fine) + 0.5) / fine - 0.5
    y, x = grid.coordinates()
    y = (y[:, None] + shift * dy).ravel()[:, None]
    x = (x[:, None] + shift * dx).ravel()
    total = sum(e.value * inside(e, y, x) for e in ellipses)
    return total.reshape(ny, fine, nx, fine).mean(axis=(1, 3))[None]


def line_integrals(ellipses, scan: Scan):
    """Kak & Slaney 1988, eq. 3.3: 2 value a b sqrt(r^2 - t^2) / r^2, (1, views, bins)."""
    theta = scan.angles()[:, None] - scan.fan_angles()
    total = np.zeros(theta.shape)
    for e in ellipses:
        own = theta - e.turn
        squared = (e.a * np.cos(own)) ** 2 + (e.b * np.sin(own)) ** 2
        t = scan.distances() - e.x * np.cos(theta) - e.y * np.sin(theta)
        total += 2 * e.value * e.a * e.b * np.sqrt(np.maximum(squared - t**2, 0)) / squared
    return total[None]
