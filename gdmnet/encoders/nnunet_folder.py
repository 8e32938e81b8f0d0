"""Any nnU-Net v2 results folder as an encoder: a site's own model, or TotalSegmentator's.

The folder `TRAINER__PLANS__CONFIGURATION` with plans.json, dataset.json and fold_K/
checkpoint_final.pth says everything: network, spacing, axes, intensities.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from gdmnet.encoders.catalogue import About, Family
from gdmnet.encoders.grid import Layout
from gdmnet.encoders.intensity import HuWindow, ZScore
from gdmnet.encoders.unet_encoders import PlainUNetEncoder, ResidualUNetEncoder, Stages
from gdmnet.errors import CheckpointError
from gdmnet.geometry import Shape

CHECKPOINT = "checkpoint_final.pth"
ABOUT = About(
    CHECKPOINT,
    "a results folder of nnU-Net v2, for example TotalSegmentator's",
    "the model's own",
    "that of the model: CT, or any by z-score",
)
# Network class -> key of its depths, first tensor's name, encoder.
NETWORKS: dict[str, tuple[str, str, Callable[[Stages], nn.Module]]] = {
    "PlainConvUNet": (
        "n_conv_per_stage",
        "stages.0.0.convs.0.conv.weight",
        PlainUNetEncoder,
    ),
    "ResidualEncoderUNet": (
        "n_blocks_per_stage",
        "stem.convs.0.conv.weight",
        ResidualUNetEncoder,
    ),
}
# What changes nothing here: the decoder's, or checked by its value.
UNDERSTOOD = {
    "n_stages",
    "features_per_stage",
    "kernel_sizes",
    "strides",
    "n_conv_per_stage",
    "n_blocks_per_stage",
    "n_conv_per_stage_decoder",
    "conv_op",
    "conv_bias",
    "norm_op",
    "norm_op_kwargs",
    "dropout_op",
    "dropout_op_kwargs",
    "nonlin",
    "nonlin_kwargs",
    "deep_supervision",
}
WANTED = {"conv_op": "Conv3d", "norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU"}


def read_family(folder: Path) -> tuple[Family, Path]:
    """The encoder of a results folder and its checkpoint.

    Args:
        folder: of the model, or of one of its folds; of a model the first finished fold is taken.

    Raises:
        CheckpointError: a file is missing or says something that gdmnet's encoders are not.
    """
    model = folder.parent if folder.name.startswith("fold_") else folder
    plans, dataset = _read(model / "plans.json"), _read(model / "dataset.json")
    file = _checkpoint(folder)
    name = model.name.rpartition("__")[2]
    try:
        return _family(plans, dataset, name), file
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise CheckpointError(
            f"{model / 'plans.json'}: not as nnU-Net v2 writes it ({reason})"
        ) from None
    except _UnfitError as problem:
        raise CheckpointError(f"{model}: cannot be used as an encoder: {problem}") from None


class _UnfitError(Exception):
    """A network that is none of ours; the text says why."""


def _family(plans: Mapping[str, Any], dataset: Mapping[str, Any], name: str) -> Family:
    channels = dataset.get("channel_names", dataset.get("modality", {}))
    if len(channels) != 1:
        raise _UnfitError(
            f"it takes {len(channels)} channels ({', '.join(map(str, channels.values()))});"
            " an encoder sees one image"
        )
    chosen = _configuration(plans, name)
    class_name, arguments = _architecture(chosen)
    if class_name not in NETWORKS:
        raise _UnfitError(f"its network is a {class_name}, not a {' or '.join(NETWORKS)}")
    _check_arguments(arguments)
    depths, anchor, network = NETWORKS[class_name]
    stages = _stages(arguments, depths)
    d, h, w = (float(side) for side in chosen["spacing"])
    return Family(
        about=ABOUT,
        anchor=anchor,
        n_stages=len(stages.features),
        network=lambda n: network(stages.first(n)),
        expects=_expects(plans, chosen),
        spacing=(d, h, w),
        layout=_layout(plans),
    )


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of the plans with all that it inherits."""
    every = plans["configurations"]
    if name not in every:
        raise _UnfitError(
            f"its name ends in {name!r}, which is no configuration of its plans"
            f" ({', '.join(every)}); keep nnU-Net's TRAINER__PLANS__CONFIGURATION"
        )
    chain = [every[name]]
    while "inherits_from" in chain[0] and len(chain) <= len(every):
        chain.insert(0, every[chain[0]["inherits_from"]])
    return {key: value for one in chain for key, value in one.items()}


