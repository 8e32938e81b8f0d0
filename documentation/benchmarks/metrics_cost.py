"""Processor time and peak memory of evaluating one case of 512 x 512 x 200 voxels.

    python documentation/benchmarks/metrics_cost.py CT.nii.gz [voxels along x and y] [slices]

The CT is enlarged to that size and degraded by noise and blur; its body is the mask. Each
convention is evaluated by gdm_evaluate in a process of its own, whose peak resident memory the
operating system tells; MS-SSIM alone is measured in this one, by tracemalloc. One float32 volume of
that size is 200 MiB.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gdmnet.arrays.body import body_mask
from gdmnet.arrays.resample import resample
from gdmnet.data.case import Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.geometry import Geometry, Shape
from gdmnet.metrics.conventions import CONVENTIONS
from gdmnet.metrics.similarity import ms_ssim, ssim

COMMAND = "import sys; from gdmnet.commands.evaluate import main; sys.exit(main(sys.argv[1:]))"


def make_case(path: str, shape: Shape) -> tuple[NDArray, NDArray, NDArray, Geometry]:
    """Prediction, reference, mask and their grid."""
    volume = read_volume(Path(path))
    truth = resample(volume.array, shape, order=1)[0]
    z, y, x = np.array(volume.geometry.shape) * volume.geometry.spacing / shape
    spacing = (float(z), float(y), float(x))
    guess = gaussian_filter(truth, (0, 1, 1), output=np.float32)
    guess += np.random.default_rng(0).normal(0, 20, shape).astype(np.float32)
    mask, _ = body_mask(truth[None], spacing, [True])
    return guess, truth, mask, Geometry(shape, spacing)


def measure(*options: str) -> tuple[float, float]:
    """Processor seconds and peak resident MiB of one gdm_evaluate."""
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *options], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Print the table as Markdown."""
    side, slices = (int(text) for text in [*sys.argv[2:], "512", "200"][:2])
    guess, truth, mask, geometry = make_case(sys.argv[1], (slices, side, side))
    volume = truth.nbytes / 2**20
    print(f"{truth.shape}, {mask.mean():.0%} in the mask; one float32 volume: {volume:.0f} MiB")
    print("| what | processor seconds | peak [MiB] | in volumes |\n|---|---|---|---|")
    span = CONVENTIONS["synthrad2025"].span
    for metric in (ssim, ms_ssim):
        begin = time.process_time()
        metric(guess, truth, mask, span)
        seconds = time.process_time() - begin
        tracemalloc.start()
        metric(guess, truth, mask, span)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        name = f"`{metric.__name__}` alone, beyond its inputs"
        print(f"| {name} | {seconds:.1f} | {peak:.0f} | {peak / volume:.1f} |", flush=True)
    with tempfile.TemporaryDirectory() as home:
        folders = {}
        for name, array in (("-p", guess), ("-r", truth), ("--masks", mask.astype(np.float32))):
            folders[name] = Path(home) / name.strip("-")
            folders[name].mkdir()
            write_volume(folders[name] / "case.nii", Volume(array[None], geometry), integer=True)
        del guess, truth, mask
        pairs = [word for pair in folders.items() for word in map(str, pair)]
        runs = [(name, ["--convention", name]) for name in CONVENTIONS]
        runs.insert(1, ("gdmnet, without plausibility", ["--no-plausibility"]))
        runs.append(("gdmnet, body computed", []))
        for name, options in runs:
            files = pairs[:4] if "computed" in name else pairs
            seconds, peak = measure(*files, *options, "-np", "1")
            row = f"| gdm_evaluate, {name} | {seconds:.1f} | {peak:.0f} | {peak / volume:.1f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
