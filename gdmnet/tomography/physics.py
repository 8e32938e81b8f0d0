"""Hounsfield units to attenuation and back, and what a detector counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gdmnet.tomography.projection import project
from gdmnet.tomography.scan import Grid, Scan

RAYS_PER_BIN = 2
"""A bin is as wide as a pixel: two rays say more about what it counts than one."""


def attenuation(hu: NDArray, mu_water: float) -> NDArray:
    """Attenuation mu_water (1 + HU / 1000) in 1/mm, float32; nothing is thinner than vacuum."""
    mu = hu.astype(np.float32)
    mu *= np.float32(mu_water / 1000)
    mu += np.float32(mu_water)
    return np.maximum(mu, 0, out=mu)


def hounsfield(mu: NDArray, mu_water: float) -> NDArray:
    """Hounsfield units 1000 (mu / mu_water - 1), float32."""
    hu = mu.astype(np.float32)
    hu *= np.float32(1000 / mu_water)
    hu -= np.float32(1000)
    return hu


def measure(
    volume: NDArray,
    grid: Grid,
    scan: Scan,
    rng: np.random.Generator,
    *,
    photons: float | None,
    electronic_noise: float = 0.0,
) -> NDArray:
    """The line integrals that a scanner would report: finite bins, photon and electronic noise.

    Each bin collects `RAYS_PER_BIN` rays. It counts Poisson(photons * mean of exp(-line integral)),
    plus a normal deviate of the electronics; less than one photon counts as one; the line integral
    is -log(count / photons).

    Args:
        volume: (z, y, x), attenuation in 1/mm.
        grid: of a slice.
        scan: what is measured.
        rng: of the noise; the slices are drawn in order.
        photons: that reach a bin through air; None is without any noise.
        electronic_noise: standard deviation in photons.

    Returns:
        float32 (z, views, bins), without unit.
    """
    shares = (np.arange(RAYS_PER_BIN) + 0.5) / RAYS_PER_BIN - 0.5
    transmitted = np.zeros((len(volume), scan.n_views, scan.detector.n_bins), dtype=np.float32)
    for share in shares:
        offset = scan.detector.offset + float(share)
        ray = replace(scan, detector=replace(scan.detector, offset=offset))
        transmitted += np.exp(-project(volume, grid, ray)) / RAYS_PER_BIN
    if photons is None:
        return -np.log(np.maximum(transmitted, np.finfo(np.float32).tiny))
    for row in transmitted:  # slice by slice: Poisson needs float64
        counts = rng.poisson(photons * row.astype(np.float64)).astype(np.float64)
        if electronic_noise > 0:
            counts += rng.normal(0.0, electronic_noise, counts.shape)
        row[...] = np.maximum(counts, 1) / photons
    return -np.log(transmitted)
