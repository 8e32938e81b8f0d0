"""Checkpoints: names to tensors and numbers, whole or not at all.

Every checkpoint holds `epoch` (finished epochs) and `ema` (the generator's averaged weights);
`checkpoint_latest` holds everything else that a training needs to go on, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gdmnet import files
from gdmnet.encoders.weights import LARGEST_WEIGHT, check, is_possible, read_plain
from gdmnet.errors import CheckpointError
from gdmnet.table import first_names

SCHEMA = 1
_REMEDY = "delete it, then train again or use another checkpoint of the same folder"
_few = partial(first_names, limit=4, none="nothing")  # names of weights in a refusal


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all: names to state dicts, tensors and numbers.

    Raises:
        OutputError: the folder is not writable or the disk is full; the old file is untouched.
    """
    full_disk = (RuntimeError,)  # as torch calls it
    with files.whole_file(path, also=full_disk) as aside, aside.open("wb") as handle:
        torch.save({"schema": SCHEMA, **state}, handle)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; nothing in it is executed (`weights_only`).

    Raises:
        CheckpointError: missing, damaged (every byte is checked), or of another schema.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    state = read_plain(path, remedy=_REMEDY)
    if state.get("schema") != SCHEMA or "ema" not in state:
        raise CheckpointError(
            f"{path}: not a checkpoint of this version of gdmnet; train again, or use the version"
            " that wrote it"
        )
    epoch, weights = state.get("epoch"), (state["ema"], state.get("twin", {}))
    if type(epoch) is not int or epoch < 0 or not all(isinstance(w, dict) for w in weights):
        raise CheckpointError(f"{path}: damaged (no weights, or no number of epochs); {_REMEDY}")
    return dict(state)


def require_finite(weights: Mapping[str, Any], like: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that would make every prediction NaN, or that lose something on the way.

    Where the network that takes them, `like`, has real numbers, so must they.

    Raises:
        CheckpointError: a value is no dense tensor, of another kind of number, not finite or too
            large.
    """

    def is_sound(name: str, weight: Any) -> bool:  # noqa: ANN401 (whatever the file holds)
        if not isinstance(weight, Tensor) or weight.layout is not torch.strided:
            return False
        is_real = weight.is_floating_point()
        alike = name not in like or like[name].is_floating_point() == is_real
        return alike and (not is_real or is_possible(weight))

    if odd := [name for name, weight in weights.items() if not is_sound(name, weight)]:
        raise CheckpointError(
            f"{path}: weights that are no finite real numbers ({_few(odd)}), or above"
            f" {LARGEST_WEIGHT:g}: the training went wrong or the file is damaged; use another"
            " checkpoint, or train again"
        )


def capture(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The state of every part by its name: modules, optimisers, whatever has a state_dict."""
    return {name: part.state_dict() for name, part in parts.items()}


def copied(state: Any) -> Any:  # noqa: ANN401
    """The same state in copies on the CPU: it may travel, or be written while training goes on."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    if isinstance(state, list):
        return [copied(value) for value in state]
    return state


def restore(parts: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> None:
    """Give every part its state back, of `load` without names that belong to no part.

    Raises:
        CheckpointError: names are missing or unknown, or a state does not fit its part.
    """
    missing, unknown = sorted({*parts} - {*state}), sorted({*state} - {*parts})
    if missing or unknown:
        raise CheckpointError(
            f"{path}: does not belong to this training: lacks {_few(missing)}, has in addition"
            f" {_few(unknown)}; was it made by another objective?"
        )
    for name, part in parts.items():
        try:
            part.load_state_dict(state[name])
        except Exception as problem:  # noqa: BLE001 (a damaged state can raise anything)
            reason = " ".join(str(problem).split())[:200]
            raise CheckpointError(f"{path}: {name} does not fit: {reason}") from None


def load_pretrained(generator: nn.Module, path: Path) -> None:
    """Start a generator from the averaged weights of a checkpoint.

    Raises:
        CheckpointError: the file is missing or damaged, or its network is another one; what
            differs is listed.
    """
    found: dict[str, Tensor] = load(path)["ema"]
    wanted = generator.state_dict()
    require_finite(found, wanted, path)
    try:
        check(found, wanted)
    except CheckpointError as problem:
        raise CheckpointError(
            f"{path}: weights of another network ({problem}); pretrain with the same plan and the"
            " same source channels"
        ) from None
    generator.load_state_dict(found)


def between(
    twin: Mapping[str, Tensor], generator: Mapping[str, Tensor], realism: float
) -> dict[str, Tensor]:
    """The realism dial: weights on the line through those of a generator and of its twin.

    theta(T) = theta_twin + T (theta_generator - theta_twin) for every weight; T = 0 is the twin and
    T = 1 the generator, exactly.
    """
    if realism in (0.0, 1.0):
        return dict(generator if realism else twin)
    return {
        name: torch.lerp(base, generator[name], realism) if base.is_floating_point() else base
        for name, base in twin.items()
    }


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
