"""A trained judge on disk, so that all that is compared meets the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gdmnet.compare.judge import Judge
from gdmnet.encoders.frozen import FrozenEncoder
from gdmnet.encoders.self_supervised import WEIGHTS, PlainEncoder, read_file
from gdmnet.errors import CheckpointError
from gdmnet.models import checkpoint


def save_judge(judge: Judge, path: Path) -> None:
    """Write a judge of plain convolutions (kind "self" or "random").

    Raises:
        OutputError: the file cannot be written.
        ValueError: another kind of encoder.
    """
    encoder = judge.encoder.encoder
    if type(encoder) is not PlainEncoder:
        raise ValueError(f"{judge.description}: only judges of plain convolutions are kept")
    state: dict[str, Any] = {
        "description": judge.description,
        "patch": list(judge.patch),
        "centre": judge.centre,
        "scale": judge.scale,
        "strides": [list(stride) for stride in encoder.strides],
        "kernels": [list(kernel) for kernel in encoder.kernels],
        "channels": list(encoder.channels),
        WEIGHTS: encoder.state_dict(),
    }
    checkpoint.save(path, state)


def load_judge(path: Path) -> Judge:
    """The judge that `save_judge` wrote; it judges as before, to the bit.

    Raises:
        CheckpointError: the file is missing, damaged or no judge.
    """
    state = read_file(path)
    try:
        _, second, third = (tuple(stride) for stride in state["strides"])
        fine, middle, coarse = (tuple(kernel) for kernel in state["kernels"])
        channels = tuple(state["channels"])
        encoder = PlainEncoder((second, third), (fine, middle, coarse), channels)
        encoder.load_state_dict(state[WEIGHTS])
        z, y, x = state["patch"]
        description, units = str(state["description"]), (state["centre"], state["scale"])
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise CheckpointError(f"{path}: is no judge; delete it to train one anew") from None
    return Judge(description, FrozenEncoder(encoder), (z, y, x), *units)
