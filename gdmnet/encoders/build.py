"""One way to every encoder: a name, where its weights lie, and what it will look at."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from gdmnet import folders
from gdmnet.encoders.adapter import EncoderAdapter, intensity_map, usable_stages, zoom_to
from gdmnet.encoders.catalogue import ENCODERS, FAMILIES, NOT_SUPPORTED, nnunet_family
from gdmnet.encoders.frozen import EncoderReport, FrozenEncoder
from gdmnet.encoders.networks import StagedNetwork
from gdmnet.encoders.self_supervised import random_encoder, self_encoder
from gdmnet.encoders.weights import REMEDY, EncoderTensors, check, read_tensors, take
from gdmnet.errors import CheckpointError, TrainingError
from gdmnet.files import file_sha256
from gdmnet.plan import Configuration, Fingerprint

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")


def build_encoder(
    name: str,
    *,
    weights: Path | None,
    configuration: Configuration,
    fingerprint: Fingerprint | None = None,
    seed: int = 0,
    stages: Sequence[int] | None = None,
    resample: bool = True,
) -> FrozenEncoder:
    """A frozen encoder of patches in the target's network units, on the CPU.

    The whole network of a public one is checked; what lies deeper than the stages in use is cut
    off.

    Args:
        name: a key of `ENCODERS`, or "nnunet:FOLDER".
        weights: a file or folder; None for $gdmnet_encoders/NAME (not for self and nnunet).
        configuration: its patch, spacing and target decide what the encoder is shown.
        fingerprint: of the training set; encoders with a z-score need it.
        seed: of random weights.
        stages: whose maps to use, 0 is the finest; None for all whose maps are large enough.
        resample: patches to the spacing that a public encoder knows, where the two differ.

    Returns:
        A module, (b, 1, z, y, x) -> maps (b, c, z', y', x') finest first; `report` says where it
        came from. `freeze_norms` makes its normalisation layers constants.

    Raises:
        GdmnetError: an unknown name; weights that are missing, damaged or of something else; a
            target that the encoder cannot be shown; missing packages of the extra `encoders`.
    """
    kind, _, folder = name.partition(":")
    if kind not in ENCODERS:
        reason = f"not supported ({NOT_SUPPORTED[kind]})" if kind in NOT_SUPPORTED else "unknown"
        raise TrainingError(f"encoder {name}: {reason}; use one of {', '.join(ENCODERS)}")
    if folder and weights is not None:
        raise TrainingError(f"encoder {name}: its weights are named twice; drop --encoder-weights")
    weights = Path(folder) if folder else weights
    if kind == "random":
        if weights is not None:
            raise TrainingError("encoder random: takes no weights; drop --encoder-weights")
        return random_encoder(configuration.architecture, seed=seed)
    if kind == "self":
        if weights is None:
            raise CheckpointError(
                "encoder self: no file named; gdm_train makes it, with --encoder-only alone"
            )
        return self_encoder(configuration.architecture, file=weights)
    if kind == "nnunet":
        family, file = nnunet_family(weights)
    else:
        family, file = FAMILIES[kind], find_weights(kind, weights)
    layout, strides = family.layout, family.network.strides
    intensities = intensity_map(family.expects, configuration.target, fingerprint, name=kind)
    zoom = zoom_to(layout.reordered(configuration.spacing), family.spacing if resample else None)
    sides = zip(layout.reordered(configuration.patch_size), zoom, strict=True)
    n_usable = usable_stages([side * factor for side, factor in sides], strides)
    used = tuple(stages or range(n_usable))
    if sorted(set(used)) != list(used) or not 0 <= used[0] <= used[-1] < len(strides):
        raise TrainingError(
            f"encoder {kind}: stages {used} are not rising numbers of 0 to {len(strides) - 1}"
        )
    network, found = _read_network(kind, family.network, file, used[-1] + 1)
    report = EncoderReport(
        name=kind,
        file=str(file),
        sha256=file_sha256(file),
        prefix=found.prefix,
        n_tensors=len(found.tensors),
        n_others=found.n_others,
        stages=used,
        channels=tuple(family.network.channels[stage] for stage in used),
        strides=tuple(layout.restored(strides[stage]) for stage in used),
        zoom=layout.restored(zoom),
        outside=intensities.outside,
    )
    in_use = {stage: strides[stage] for stage in used}
    adapter = EncoderAdapter(network, in_use, intensities=intensities, layout=layout, zoom=zoom)
    return FrozenEncoder(adapter, report)


def _read_network(
    name: str, staged: StagedNetwork, file: Path, n: int
) -> tuple[nn.Module, EncoderTensors]:
    """The first n stages with their weights, and all of the encoder's tensors."""
    try:
        with torch.device("meta"):
            whole, network = staged.build(len(staged.strides)), staged.build(n)
        tensors = read_tensors(file)
    except ImportError as problem:
        raise TrainingError(f"encoder {name}: {problem}; pip install 'gdmnet[encoders]'") from None
    try:
        found = take(tensors, staged)
        check(found.tensors, whole.state_dict(), found.prefix)
    except CheckpointError as problem:
        raise CheckpointError(f"{file}: not the weights of {name} ({problem}); {REMEDY}") from None
    unused = torch.tensor(0)  # counters of batches, which some files lack and nothing reads
    state = {key: found.tensors.get(key, unused) for key in network.state_dict()}
    network.load_state_dict(state, assign=True)
    return network, found


def find_weights(name: str, given: Path | None = None) -> Path:
    """The file of a public encoder's weights: the one given, else $gdmnet_encoders/NAME/FILENAME.

    A folder holds the file of this name, under which the weights are published, or a single file of
    weights. Some lie in an installed package, NAME, which is looked at last and never imported.

    Raises:
        CheckpointError: there is no such file; gdmnet downloads nothing.
    """
    family, root = FAMILIES[name], folders.encoders_root()
    place = given if given is not None else root / name if root is not None else None
    if place is not None and place.is_dir():
        files = [path for path in place.iterdir() if path.suffix in SUFFIXES]
        place = files[0] if len(files) == 1 else place / family.filename
    if given is None and family.wheel and not (place and place.is_file()):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            place = Path(str(importlib.metadata.distribution(name).locate_file(family.wheel)))
    if place is not None and place.is_file():
        return place
    tried = place if place is not None else "gdmnet_encoders is not set"
    raise CheckpointError(
        f"encoder {name}: no weights ({tried}); get {family.filename} from {family.source} and name"
        f" it with --encoder-weights FILE or put it into $gdmnet_encoders/{name}/; gdmnet downloads"
        " nothing"
    )


def published_weights(name: str) -> Path | None:
    """The file that a public encoder is read from unless another is given; None without one."""
    try:
        return find_weights(name) if name in FAMILIES else None
    except CheckpointError:
        return None
