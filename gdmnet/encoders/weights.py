"""Finds, reads and checks the weights of public encoders; nothing in a file is ever executed.

Checkpoints differ in container (a flat dict, "state_dict", "network_weights", ...), in the prefix
before the encoder's own names, and in what else they hold. The prefix is found from one name that
every file of a family has; then every tensor must be there with its shape, and none may be left.
"""

from __future__ import annotations

import _codecs
import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdmnet import folders
from gdmnet.errors import CheckpointError

CONTAINERS = ("network_weights", "state_dict", "model_state_dict", "model", "net", "teacher")
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
COUNTERS = ".num_batches_tracked"  # of batch norms: some files have them, none is needed
ALIASES = ".all_modules."  # nnU-Net's blocks hold every tensor once more under such names
LISTED = 6  # names of a kind in a refusal

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# nnU-Net's logs lie beside its weights as numpy numbers: plain values, nothing that could act.
_scalar = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (np.dtype, "numpy.dtype"),
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
    _codecs.encode,
]


@dataclass(frozen=True)
class Found:
    """An encoder's tensors by their own names, and where they were.

    Attributes:
        tensors: without the prefix, float32 where they are numbers of any other width.
        prefix: what stood before their names.
        n_others: tensors of the file that are not the encoder's.
    """

    tensors: dict[str, Tensor]
    prefix: str
    n_others: int


def find_file(name: str, given: Path | None, filename: str, *, needs: str) -> Path:
    """The file of an encoder's weights: the one given, else $gdmnet_encoders/NAME/FILENAME.

    Args:
        name: of the encoder.
        given: a file, or a folder that holds `filename` or a single file of weights.
        filename: under which the weights are published.
        needs: where they come from, for the complaint.

    Raises:
        CheckpointError: there is no such file; gdmnet downloads nothing.
    """
    root = folders.encoders_root()
    place = given if given is not None else root / name if root is not None else None
    if place is not None and place.is_file():
        return place
    if place is not None and place.is_dir():
        if (place / filename).is_file():
            return place / filename
        there = sorted(path for path in place.iterdir() if path.suffix in SUFFIXES)
        if len(there) == 1:
            return there[0]
    tried = place if place is not None else "gdmnet_encoders is not set"
    raise CheckpointError(
        f"encoder {name}: no weights ({tried}); get {filename} from {needs} and name it with"
        f" --encoder-weights FILE or put it into $gdmnet_encoders/{name}/; gdmnet downloads nothing"
    )


def sha256(file: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, out of whatever container holds them.

    Raises:
        CheckpointError: the file is damaged, holds anything but tensors and plain values, or no
            tensors at all.
    """
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    keys = list(map(str, content))
    while inner := [content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)]:
        content = inner[0]
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{file}: holds no tensors (its keys: {_few(keys)})")
    return tensors


def take(tensors: Mapping[str, Tensor], anchor: str, *, file: Path, name: str) -> Found:
    """The tensors of one encoder: the shortest prefix before `anchor` is theirs.

    Args:
        tensors: of the whole file.
        anchor: a name that every encoder of the family has.
        file: named in complaints.
        name: of the encoder, likewise.

    Raises:
        CheckpointError: no tensor of that name.
    """
    ends = [key for key in tensors if key == anchor or key.endswith("." + anchor)]
    if not ends:
        raise CheckpointError(
            f"{file}: not the weights of {name}: none of its {len(tensors)} tensors is called"
            f" {anchor} ({_few(tensors)})"
        )
    prefix = min(ends, key=len).removesuffix(anchor)
    mine = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    mine = {k: t for k, t in mine.items() if ALIASES not in k and not k.endswith(COUNTERS)}
    widened = {key: t.float() if t.is_floating_point() else t for key, t in mine.items()}
    return Found(widened, prefix, len(tensors) - len(mine))


def check(found: Found, wanted: Mapping[str, Tensor], *, file: Path, name: str) -> None:
    """Refuse weights of which a single tensor is missing, left over, misshapen or not finite.

    Args:
        found: of `take`.
        wanted: the state dict of the whole network; only shapes are looked at.
        file: named in complaints.
        name: of the encoder, likewise.

    Raises:
        CheckpointError: with the names.
    """
    tensors = found.tensors
    missing = [key for key in wanted if key not in tensors]
    unexpected = [key for key in tensors if key not in wanted]
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} against {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in tensors and tensors[key].shape != tensor.shape
    ]
    if missing or unexpected or misshapen:
        raise CheckpointError(
            f"{file}: does not fit encoder {name} (prefix {found.prefix!r}): {len(missing)} missing"
            f" ({_few(missing)}), {len(unexpected)} unexpected ({_few(unexpected)}),"
            f" {len(misshapen)} of another shape ({_few(misshapen)})"
        )
    infinite = [key for key, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if infinite:
        raise CheckpointError(
            f"{file}: holds numbers that are not finite: {_few(infinite)}; get the file anew"
        )


def _read_torch(file: Path) -> Mapping[str, Any]:
    try:
        if zipfile.is_zipfile(file):  # older files are bare pickles
            with zipfile.ZipFile(file) as archive:
                broken = archive.testzip()  # torch itself does not compare the checksums
            if broken is not None:
                raise CheckpointError(f"{file}: damaged ({broken} fails its checksum)")
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        reason = " ".join(str(problem).split())[:300]
        raise CheckpointError(
            f"{file}: not read, because it holds more than tensors and plain values, or is damaged"
            f" ({reason}); save its state_dict alone with torch.save and use that file"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile) as problem:
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise CheckpointError(f"{file}: damaged ({reason}); get it anew") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not named tensors")
    return content


def _read_safetensors(file: Path) -> Mapping[str, Any]:
    """Tensors of a safetensors file: length of the header (8 bytes), header (JSON), bytes."""
    whole = memoryview(file.read_bytes())
    try:
        start = 8 + int.from_bytes(whole[:8], "little")
        header = json.loads(bytes(whole[8:start]))
        header.pop("__metadata__", None)
        return {key: _tensor(entry, whole[start:]) for key, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as problem:
        raise CheckpointError(f"{file}: damaged ({problem}); get it anew") from None


def _tensor(entry: Mapping[str, Any], data: memoryview) -> Tensor:
    begin, end = entry["data_offsets"]
    kind, shape = _DTYPES[entry["dtype"]], [int(side) for side in entry["shape"]]
    if not 0 <= begin <= end <= len(data):
        raise ValueError("a tensor lies outside the file")
    if begin == end:
        return torch.zeros(shape, dtype=kind)
    return torch.frombuffer(bytearray(data[begin:end]), dtype=kind).reshape(shape)


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "none") + more
