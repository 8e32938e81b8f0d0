"""Slow and obvious: what the fast metrics must equal. Whole volumes, no shortcuts."""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def masked(image, mask, low, high):
    """Clipped, air outside the mask, counted from the low end."""
    return np.where(mask > 0, np.clip(image.astype(np.float64), low, high), low) - low


def box(image, size):
    return fftconvolve(image, np.full((size,) * 3, 1 / size**3), mode="same")


def slow_ms_ssim(prediction, reference, mask, low, high):
    """SynthRAD2025: every filter is a direct fftconvolve of the whole volume."""
    pads = [((97 - n) // 2, 97 - n - (97 - n) // 2) if n < 97 else (0, 0) for n in mask.shape]
    x, y = (np.pad(masked(i, mask, low, high), pads, "edge") for i in (prediction, reference))
    m = np.pad(mask > 0, pads, "edge")
    c1, c2 = (0.01 * (high - low)) ** 2, (0.03 * (high - low)) ** 2
    inner = (slice(3, -3),) * 3
    product = 1.0
    for weight in WEIGHTS:
        ux, uy = box(x, 7), box(y, 7)
        sample = 343 / 342
        vx, vy = sample * (box(x * x, 7) - ux * ux), sample * (box(y * y, 7) - uy * uy)
        vxy = sample * (box(x * y, 7) - ux * uy)
        sx, sy = np.sqrt(np.maximum(vx, 0)), np.sqrt(np.maximum(vy, 0))
        luminance = np.maximum((2 * ux * uy + c1) / (ux * ux + uy * uy + c1), 0)
        contrast = np.maximum((2 * sx * sy + c2) / (vx + vy + c2), 0)
        structure = np.maximum((vxy + c2 / 2) / (sx * sy + c2 / 2), 0)
        full = luminance**weight * contrast**weight * structure**weight
        product *= np.clip(full[inner][m[inner]].mean(), 0, 1)
        x, y, m = (a[::2, ::2, ::2] for a in (box(x, 2), box(y, 2), m))
    return product


def slow_masked_ssim(prediction, reference, mask, low, high):
    """SynthRAD2023, by scikit-image."""
    x, y = (masked(image, mask, low, high) for image in (prediction, reference))
    _, full = structural_similarity(x, y, data_range=high - low, full=True)
    inner = (slice(3, -3),) * 3
    return full[inner][mask[inner] > 0].mean()


def slow_psnr(prediction, reference, mask, low, high):
    """By scikit-image, clipped."""
    x, y = (np.clip(i.astype(np.float64), low, high)[mask > 0] for i in (prediction, reference))
    return peak_signal_noise_ratio(y, x, data_range=high - low)


def slow_mae(prediction, reference, mask):
    error = np.abs(prediction.astype(np.float64) - reference.astype(np.float64))
    return np.sum(error * (mask > 0)) / np.sum(mask > 0)
