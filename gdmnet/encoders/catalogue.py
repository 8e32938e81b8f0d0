"""The public encoders that gdmnet can read, one entry each: where they come from, what they expect.

Everything is as published by their makers; gdmnet carries no weights and downloads none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from gdmnet.encoders.grid import RAS, SPL, Layout
from gdmnet.encoders.intensity import HuWindow, ZScore
from gdmnet.encoders.medicalnet import MedicalNet
from gdmnet.encoders.segresnet import SegResEncoder
from gdmnet.encoders.unet_encoders import ResidualUNetEncoder, Stages
from gdmnet.geometry import Shape, Spacing


@dataclass(frozen=True)
class About:
    """What a user has to know before choosing an encoder.

    Attributes:
        filename: under which the weights are published; "" where none are needed.
        source: where to get them.
        licence: of the weights.
        modality: of the targets that it suits.
    """

    filename: str
    source: str
    licence: str
    modality: str


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint and the network that reads it.

    Attributes:
        about: for users.
        anchor: a tensor's name that every checkpoint has, at the end of its full name.
        n_stages: of the whole network.
        network: its first n stages; a `StagedNetwork`.
        expects: intensities.
        spacing: mm that it was trained on, along its own axes; None for any.
        layout: of its axes.
    """

    about: About
    anchor: str
    n_stages: int
    network: Callable[[int], nn.Module]
    expects: HuWindow | ZScore
    spacing: Spacing | None = None
    layout: Layout = SPL


SEGRESNET_BLOCKS = (1, 2, 2, 4, 4)
CUBE: Shape = (3, 3, 3)
HALF: Shape = (2, 2, 2)
RESENC_L = Stages(
    features=(32, 64, 128, 256, 320, 320),
    kernels=(CUBE,) * 6,
    strides=((1, 1, 1), *(HALF,) * 5),
    blocks=(1, 3, 4, 6, 6, 6),
)


def _medicalnet(
    depth: int, blocks: tuple[int, ...], *, bottleneck: bool = False, projects: bool = True
) -> Family:
    return Family(
        About(
            f"resnet_{depth}_23dataset.pth",
            "github.com/Tencent/MedicalNet",
            "MIT",
            "CT or MR; old and coarse",
        ),
        anchor="layer1.0.conv1.weight",
        n_stages=1 + len(blocks),
        network=lambda n: MedicalNet(blocks[: n - 1], bottleneck=bottleneck, projects=projects),
        expects=ZScore(whole=False),
    )


FAMILIES: dict[str, Family] = {
    "ctfm": Family(
        About(
            "model.safetensors",
            "huggingface.co/project-lighter/ct_fm_feature_extractor",
            "Apache-2.0",
            "CT",
        ),
        anchor="conv_init.weight",
        n_stages=len(SEGRESNET_BLOCKS),
        network=lambda n: SegResEncoder(32, SEGRESNET_BLOCKS[:n], norm="batch"),
        expects=HuWindow(-1024.0, 2048.0),
        spacing=(3.0, 1.0, 1.0),
    ),
    "nnssl_resencl": Family(
        About(
            "checkpoint_final.pth",
            "huggingface.co/MIC-DKFZ (OpenMind: MR; ResEncL-MissingPiece: CT too)",
            "CC BY 4.0 (nnFoundationCNN: CC BY-SA 4.0)",
            "MR; CT with the MissingPiece weights",
        ),
        anchor="stem.convs.0.conv.weight",
        n_stages=len(RESENC_L.features),
        network=lambda n: ResidualUNetEncoder(RESENC_L.first(n)),
        expects=ZScore(whole=True),
        spacing=(1.0, 1.0, 1.0),
    ),
    "vista3d": Family(
        About(
            "model.pt",
            "the vista3d bundle of the MONAI model zoo (MONAI 1.4 layout)",
            "NVIDIA Open Model License",
            "CT",
        ),
        anchor="conv_init.weight",
        n_stages=len(SEGRESNET_BLOCKS),
        network=lambda n: SegResEncoder(48, SEGRESNET_BLOCKS[:n], norm="instance"),
        expects=HuWindow(-963.8247715525971, 1053.678477684517),
        spacing=(1.5, 1.5, 1.5),
        layout=RAS,
    ),
    "medicalnet_resnet10": _medicalnet(10, (1, 1, 1, 1)),
    "medicalnet_resnet18": _medicalnet(18, (2, 2, 2, 2), projects=False),
    "medicalnet_resnet34": _medicalnet(34, (3, 4, 6, 3), projects=False),
    "medicalnet_resnet50": _medicalnet(50, (3, 4, 6, 3), bottleneck=True),
}
