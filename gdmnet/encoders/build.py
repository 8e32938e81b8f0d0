"""One way to every encoder: a name, where its weights lie, and what it will look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from gdmnet import folders
from gdmnet.encoders.adapter import Adapter
from gdmnet.encoders.catalogue import FAMILIES, About, Family
from gdmnet.encoders.frozen import Frozen, Report
from gdmnet.encoders.grid import Grid, usable_stages, zoom_to
from gdmnet.encoders.intensity import mapping
from gdmnet.encoders.layers import StagedNetwork
from gdmnet.encoders.nnunet_folder import ABOUT as NNUNET
from gdmnet.encoders.nnunet_folder import read_family
from gdmnet.encoders.self_supervised import random_encoder, self_encoder
from gdmnet.encoders.weights import check, find_file, read_tensors, sha256, take
from gdmnet.errors import CheckpointError, TrainingError
from gdmnet.plan import Configuration, Fingerprint


@dataclass(frozen=True)
class Request:
    """What is asked of an encoder; see `build_encoder`."""

    name: str
    weights: Path | None
    configuration: Configuration
    fingerprint: Fingerprint | None
    seed: int
    stages: tuple[int, ...] | None
    resample: bool


@dataclass(frozen=True)
class Entry:
    """An encoder by name: how it is made and what a user has to know."""

    load: Callable[[Request], Frozen]
    about: About


def build_encoder(
    name: str,
    *,
    weights: Path | None,
    configuration: Configuration,
    fingerprint: Fingerprint | None = None,
    seed: int = 0,
    stages: Sequence[int] | None = None,
    resample: bool = True,
) -> Frozen:
    """A frozen encoder of patches in the target's network units, on the CPU.

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
        came from. `adapter.freeze_norms` makes its normalisation layers constants.

    Raises:
        GdmnetError: an unknown name; weights that are missing, damaged or of something else;
            a target that the encoder cannot be shown.
    """
    kind, place = split_name(name)
    if kind not in ENCODERS:
        raise TrainingError(f"encoder {name}: unknown; use one of {', '.join(ENCODERS)}")
    if place is not None and weights is not None:
        raise TrainingError(f"encoder {name}: its weights are named twice; drop --encoder-weights")
    request = Request(
        name=kind,
        weights=place or weights,
        configuration=configuration,
        fingerprint=fingerprint,
        seed=seed,
        stages=None if stages is None else tuple(stages),
        resample=resample,
    )
    return ENCODERS[kind].load(request)


def split_name(name: str) -> tuple[str, Path | None]:
    """The parts of "nnunet:FOLDER"; any other name comes back with None."""
    kind, separator, place = name.partition(":")
    return kind, Path(place) if separator else None


def load_family(request: Request, family: Family, file: Path) -> Frozen:
    """An encoder of a family from its file: the whole network is checked, the rest cut off.

    Raises:
        GdmnetError: see `build_encoder`.
    """
    name, configuration = request.name, request.configuration
    seen = mapping(family.expects, configuration.target, request.fingerprint, name=name)
    found = take(read_tensors(file), family.anchor, file=file, name=name)
    with torch.device("meta"):
        whole = family.network(family.n_stages)
    check(found, whole.state_dict(), file=file, name=name)
    strides = _staged(whole).strides
    wanted = family.spacing if request.resample else None
    zoom = zoom_to(family.layout.reordered(configuration.spacing), wanted)
    sides = family.layout.reordered(configuration.patch_size)
    on_grid = [side * factor for side, factor in zip(sides, zoom, strict=True)]
    stages = request.stages or tuple(range(usable_stages(on_grid, strides)))
    if sorted(set(stages)) != list(stages) or not 0 <= stages[0] <= stages[-1] < len(strides):
        raise TrainingError(
            f"encoder {name}: stages {stages} are not rising numbers of 0 to {len(strides) - 1}"
        )
    with torch.device("meta"):
        network = family.network(stages[-1] + 1)
    needed = {key: found.tensors[key] for key in network.state_dict()}
    network.load_state_dict(needed, assign=True)
    adapter = Adapter(
        network,
        stages,
        mapping=seen,
        layout=family.layout,
        grid=Grid(zoom, strides[stages[-1]]),
    )
    report = Report(
        name=name,
        file=str(file),
        sha256=sha256(file),
        prefix=found.prefix,
        n_tensors=len(found.tensors),
        n_others=found.n_others,
        stages=stages,
        channels=tuple(_staged(whole).channels[stage] for stage in stages),
        strides=tuple(family.layout.restored(strides[stage]) for stage in stages),
        zoom=family.layout.restored(zoom),
        outside=seen.outside,
    )
    return Frozen(adapter, report)


def _staged(network: nn.Module) -> StagedNetwork:
    return network  # type: ignore[return-value]


def _load_self(request: Request) -> Frozen:
    if request.weights is None:
        raise CheckpointError(
            "encoder self: no file named; gdm_train makes it, with --encoder-only alone"
        )
    architecture = request.configuration.architecture
    return self_encoder(architecture, file=request.weights, seed=request.seed)


def _load_random(request: Request) -> Frozen:
    architecture = request.configuration.architecture
    return random_encoder(architecture, file=Path(), seed=request.seed)


def _load_nnunet(request: Request) -> Frozen:
    root = folders.encoders_root()
    folder = request.weights or (root / "nnunet" if root is not None else None)
    if folder is None or not folder.is_dir():
        raise CheckpointError(
            f"encoder nnunet: {folder or 'no folder named'}: not a folder; write"
            " --encoder nnunet:FOLDER with nnU-Net's TRAINER__PLANS__CONFIGURATION"
        )
    family, file = read_family(folder)
    return load_family(request, family, file)


def _load_public(request: Request, family: Family) -> Frozen:
    about = family.about
    file = find_file(request.name, request.weights, about.filename, needs=about.source)
    return load_family(request, family, file)


ENCODERS: dict[str, Entry] = {
    "self": Entry(
        _load_self, About("", "trained on this dataset's own targets", "your own", "any")
    ),
    "random": Entry(
        _load_random, About("", "random weights by --seed: the control", "none", "any")
    ),
    "nnunet": Entry(_load_nnunet, NNUNET),
    **{
        name: Entry(partial(_load_public, family=family), family.about)
        for name, family in FAMILIES.items()
    },
}


@dataclass(frozen=True)
class Row:
    """One line of `gdm_info --encoders`; `found` is where the weights lie, None if nowhere."""

    name: str
    about: About
    found: Path | None


def list_encoders() -> tuple[Row, ...]:
    """Every encoder, what it needs, and whether $gdmnet_encoders has its weights."""
    root = folders.encoders_root()
    rows = []
    for name, entry in ENCODERS.items():
        file = root / name / entry.about.filename if root and name in FAMILIES else None
        rows.append(Row(name, entry.about, file if file and file.is_file() else None))
    return tuple(rows)
