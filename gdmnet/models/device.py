"""Which device a command computes on, and what is written down about it."""

from __future__ import annotations

import logging
import platform
from functools import cache

import numpy as np
import torch

from gdmnet import __version__
from gdmnet.errors import DeviceError
from gdmnet.models.precision import PRECISIONS, choose, cpu_has_bf16

_HALF_ERROR = 0.02  # of a convolution in bf16: it rounds by some .4 %
_FIRST_ODD_CUDNN, _MENDED_CUDNN = 90800, 91500
_log = logging.getLogger(__name__)


def find_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes CUDA where there is one, else the CPU.

    Raises:
        DeviceError: no such device on this machine, or it cannot compute.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
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
        try:
            check_convolutions(device)
        except RuntimeError as problem:  # full, busy, or not of this torch's architectures
            reason = str(problem).split("\n")[0]
            raise DeviceError(
                f"--device {name}: cannot compute ({reason:.200}); free it, or use --device cpu"
            ) from None
    elif device.type != "cpu":
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
    return found


@cache
def check_convolutions(device: torch.device) -> None:
    """Warn in one line where a device's 3D convolutions in half precision are wrong or slow.

    PyTorch's own issues say so of cuDNN 9.8 to 9.14; one small convolution is computed in float32,
    too. Once a process and device.
    """
    half = PRECISIONS[choose("auto", device)]
    rng = torch.Generator().manual_seed(0)
    shapes = ((1, 32, 24, 32, 32), (32, 32, 3, 3, 3))
    x, weight = (torch.randn(*shape, generator=rng).to(device) for shape in shapes)
    exact = torch.conv3d(x, weight, padding=1)
    found = torch.conv3d(x.to(half), weight.to(half), padding=1).float()
    error = float((found - exact).norm() / exact.norm())
    version = torch.backends.cudnn.version() or 0
    if error > _HALF_ERROR or _FIRST_ODD_CUDNN <= version < _MENDED_CUDNN:
        _log.warning(
            "warning: cuDNN %s is known to compute 3D convolutions in half precision wrongly or"
            " slowly (here %.2g of an error in one); install another: pip install -U"
            " 'nvidia-cudnn-cu12>=9.15', or train with --precision fp32",
            version,
            error,
        )


def versions() -> dict[str, str]:
    """Versions that a run or a prediction writes down."""
    cudnn = torch.backends.cudnn.version()
    return {
        "gdmnet": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        **({} if cudnn is None else {"cudnn": str(cudnn)}),
    }
