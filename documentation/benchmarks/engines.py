"""CPU seconds a window of one model by torch, ONNX Runtime and OpenVINO, and how far they differ.

    taskset -c 0 python documentation/benchmarks/engines.py MODEL -n 20

MODEL is a model's folder. Its first fold is exported, and all engines take turns at the same
random windows, in fp32; torch also in bf16, as gdm_predict uses it where CPU and training do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from gdmnet.commands.terminal import guarded, new_parser
from gdmnet.inference import PredictionSettings, load_model
from gdmnet.inference.onnx_export import export_onnx
from gdmnet.models.precision import autocast


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "")
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", type=int, default=20, help="windows")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    args = build_parser().parse_args(argv)
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    settings = [PredictionSettings(engine=name) for name in ("torch", "onnxruntime", "openvino")]
    with tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch) / "onnx"
        export_onnx(args.model, exported)
        trained, *others = (
            load_model(args.model if how.engine == "torch" else exported, how, device="cpu")
            for how in settings
        )
    member = trained.network.members[0]

    def by_torch(patch: NDArray, precision: str) -> NDArray:
        with torch.inference_mode(), autocast(precision, torch.device("cpu")):
            return member(torch.from_numpy(patch)).float().numpy()

    engines: dict[str, Callable[[NDArray], NDArray]]
    engines = {f"torch, {p}": lambda patch, p=p: by_torch(patch, p) for p in ("fp32", "bf16")}
    engines |= {other.card.settings.engine: other.network.members[0] for other in others}
    shape = (1, len(trained.plan.channel_names), *trained.configuration.patch_size)
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    largest = dict.fromkeys(engines, 0.0)
    for turn in range(args.n + 1):
        patch = rng.normal(size=shape).astype(np.float32)
        wanted = by_torch(patch, "fp32")
        for name, engine in engines.items():
            begin = time.process_time()
            found = engine(patch)
            if turn > 0:  # the first call prepares
                seconds[name].append(time.process_time() - begin)
            largest[name] = max(largest[name], float(np.abs(found - wanted).max()))
    print(f"| windows of {shape} | CPU s a window | share of torch's | largest difference |")
    print("|---|---|---|---|")
    for name, costs in seconds.items():
        share = median(map(np.divide, costs, seconds["torch, fp32"]))
        print(f"| {name} | {median(costs):.4f} | {share:.2f} | {largest[name]:.1g} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
