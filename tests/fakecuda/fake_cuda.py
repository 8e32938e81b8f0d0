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

HERE = Path(__file__).parent


def build(folder: Path) -> Path | None:
    """The library, compiled into a folder; None without a compiler or where it does not build."""
    home, library = Path(torch.__file__).parent, folder / "fake_cuda.so"
    compiler = shutil.which("g++")
    if compiler is None:
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
