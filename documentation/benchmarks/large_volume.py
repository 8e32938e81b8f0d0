"""CPU seconds and memory of one large MR, file to file, part by part, with a network for nothing.

    python documentation/benchmarks/large_volume.py --shape 256 512 512

A phantom with noisy air is enlarged to the shape, one thread works on it; peaks are of the whole
process (Linux), beside the float32 volume, after what was there before it is taken away.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from gdmnet.arrays.body import body_mask
from gdmnet.arrays.resample import resample
from gdmnet.commands.terminal import guarded, new_parser
from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.dicom import read_sources
from gdmnet.data.volume import write_volume
from gdmnet.datasets.phantom import make_patient
from gdmnet.geometry import Geometry, Shape
from gdmnet.inference.input_check import measure_input
from gdmnet.inference.sliding import predict_volume
from gdmnet.inference.windows import Tiling
from gdmnet.plan import Architecture, Configuration, Normalisation
from gdmnet.preprocessing import prepare_volumes, restore

WINDOW: Shape = (128, 128, 128)
_SMALL = 4  # the phantom is drawn on a grid so many times as coarse
A = TypeVar("A")


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "")
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 512, 512), help="voxels z y x")
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 0.9, 0.9), help="mm z y x")
    parser.add_argument("--planned", type=float, default=1.0, help="mm of the network's grid")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    args = build_parser().parse_args(argv)
    return guarded(lambda: _run(tuple(args.shape), tuple(args.spacing), args.planned))


def _run(shape: Shape, spacing: tuple[float, float, float], planned: float) -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "mr.nii.gz"
        write_volume(path, Volume(_mr(shape)[None], Geometry(shape, spacing)), integer=True)
        parts = _Parts(4 * np.prod(shape, dtype=float))
        files = CaseFiles("mr", (path,), None, None)
        volume = parts.run("read", read_sources, files)
        parts.run("body mask", body_mask, volume.array, spacing, [False])
        plan = _configuration((planned, planned, planned))
        case, corrected = parts.run("prepare, mask included", prepare_volumes, "mr", volume, plan)
        parts.run("measure the input", measure_input, case, corrected)
        del volume, corrected
        predict, tiling = partial(predict_volume, device="cpu"), Tiling(WINDOW, (0.0,))
        estimate = parts.run("windows", predict, lambda patch: patch, case.source, tiling)
        case = replace(case, source=case.source[:, :0].copy())
        back = partial(restore, body=case.body if case.outline is None else case.outline)
        restored = parts.run("restore", back, estimate.mean, case.record, plan.target)
        made, out = Volume(restored, case.record.geometry), Path(scratch) / "made.nii.gz"
        parts.run("write", partial(write_volume, integer=True), out, made)
        parts.show()
    return 0


def _mr(shape: Shape) -> np.ndarray:
    """A phantom's MR whose air is noise, float32 (z, y, x)."""
    rng = np.random.default_rng(0)
    z, y, x = (max(8, n // _SMALL) for n in shape)
    sources, _, _ = make_patient(rng, (z, y, x))
    large = resample(sources, shape, order=1)[0]
    return large + 10 * rng.random(shape, dtype=np.float32)


def _configuration(spacing: tuple[float, float, float]) -> Configuration:
    mr = Normalisation("zscore", 0.0, 100.0, None, None, 0.0)
    network = Architecture((4, 8), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)), (1, 1))
    return Configuration(
        "3d_fullres", spacing, WINDOW, WINDOW, 2, network, (mr,), mr, None, 1, reasons={}
    )


class _Parts:
    """CPU seconds and the highest resident memory of one part after the other."""

    def __init__(self, unit: float) -> None:
        self._unit, self._rows = unit, list[str]()
        self._before = _resident("VmRSS")

    def run(self, name: str, part: Callable[..., A], *values: object) -> A:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        begin = time.process_time()
        result = part(*values)
        seconds, peak = time.process_time() - begin, _resident("VmHWM") - self._before
        self._rows.append(f"| {name} | {seconds:.1f} | {peak / self._unit:.1f}x |")
        return result

    def show(self) -> None:
        print("| part | CPU s | peak |", "|---|---|---|", *self._rows, sep="\n")


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    sys.exit(main())
