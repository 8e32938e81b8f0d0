"""The public encoders that gdmnet can read: where they come from, what they expect.

One entry each, as published by their makers; and any nnU-Net v2 results folder, a site's own model
or TotalSegmentator's: `TRAINER__PLANS__CONFIGURATION` with plans.json, dataset.json and
fold_K/checkpoint_final.pth. gdmnet carries no weights and downloads none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdmnet import folders
from gdmnet.codec import read_json
from gdmnet.encoders.adapter import RAS, SPL, AxisLayout, HuWindow, ZScore
from gdmnet.encoders.networks import (
    StagedNetwork,
    UNetStages,
    cubes,
    linknet,
    medicalnet,
    segresnet,
    swin,
    unet_encoder,
)
from gdmnet.errors import CheckpointError
from gdmnet.geometry import SPACINGS, Shape, Spacing


@dataclass(frozen=True)
class EncoderCard:
    """What a user has to know before choosing an encoder."""

    filename: str  # under which its weights are published, "" where none are needed
    source: str
    licence: str
    modality: str  # of the targets that it suits


@dataclass(frozen=True)
class EncoderFamily(EncoderCard):
    """One kind of checkpoint, the network that reads it, and the images that it was trained on."""

    network: StagedNetwork
    expects: HuWindow | ZScore
    spacing: Spacing | None = None  # mm along the network's axes; None for any
    layout: AxisLayout = SPL
    wheel: str = ""  # path of the weights in the Python package of the encoder's name


RESENC_L = UNetStages(
    features=(32, 64, 128, 256, 320, 320),
    kernels=cubes(*(3,) * 6),
    strides=cubes(1, 2, 2, 2, 2, 2),
    depths=(1, 3, 4, 6, 6, 6),
    residual=True,
)
ONE_AND_A_HALF: Spacing = (1.5, 1.5, 1.5)
ABDOMEN, ABDOMEN_CT = HuWindow(-175.0, 250.0), "CT; its window hides lung and bone"
FAMILIES: dict[str, EncoderFamily] = {
    "ctfm": EncoderFamily(
        "model.safetensors",
        "huggingface.co/project-lighter/ct_fm_feature_extractor",
        "Apache-2.0",
        "CT",
        segresnet(32, norm="batch"),
        HuWindow(-1024.0, 2048.0),
        spacing=(3.0, 1.0, 1.0),
    ),
    "nnssl_resencl": EncoderFamily(
        "checkpoint_final.pth",
        "huggingface.co/MIC-DKFZ (OpenMind: MR; ResEncL-MissingPiece: CT too)",
        "CC BY 4.0 (nnFoundationCNN: CC BY-SA 4.0)",
        "MR; CT with the MissingPiece weights",
        unet_encoder(RESENC_L),
        ZScore(whole=True),
        spacing=(1.0, 1.0, 1.0),
    ),
    "vista3d": EncoderFamily(
        "model.pt",
        "the vista3d bundle of the MONAI model zoo (MONAI 1.4 layout)",
        "NVIDIA Open Model License",
        "CT",
        segresnet(48, norm="instance"),
        HuWindow(-963.8247715525971, 1053.678477684517),
        ONE_AND_A_HALF,
        RAS,
    ),
    "deepbet": EncoderFamily(
        "model.pt",
        "the PyPI package deepbet (pip install --no-deps deepbet)",
        "MIT",
        "brain MR; it was trained to find brains in T1",
        linknet(16, 16, 32, 64, 128),
        ZScore(whole=True, mean=0.449, std=0.226),
        (0.7, 0.8, 0.7),  # of a brain and a fifth around it in 256 x 256 x 256 voxels
        RAS,
        "data/models/model.pt",
    ),
    "swinvit_ssl": EncoderFamily(
        "model_swinvit.pt",
        "github.com/Project-MONAI/MONAI-extra-test-data, release 0.8.1",
        "Apache-2.0",
        "CT",
        swin(48),
        HuWindow(-1000.0, 1000.0),
        layout=RAS,
    ),
    "suprem_swin": EncoderFamily(
        "supervised_suprem_swinunetr_2100.pth",
        "github.com/MrGiovanni/SuPreM",
        "CC BY-NC-ND 4.0: not for commercial use",
        ABDOMEN_CT,
        swin(48),
        ABDOMEN,
        ONE_AND_A_HALF,
        RAS,
    ),
    "voco_b": EncoderFamily(
        "VoCo_B_SSL_head.pt",
        "github.com/Luffy03/Large-Scale-Medical",
        "Apache-2.0",
        ABDOMEN_CT,
        swin(48, residual=True),
        ABDOMEN,
        ONE_AND_A_HALF,
        RAS,
    ),
    **{
        f"medicalnet_resnet{depth}": EncoderFamily(
            f"resnet_{depth}_23dataset.pth",
            "github.com/Tencent/MedicalNet",
            "MIT",
            "CT or MR; old and coarse",
            medicalnet(depth),
            ZScore(whole=False),
        )
        for depth in (10, 18, 34, 50)
    },
}
CHECKPOINT = "checkpoint_final.pth"
NNUNET_CARD = EncoderCard(
    CHECKPOINT,
    "a results folder of nnU-Net v2, for example TotalSegmentator's",
    "the model's own",
    "that of the model: CT, or any by z-score",
)
ENCODERS: dict[str, EncoderCard] = {
    "self": EncoderCard("", "trained on this dataset's own targets", "your own", "any"),
    "random": EncoderCard("", "random weights by --seed: the control", "none", "any"),
    "nnunet": NNUNET_CARD,
    **FAMILIES,
}
NOT_SUPPORTED = {"3dino": "a vision transformer whose tokens are 16 voxels wide"}

_MOST = 4096  # channels, layers, or voxels of a side
_DEPTHS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
_WANTED = {"conv_op": "Conv3d", "norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU"}
_UNDERSTOOD = {"features_per_stage", "kernel_sizes", "strides", *_DEPTHS.values()}
_UNDERSTOOD |= {"conv_bias", "norm_op_kwargs", "nonlin_kwargs", *_WANTED}
_UNDERSTOOD |= {"n_stages", "n_conv_per_stage_decoder", "deep_supervision"}  # nothing depends on it
_UNDERSTOOD |= {"dropout_op", "dropout_op_kwargs"}  # off in evaluation


def nnunet_family(folder: Path | None) -> tuple[EncoderFamily, Path]:
    """The encoder of an nnU-Net results folder and its checkpoint.

    The folder is that of the model, of which the first finished fold is taken, or of one of its
    folds; None is $gdmnet_encoders/nnunet.

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
    is_fold = folder.name.startswith("fold_")
    model, folds = folder.parent if is_fold else folder, [folder] if is_fold else []
    files = [fold / CHECKPOINT for fold in folds or sorted(folder.glob("fold_*"))]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder}: no fold_K/{CHECKPOINT}; name a finished nnU-Net model")
    try:
        plans = read_json(model / "plans.json", CheckpointError)
        dataset = read_json(model / "dataset.json", CheckpointError)
        return _nnunet_family(plans, dataset, model.name.rpartition("__")[2]), file
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
        reason = f"not as nnU-Net v2 writes it ({type(problem).__name__}: {problem})"
    except CheckpointError as problem:
        reason = f"cannot be used as an encoder: {problem}"
    raise CheckpointError(f"{model}: {reason}")


