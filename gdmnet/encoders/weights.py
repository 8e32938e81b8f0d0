"""Reads and checks the weights of encoders; nothing in a file is ever executed.

Checkpoints differ in container (a flat dict, "state_dict", "network_weights", ...), in the prefix
before the encoder's own names, and in what else they hold. The prefix is found from one name that
every file of a family has; then every tensor must be there with its shape, and none may be left.
"""

from __future__ import annotations

import _codecs
import io
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdmnet.encoders.networks import StagedNetwork
from gdmnet.errors import CheckpointError, is_out_of_memory
from gdmnet.table import first_names

CONTAINERS = ("network_weights", "state_dict", "model_state_dict", "model", "net", "teacher")
COUNTERS = ".num_batches_tracked"  # of batch norms: some files have them, none is needed
ALIASES = ".all_modules."  # nnU-Net's blocks hold every tensor once more under such names
_first_of = partial(first_names, limit=6)  # names of a kind in a refusal
LARGEST_WEIGHT = 1e15  # float32 cannot square much more; none that was trained comes near
REMEDY = "get another file, or save its state_dict alone with torch.save"

# nnU-Net's logs lie beside its weights as numpy numbers: plain values, nothing that could act.
_scalar = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (np.dtype, "numpy.dtype"),
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
    _codecs.encode,
]
_STORAGES = {"Float": torch.float32, "Half": torch.float16, "Double": torch.float64}
_STORAGES |= {"BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32}


@dataclass(frozen=True)
class EncoderTensors:
    """An encoder's tensors by their names after the prefix, in float32 where they are not whole."""

    tensors: Mapping[str, Tensor]
    prefix: str
    n_others: int  # tensors of the file that are not the encoder's


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, out of whatever container holds them.

    Raises:
        CheckpointError: the file is damaged, or holds no tensors or more than plain values.
        ImportError: a safetensors file, and the package of this name is missing.
    """
    content = _read_safetensors(file) if file.suffix == ".safetensors" else read_plain(file)
    keys = list(map(str, content))
    while inner := [content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)]:
        content = inner[0]
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{file}: holds no tensors (its keys: {_first_of(keys)})")
    return tensors


def take(tensors: Mapping[str, Tensor], network: StagedNetwork) -> EncoderTensors:
    """The tensors of one encoder: the shortest prefix before the network's anchor is theirs.

    Raises:
        CheckpointError: no tensor has the anchor's name; the file is not named.
    """
    anchor = network.anchor
    ends = [key for key in tensors if key == anchor or key.endswith("." + anchor)]
    if not ends:
        raise CheckpointError(
            f"none of its {len(tensors)} tensors is called {anchor} ({_first_of(tensors)})"
        )
    prefix = min(ends, key=len).removesuffix(anchor)
    mine = {}
    for key, tensor in tensors.items():
        own = key.removeprefix(prefix)
        spare = own.startswith(network.heads) or ALIASES in own or own.endswith(COUNTERS)
        if key.startswith(prefix) and not spare:
            for old, new in network.renamed:
                own = own.replace(old, new)
            mine[own] = tensor.float() if tensor.is_floating_point() else tensor
    return EncoderTensors(mine, prefix, len(tensors) - len(mine))


def check(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: str = "") -> None:
    """Refuse weights of which a single tensor is missing, left over, misshapen or no weight's.

    Of the whole network's state dict, `wanted`, only shapes are looked at.

    Raises:
        CheckpointError: with the names; the file is not named.
    """
    missing = [key for key in wanted if key not in tensors and not key.endswith(COUNTERS)]
    unexpected = [key for key in tensors if key not in wanted]
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} against {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in tensors and tensors[key].shape != tensor.shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(found.values()):
        words = ", ".join(f"{len(n)} {what} ({_first_of(n)})" for what, n in found.items())
        raise CheckpointError(f"prefix {prefix!r}: {words}" if prefix else words)
    if odd := [key for key, tensor in tensors.items() if not is_possible(tensor)]:
        raise CheckpointError(
            f"numbers that are not finite or above {LARGEST_WEIGHT:g}: {_first_of(odd)}"
        )


def is_possible(weight: Tensor) -> bool:
    """Whether all numbers of a weight are finite, and as small as those of a training."""
    return bool((weight.float().abs() <= LARGEST_WEIGHT).all())


def read_plain(file: Path, *, remedy: str = REMEDY) -> Mapping[str, Any]:
    """What torch.save wrote, if it is tensors and plain values; nothing if they have no names.

    Raises:
        CheckpointError: the file is damaged (every byte is checked), or holds anything else;
            `remedy` is what to do.
    """
    try:
        if zipfile.is_zipfile(file):  # older files are bare pickles
            with zipfile.ZipFile(file) as archive:
                broken = archive.testzip()  # torch itself does not compare the checksums
                if broken is not None:
                    raise ValueError(f"{broken} fails its checksum")
                if pickles := [n for n in archive.namelist() if n.endswith("constants.pkl")]:
                    return read_script(archive, pickles[0].removesuffix("constants.pkl"))
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles, before what is said of them below
            content = torch.load(file, map_location="cpu", weights_only=True)
        return content if isinstance(content, Mapping) else {}
    except pickle.UnpicklingError as problem:
        detail = str(problem).rpartition("WeightsUnpickler error: ")[2].partition(". ")[0]
        reason = f"not read (it holds more than tensors and plain values, or is damaged: {detail})"
    except Exception as problem:  # noqa: BLE001 - what unpicklers and zip trip over has no end
        if is_out_of_memory(problem):
            remedy = "end other programs, or take a machine with more"
            reason = "not enough memory to read it"
        else:
            reason = f"damaged ({str(problem) or type(problem).__name__:.300})"
    raise CheckpointError(f"{file}: {' '.join(reason.split())}; {remedy}")


def read_script(archive: zipfile.ZipFile, folder: str) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by their modules' names; its code is not looked at.

    Raises:
        UnpicklingError: it holds anything but modules, tensors and plain values.
    """
    found: dict[str, Tensor] = {}

    def add(module: _ScriptModule, prefix: str) -> None:
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                found[prefix + name] = value
            elif isinstance(value, _ScriptModule):
                add(value, f"{prefix}{name}.")

    add(_ScriptReader(archive, folder).load(), "")
    return found


class _ScriptModule:
    """A module of any class: the attributes that were saved with it."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class _ScriptReader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if module.partition(".")[0] == "__torch__":
            return _ScriptModule
        if (known := _SCRIPT_WORDS.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return known

    def persistent_load(self, pid: Any) -> Tensor:  # noqa: ANN401
        _, kind, key, *_ = pid
        stored = bytearray(self._archive.read(f"{self._folder}data/{key}"))
        return torch.frombuffer(stored, dtype=kind)


def _strided(storage: Tensor, offset: int, size: Any, stride: Any, *_: object) -> Tensor:  # noqa: ANN401
    return storage.as_strided(size, stride, offset).clone()


_SCRIPT_WORDS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _strided,
    **{f"torch.{name}Storage": kind for name, kind in _STORAGES.items()},
    **{f"torch.jit._pickle.build_{kind}list": list for kind in ("int", "bool", "double", "tensor")},
}


def _read_safetensors(file: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"{file}: damaged ({problem}); {REMEDY}") from None
