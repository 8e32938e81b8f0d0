"""Which device a command computes on, and what is written down about it."""

from __future__ import annotations

import platform

import numpy as np
import torch

from gdmnet import __version__
from gdmnet.errors import DeviceError
from gdmnet.models.precision import cpu_has_bf16


def find_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes CUDA where there is one, else the CPU.

    Raises:
        DeviceError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(
            f"--device {name}: unknown device; use auto, cpu, cuda or cuda:1"
        ) from None
    if device.type == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= n_devices:
            raise DeviceError(
                f"--device {name}: this machine has {n_devices} usable CUDA devices; use --device"
                " cpu or install a torch build for its GPU"
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: not available on this machine; use --device cpu")
    elif device.type not in ("cpu", "mps"):
        raise DeviceError(f"--device {name}: not supported; use auto, cpu, cuda or cuda:1")
    return device


def memory_gb(device: torch.device) -> float | None:
    """Memory of a CUDA device in GB (2^30 bytes); None for others."""
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory / 2**30


def describe_devices() -> dict[str, str]:
    """Every device that --device accepts here, and what a person wants to know about it."""
    n_threads = torch.get_num_threads()
    cpu = f"{torch.backends.cpu.get_cpu_capability()}, {n_threads} threads"
    found = {"cpu": f"{cpu}, bf16 in hardware" if cpu_has_bf16() else cpu}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.device("cuda", index)
        name = torch.cuda.get_device_properties(device).name
        found[str(device)] = f"{name}, {memory_gb(device):.0f} GB"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def versions() -> dict[str, str]:
    """Versions that a run or a prediction writes down."""
    return {
        "gdmnet": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
