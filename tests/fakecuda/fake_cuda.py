"""Builds the fake CUDA device and runs steps on it, each call in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gdmnet import codec
from gdmnet.plan import CaseFingerprint, Configuration, Fingerprint, Intensity
from gdmnet.planning.memory import choose_preset
from gdmnet.planning.planner import make_plan

HERE = Path(__file__).parent
PATIENTS = {  # spacing in mm, median image in voxels, cases
    "brain": ((1.0, 1.0, 1.0), (160, 192, 160), 200),
    "thorax": ((1.0, 1.0, 1.0), (350, 400, 500), 100),
    "pelvis": ((2.5, 1.0, 1.0), (88, 340, 480), 60),
}
_SOME = Intensity(300.0, 200.0, -1024.0, 1700.0, 3.0, 10.0, 330.0, 790.0, 840.0, 0.0)


def planned(patient: str, memory_gb: float) -> Configuration:
    """The 3d_fullres of such patients, MR to CT, for a device of this memory."""
    spacing, shape, n = PATIENTS[patient]
    cases = [
        CaseFingerprint(f"case{i}", shape, spacing, 0.5, "otsu", (_SOME,), _SOME) for i in range(n)
    ]
    facts = Fingerprint(1, "Dataset001_X", ("MR",), "CT", tuple(cases), (_SOME,), _SOME)
    preset, memory_gb, reason = choose_preset(None, memory_gb, memory_gb)
    plan = make_plan(
        facts, file_ending=".nii.gz", preset=preset, memory_gb=memory_gb, preset_reason=reason
    )
    return plan.configurations["3d_fullres"]


def job(configuration: Configuration, objective: str, options: dict[str, Any]) -> dict[str, Any]:
    """What `fake_step` is to measure: a step of this training."""
    network = codec.encode(configuration.architecture)
    sizes = {"patch": configuration.patch_size, "batch": configuration.batch_size}
    return {"objective": objective, "options": options, **sizes, **network}


def build(folder: Path) -> Path | None:
    """The library, compiled into a folder; None without a compiler or where it does not build.

    A torch that was built for CUDA has hooks of its own, beside which these cannot be registered.
    """
    home, library = Path(torch.__file__).parent, folder / "fake_cuda.so"
    compiler = shutil.which("g++")
    if compiler is None or torch.version.cuda is not None:
        return None
    options = ["-std=c++20", "-O0", "-shared", "-fPIC", f"-I{home / 'include'}"]
    linked = [f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{home / 'lib'}"]
    command = [compiler, *options, str(HERE / "fake_cuda.cpp"), "-o", str(library), *linked]
    done = subprocess.run(command, capture_output=True, timeout=120)
    return library if done.returncode == 0 else None


def run_steps(library: Path, jobs: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What `fake_step` measures of each job."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs), encoding="utf-8")
    paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "fake_step.py"), str(file)],
        env={
            **os.environ,
            "LD_PRELOAD": str(library),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-4000:])
    return [json.loads(line) for line in done.stdout.splitlines()]