def _architecture(chosen: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Class and arguments of the network; plans before nnU-Net 2.5 say it in other words."""
    if "architecture" in chosen:
        found = chosen["architecture"]
        return found["network_class_name"].rpartition(".")[2], found["arch_kwargs"]
    class_name = chosen["UNet_class_name"]
    depths = chosen["n_conv_per_stage_encoder"]
    base, most = chosen["UNet_base_num_features"], chosen["unet_max_num_features"]
    return class_name, {
        "features_per_stage": [min(base * 2**stage, most) for stage in range(len(depths))],
        "kernel_sizes": chosen["conv_kernel_sizes"],
        "strides": chosen["pool_op_kernel_sizes"],
        NETWORKS.get(class_name, ("depths",))[0]: depths,
        "conv_bias": True,
    }


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    strange = [key for key, value in arguments.items() if value and key not in UNDERSTOOD]
    if strange:
        raise _UnfitError(f"its network has the options {', '.join(strange)}")
    for key, wanted in WANTED.items():
        found = str(arguments.get(key) or wanted).rpartition(".")[2]
        if found != wanted:
            raise _UnfitError(f"its network has {key} {found}, not {wanted}")


def _stages(arguments: Mapping[str, Any], depths: str) -> Stages:
    features = [int(n) for n in arguments["features_per_stage"]]
    n = len(features)
    blocks = arguments[depths]
    return Stages(
        features=features,
        kernels=[_triple(size) for size in _a_stage(arguments["kernel_sizes"], n)],
        strides=[_triple(size) for size in _a_stage(arguments["strides"], n)],
        blocks=[int(size) for size in _a_stage(blocks, n)],
        bias=bool(arguments.get("conv_bias", False)),
        slope=float((arguments.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)),
        eps=float((arguments.get("norm_op_kwargs") or {}).get("eps", 1e-5)),
    )


def _a_stage(value: Any, n: int) -> list[Any]:  # noqa: ANN401 (JSON)
    values = value if isinstance(value, list) else [value] * n
    if len(values) != n:
        raise ValueError(f"{len(values)} entries for {n} stages")
    return values


def _triple(value: Any) -> Shape:  # noqa: ANN401 (JSON)
    d, h, w = value if isinstance(value, list) else (value,) * 3
    return int(d), int(h), int(w)


def _expects(plans: Mapping[str, Any], chosen: Mapping[str, Any]) -> HuWindow | ZScore:
    (scheme,) = chosen["normalization_schemes"]
    if scheme == "ZScoreNormalization":
        return ZScore(whole=not any(chosen.get("use_mask_for_norm", ())))
    if scheme != "CTNormalization":
        raise _UnfitError(f"its {scheme} is neither CTNormalization nor ZScoreNormalization")
    facts = plans["foreground_intensity_properties_per_channel"]["0"]
    low, high = float(facts["percentile_00_5"]), float(facts["percentile_99_5"])
    mean, std = float(facts["mean"]), max(float(facts["std"]), 1e-8)
    return HuWindow(low, high, (low - mean) / std, (high - mean) / std)


def _layout(plans: Mapping[str, Any]) -> Layout:
    """nnU-Net's arrays are (z, y, x) as stored, then transposed; some readers turn them to RAS."""
    d, h, w = (int(axis) for axis in plans.get("transpose_forward", (0, 1, 2)))
    axes = (d, h, w)
    turned = str(plans.get("image_reader_writer", "")).endswith("WithReorient")
    return Layout(axes, tuple(i for i, axis in enumerate(axes) if turned and axis in (1, 2)))


def _checkpoint(folder: Path) -> Path:
    places = [folder] if folder.name.startswith("fold_") else sorted(folder.glob("fold_*"))
    for place in places:
        if (place / CHECKPOINT).is_file():
            return place / CHECKPOINT
    raise CheckpointError(f"{folder}: no fold_K/{CHECKPOINT}; name a finished nnU-Net model")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: not found; an nnU-Net results folder TRAINER__PLANS__CONFIGURATION has it"
        ) from None
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{path}: cannot be read ({problem})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not as nnU-Net v2 writes it")
    return content