def _nnunet_family(
    plans: Mapping[str, Any], dataset: Mapping[str, Any], name: str
) -> EncoderFamily:
    channels = dataset.get("channel_names", dataset.get("modality", {}))
    if len(channels) != 1:
        raise CheckpointError(
            f"it takes {len(channels)} channels ({', '.join(map(str, channels.values()))});"
            " an encoder sees one image"
        )
    every = plans["configurations"]
    if name not in every:
        raise CheckpointError(
            f"its name ends in {name!r}, which is no configuration of its plans"
            f" ({', '.join(every)}); keep nnU-Net's TRAINER__PLANS__CONFIGURATION"
        )
    chain = [every[name]]
    while "inherits_from" in chain[0] and len(chain) <= len(every):
        chain.insert(0, every[chain[0]["inherits_from"]])
    chosen = {key: value for one in chain for key, value in one.items()}
    d, h, w = (float(side) for side in chosen["spacing"])
    if not SPACINGS[0] <= min(d, h, w) <= max(d, h, w) <= SPACINGS[1]:
        raise ValueError(f"a spacing of {d:g}, {h:g}, {w:g} mm")
    # Arrays are (z, y, x) as stored, then transposed; some readers turn them to RAS.
    first, second, third = axes = tuple(plans.get("transpose_forward", (0, 1, 2)))
    if sorted(axes) != [0, 1, 2]:
        raise ValueError(f"axes in the order {axes}")
    turned = str(plans.get("image_reader_writer", "")).endswith("WithReorient")
    flipped = tuple(i for i, axis in enumerate(axes) if turned and axis in (1, 2))
    network = unet_encoder(_nnunet_stages(*_architecture(chosen)))
    expects = _nnunet_intensities(plans, chosen)
    layout = AxisLayout((first, second, third), flipped)
    card = vars(NNUNET_CARD)
    return EncoderFamily(**card, network=network, expects=expects, spacing=(d, h, w), layout=layout)


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
        _DEPTHS.get(class_name, "depths"): depths,
        "conv_bias": True,
    }


