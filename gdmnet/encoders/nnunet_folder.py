"""Any nnU-Net v2 results folder as an encoder: a site's own model, or TotalSegmentator's.

The folder `TRAINER__PLANS__CONFIGURATION` with plans.json, dataset.json and fold_K/
checkpoint_final.pth says everything: network, spacing, axes, intensities.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdmnet import folders
from gdmnet.codec import read_json
from gdmnet.encoders.catalogue import EncoderCard, EncoderFamily
from gdmnet.encoders.grid import AxisLayout
from gdmnet.encoders.intensity import HuWindow, ZScore
from gdmnet.encoders.unet_encoders import UNetStages, unet_encoder
from gdmnet.errors import CheckpointError
from gdmnet.geometry import Shape

CHECKPOINT = "checkpoint_final.pth"
NNUNET_CARD = EncoderCard(
    CHECKPOINT,
    "a results folder of nnU-Net v2, for example TotalSegmentator's",
    "the model's own",
    "that of the model: CT, or any by z-score",
)
DEPTHS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
WANTED = {"conv_op": "Conv3d", "norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU"}
UNDERSTOOD = {"features_per_stage", "kernel_sizes", "strides", *DEPTHS.values()}
UNDERSTOOD |= {"conv_bias", "norm_op_kwargs", "nonlin_kwargs", *WANTED}
UNDERSTOOD |= {"n_stages", "n_conv_per_stage_decoder", "deep_supervision"}  # nothing depends on it
UNDERSTOOD |= {"dropout_op", "dropout_op_kwargs"}  # off in evaluation


def read_family(folder: Path | None) -> tuple[EncoderFamily, Path]:
    """The encoder of a results folder and its checkpoint.

    Args:
        folder: of the model, or of one of its folds; of a model the first finished fold is taken.
            None for $gdmnet_encoders/nnunet.

    Raises:
        CheckpointError: a file is missing or says something that gdmnet's encoders are not.
    """
    root = folders.encoders_root()
    folder = folder or (root / "nnunet" if root is not None else None)
    if folder is None or not folder.is_dir():
        raise CheckpointError(
            f"encoder nnunet: {folder or 'no folder named'}: not a folder; write"
            " --encoder nnunet:FOLDER with nnU-Net's TRAINER__PLANS__CONFIGURATION"
        )
    model = folder.parent if folder.name.startswith("fold_") else folder
    plans, dataset = _read(model / "plans.json"), _read(model / "dataset.json")
    file = _checkpoint(folder)
    try:
        return _family(plans, dataset, model.name.rpartition("__")[2]), file
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise CheckpointError(
            f"{model / 'plans.json'}: not as nnU-Net v2 writes it ({reason})"
        ) from None
    except CheckpointError as problem:
        raise CheckpointError(f"{model}: cannot be used as an encoder: {problem}") from None


def _family(plans: Mapping[str, Any], dataset: Mapping[str, Any], name: str) -> EncoderFamily:
    channels = dataset.get("channel_names", dataset.get("modality", {}))
    if len(channels) != 1:
        raise CheckpointError(
            f"it takes {len(channels)} channels ({', '.join(map(str, channels.values()))});"
            " an encoder sees one image"
        )
    chosen = _configuration(plans, name)
    d, h, w = (float(side) for side in chosen["spacing"])
    # Arrays are (z, y, x) as stored, then transposed; some readers turn them to RAS.
    axes = _triple(plans.get("transpose_forward", [0, 1, 2]))
    turned = str(plans.get("image_reader_writer", "")).endswith("WithReorient")
    flipped = tuple(i for i, axis in enumerate(axes) if turned and axis in (1, 2))
    return EncoderFamily(
        card=NNUNET_CARD,
        network=unet_encoder(_stages(*_architecture(chosen))),
        expects=_expects(plans, chosen),
        spacing=(d, h, w),
        layout=AxisLayout(axes, flipped),
    )


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of the plans with all that it inherits."""
    every = plans["configurations"]
    if name not in every:
        raise CheckpointError(
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
        DEPTHS.get(class_name, "depths"): depths,
        "conv_bias": True,
    }


def _stages(class_name: str, arguments: Mapping[str, Any]) -> UNetStages:
    if class_name not in DEPTHS:
        raise CheckpointError(f"its network is a {class_name}, not a {' or '.join(DEPTHS)}")
    strange = [key for key, value in arguments.items() if value and key not in UNDERSTOOD]
    if strange:
        raise CheckpointError(f"its network has the options {', '.join(strange)}")
    for key, wanted in WANTED.items():
        found = str(arguments.get(key) or wanted).rpartition(".")[2]
        if found != wanted:
            raise CheckpointError(f"its network has {key} {found}, not {wanted}")
    features = tuple(int(n) for n in arguments["features_per_stage"])
    kernels, strides, depths = (
        value if isinstance(value, list) else [value] * len(features)
        for value in map(arguments.get, ("kernel_sizes", "strides", DEPTHS[class_name]))
    )
    for values in (kernels, strides, depths):
        if len(values) != len(features):
            raise ValueError(f"{len(values)} entries for {len(features)} stages")
    return UNetStages(
        features=features,
        kernels=tuple(map(_triple, kernels)),
        strides=tuple(map(_triple, strides)),
        depths=tuple(map(int, depths)),
        residual=class_name == "ResidualEncoderUNet",
        bias=bool(arguments.get("conv_bias", False)),
        slope=float((arguments.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)),
        eps=float((arguments.get("norm_op_kwargs") or {}).get("eps", 1e-5)),
    )


def _triple(value: Any) -> Shape:  # noqa: ANN401 (JSON)
    d, h, w = value if isinstance(value, list) else (value,) * 3
    return int(d), int(h), int(w)


def _expects(plans: Mapping[str, Any], chosen: Mapping[str, Any]) -> HuWindow | ZScore:
    (scheme,) = chosen["normalization_schemes"]
    if scheme == "ZScoreNormalization":
        return ZScore(whole=not any(chosen.get("use_mask_for_norm", ())))
    if scheme != "CTNormalization":
        raise CheckpointError(f"its {scheme} is neither CTNormalization nor ZScoreNormalization")
    facts = plans["foreground_intensity_properties_per_channel"]["0"]
    low, high = float(facts["percentile_00_5"]), float(facts["percentile_99_5"])
    mean, std = float(facts["mean"]), max(float(facts["std"]), 1e-8)
    return HuWindow(low, high, (low - mean) / std, (high - mean) / std)


def _checkpoint(folder: Path) -> Path:
    places = [folder] if folder.name.startswith("fold_") else sorted(folder.glob("fold_*"))
    for place in places:
        if (place / CHECKPOINT).is_file():
            return place / CHECKPOINT
    raise CheckpointError(f"{folder}: no fold_K/{CHECKPOINT}; name a finished nnU-Net model")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: not found; an nnU-Net results folder TRAINER__PLANS__CONFIGURATION has it"
        )
    content = read_json(path, CheckpointError)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not as nnU-Net v2 writes it")
    return content
