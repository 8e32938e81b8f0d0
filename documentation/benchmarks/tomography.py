"""Speed, accuracy and a picture of the tomography; what data consistency gives.

    python documentation/benchmarks/tomography.py speed
    python documentation/benchmarks/tomography.py picture PICTURE.png
    python documentation/benchmarks/tomography.py accuracy CT_FOLDER
    python documentation/benchmarks/tomography.py consistency CT_FOLDER

Speed: a phantom of 512 x 512 pixels at 60 views, against scikit-image in the same run, one
thread (OMP_NUM_THREADS=1), CPU time.
Accuracy: the middle 16 slices of every CT in the folder, inside the body; MAE, PSNR and SSIM
with the range of 4095 HU. Consistency: the same slices at 60 views and 1e5
photons, inside the body, from FBP and from the CT itself, blurred, in place of a prediction; as
after gdm_predict, there is nothing outside the body. Bins are as gdm_simulate_sparse_view's.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.transform import iradon, radon

from gdmnet.arrays.body import body_mask
from gdmnet.datasets.ct_volumes import find_ct_volumes, read_ct
from gdmnet.datasets.phantom import make_patient
from gdmnet.geometry import Geometry
from gdmnet.metrics.image import DataRange, mae, psnr
from gdmnet.metrics.similarity import ssim
from gdmnet.report.picture import Panel, draw_panels, save_picture
from gdmnet.tomography.consistency import data_consistent
from gdmnet.tomography.fbp import back_projector, reconstruct
from gdmnet.tomography.projection import (
    attenuation,
    hounsfield,
    measure,
    project,
    project_adjoint,
    projector,
)
from gdmnet.tomography.scan import Acquisition, Grid, Simulation, covering_scan
from gdmnet.tomography.settings import MU_WATER

SPAN = DataRange(-1024.0, 4095.0)
SETTINGS = ((None, "ram-lak"), (1e5, "ram-lak"), (1e5, "hann"), (1e4, "hann"))


def clocked(function: Callable[[], NDArray], repeat: int = 3) -> tuple[NDArray, float]:
    """The result and the least CPU seconds of a few calls."""
    seconds = []
    for _ in range(repeat):
        begin = time.process_time()
        result = function()
        seconds.append(time.process_time() - begin)
    return result, min(seconds)


def speed(n: int = 512, n_slices: int = 16, n_views: int = 60) -> None:
    """Seconds per slice and memory of both beams, and scikit-image's."""
    _, ct, _ = make_patient(np.random.default_rng(0), (1, n, n))
    volume = np.repeat(attenuation(ct, MU_WATER), n_slices, axis=0)
    grid = Grid((n, n), (0.8, 0.8))
    for name, source, arc in (("parallel", None, 180.0), ("fan", 595.0, 360.0)):
        scan = covering_scan(grid, n_views, arc=arc, source_distance=source)
        _, forward_build = clocked(lambda s=scan: project(volume, grid, s), 1)
        sinogram, forward = clocked(lambda s=scan: project(volume, grid, s))
        _, adjoint = clocked(lambda s=scan, p=sinogram: project_adjoint(p, grid, s))
        _, back_build = clocked(lambda s=scan, p=sinogram: reconstruct(p, grid, s), 1)
        _, back = clocked(lambda s=scan, p=sinogram: reconstruct(p, grid, s))
        sizes = [
            sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for _, m in operator(scan, grid))
            / 1e6
            for operator in (projector, back_projector)
        ]
        print(
            f"{name}: building {forward_build - forward:.2f} and {back_build - back:.2f} s,"
            f" {sizes[0]:.0f} and {sizes[1]:.0f} MB; per slice projection"
            f" {1e3 * forward / n_slices:.1f}, adjoint {1e3 * adjoint / n_slices:.1f}, FBP"
            f" {1e3 * back / n_slices:.1f} ms"
        )
    theta = np.arange(n_views) * 180 / n_views
    theirs, forward = clocked(lambda: radon(volume[0], theta, circle=False))
    _, back = clocked(lambda: iradon(theirs, theta, circle=False, output_size=n))
    print(f"scikit-image: radon {1e3 * forward:.1f}, iradon {1e3 * back:.1f} ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"peak memory of this process: {peak:.0f} MB")


def slices(folder: Path) -> Iterator[tuple[str, Geometry, NDArray]]:
    """Name, spacing and the middle 16 slices of each CT."""
    for ct in find_ct_volumes(folder):
        volume = read_ct(ct)
        array = np.maximum(volume.array[0], -1024)
        middle = max(0, len(array) // 2 - 8)
        part = array[middle : middle + 16]
        yield ct.name, replace(volume.geometry, shape=part.shape), part


def simulate(
    ct: NDArray, geometry: Geometry, n_views: int, photons: float | None, window: str = "hann"
) -> tuple[NDArray, NDArray, Acquisition]:
    """FBP in HU, the sinogram and its acquisition."""
    grid = Grid(geometry.shape[1:], geometry.spacing[1:])
    scan = covering_scan(grid, n_views, arc=180.0, pitch=min(*grid.spacing, 1.0))
    rng = np.random.default_rng(0)
    sinogram = measure(attenuation(ct, MU_WATER), grid, scan, rng, photons=photons)
    mu = reconstruct(sinogram, grid, scan, window=window)
    simulation = Simulation("", "", photons, 0.0, window, 0, "")
    return hounsfield(mu, MU_WATER), sinogram, Acquisition(scan, geometry, MU_WATER, simulation)


def accuracy(folder: Path) -> None:
    """A row a number of views, a column a noise and filter: means over the volumes."""
    print("| views | " + " | ".join(f"{p or 'no noise'}, {w}" for p, w in SETTINGS) + " |")
    for n_views in (20, 60, 120, 360):
        cells = []
        for photons, window in SETTINGS:
            figures = []
            for _, geometry, ct in slices(folder):
                fbp = np.clip(simulate(ct, geometry, n_views, photons, window)[0], -1024, 3071)
                mask = body_mask(ct[None], geometry.spacing, [True])[0]
                figures.append(
                    (mae(fbp, ct, mask), psnr(fbp, ct, mask, 4095.0), ssim(fbp, ct, mask, SPAN))
                )
            means = np.mean(figures, axis=0)
            cells.append(f"{means[0]:.0f} / {means[1]:.1f} / {means[2]:.3f}")
        print(f"| {n_views} | " + " | ".join(cells) + " |", flush=True)


def consistency(folder: Path) -> None:
    """MAE inside the body before and after, by volume."""
    for name, geometry, ct in slices(folder):
        body = body_mask(ct[None], geometry.spacing, [True])[0] > 0
        fbp, sinogram, acquisition = simulate(ct, geometry, 60, 1e5)
        starts = {"FBP": fbp} | {
            f"blurred {sigma}": gaussian_filter(ct, (0, sigma, sigma)) for sigma in (0.5, 0.7, 1.0)
        }
        blurred = starts["blurred 0.7"]
        starts["blurred 0.7 with 0.3 of FBP's error"] = blurred + 0.3 * (fbp - ct)
        starts = {name: np.where(body, start, -1024.0) for name, start in starts.items()}
        cells = []
        for title, start in starts.items():
            found = data_consistent(start, sinogram, acquisition, outside=fbp)
            cells.append(f"{title} {mae(start, ct, body):.1f} -> {mae(found, ct, body):.1f}")
        print(f"{name}: " + ", ".join(cells), flush=True)


def picture(path: Path) -> None:
    """A phantom, its sinogram and its reconstructions by FBP with the Hann filter."""
    _, ct, _ = make_patient(np.random.default_rng(3), (1, 256, 256))
    grid = Grid((256, 256), (1.4, 1.4))
    panels = [Panel("CT", ct, -400, 400, unit="HU")]
    for n_views, photons in ((360, None), (60, None), (60, 1e5), (20, 1e5)):
        scan = covering_scan(grid, n_views, arc=180.0)
        rng = np.random.default_rng(0)
        sinogram = measure(attenuation(ct, MU_WATER), grid, scan, rng, photons=photons)
        if len(panels) == 1:
            whole = Image.fromarray(sinogram[0]).resize((256, 256), Image.Resampling.NEAREST)
            panels.append(Panel("sinogram, 360 views", np.asarray(whole)[None], 0, 8))
        fbp = hounsfield(reconstruct(sinogram, grid, scan), MU_WATER)
        title = f"FBP, {n_views} views{'' if photons is None else ', noise'}"
        panels.append(Panel(title, fbp, -400, 400, unit="HU"))
    save_picture(draw_panels(panels, (1.0, 1.4, 1.4)), path)


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    {"speed": speed, "picture": picture, "accuracy": accuracy, "consistency": consistency}[kind](
        *(Path(argument) for argument in arguments)
    )