def _nnunet_stages(class_name: str, arguments: Mapping[str, Any]) -> UNetStages:
    if class_name not in _DEPTHS:
        raise CheckpointError(f"its network is a {class_name}, not a {' or '.join(_DEPTHS)}")
    strange = [key for key, value in arguments.items() if value and key not in _UNDERSTOOD]
    if strange:
        raise CheckpointError(f"its network has the options {', '.join(strange)}")
    for key, wanted in _WANTED.items():
        found = str(arguments.get(key) or wanted).rpartition(".")[2]
        if found != wanted:
            raise CheckpointError(f"its network has {key} {found}, not {wanted}")
    features = tuple(map(_count, arguments["features_per_stage"]))
    kernels, strides, depths = (
        value if isinstance(value, list) else [value] * len(features)
        for value in map(arguments.get, ("kernel_sizes", "strides", _DEPTHS[class_name]))
    )
    for values in (kernels, strides, depths):
        if len(values) != len(features):
            raise ValueError(f"{len(values)} entries for {len(features)} stages")
    return UNetStages(
        features=features,
        kernels=tuple(map(_triple, kernels)),
        strides=tuple(map(_triple, strides)),
        depths=tuple(map(_count, depths)),
        residual=class_name == "ResidualEncoderUNet",
        bias=bool(arguments.get("conv_bias", False)),
        slope=float((arguments.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)),
        eps=float((arguments.get("norm_op_kwargs") or {}).get("eps", 1e-5)),
    )


def _triple(value: Any) -> Shape:  # noqa: ANN401 (JSON)
    d, h, w = map(_count, value if isinstance(value, list) else (value,) * 3)
    return d, h, w


def _count(value: Any) -> int:  # noqa: ANN401
    if not 1 <= int(value) <= _MOST:
        raise ValueError(f"a number of {value}")
    return int(value)


def _nnunet_intensities(plans: Mapping[str, Any], chosen: Mapping[str, Any]) -> HuWindow | ZScore:
    (scheme,) = chosen["normalization_schemes"]
    if scheme == "ZScoreNormalization":
        return ZScore(whole=not any(chosen.get("use_mask_for_norm", ())))
    if scheme != "CTNormalization":
        raise CheckpointError(f"its {scheme} is neither CTNormalization nor ZScoreNormalization")
    facts = plans["foreground_intensity_properties_per_channel"]["0"]
    low, high = float(facts["percentile_00_5"]), float(facts["percentile_99_5"])
    mean, std = float(facts["mean"]), max(float(facts["std"]), 1e-8)
    if low >= high:
        raise ValueError(f"intensities from {low:g} to {high:g}")
    return HuWindow(low, high, (low - mean) / std, (high - mean) / std)
