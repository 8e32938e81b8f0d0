"""The public encoders that gdmnet can read, one entry each: where they come from, what they expect.

Everything is as published by their makers; gdmnet carries no weights and downloads none.
"""

from __future__ import annotations

from dataclasses import dataclass

from gdmnet.encoders.frozen import StagedNetwork
from gdmnet.encoders.grid import RAS, SPL, AxisLayout
from gdmnet.encoders.intensity import HuWindow, ZScore
from gdmnet.encoders.monai_networks import cubes, medicalnet, segresnet, swin
from gdmnet.encoders.unet_encoders import UNetStages, unet_encoder
from gdmnet.geometry import Spacing


@dataclass(frozen=True)
class EncoderCard:
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
class EncoderFamily:
    """One kind of checkpoint, the network that reads it, and the images that it was trained on.

    Attributes:
        card: for users.
        network: of the checkpoints.
        expects: intensities.
        spacing: mm along the network's axes; None for any.
        layout: of its axes.
    """

    card: EncoderCard
    network: StagedNetwork
    expects: HuWindow | ZScore
    spacing: Spacing | None = None
    layout: AxisLayout = SPL


RESENC_L = UNetStages(
    features=(32, 64, 128, 256, 320, 320),
    kernels=cubes(*(3,) * 6),
    strides=cubes(1, 2, 2, 2, 2, 2),
    depths=(1, 3, 4, 6, 6, 6),
    residual=True,
)
ONE_AND_A_HALF: Spacing = (1.5, 1.5, 1.5)
ABDOMEN, ABDOMEN_CT = HuWindow(-175.0, 250.0), "CT; its window hides lung and bone"
HUGGINGFACE, GITHUB = "huggingface.co/", "github.com/"


def _medicalnet(depth: int, *, expansion: int = 1) -> EncoderFamily:
    name, source = f"resnet_{depth}_23dataset.pth", GITHUB + "Tencent/MedicalNet"
    return EncoderFamily(
        EncoderCard(name, source, "MIT", "CT or MR; old and coarse"),
        medicalnet(depth, expansion=expansion),
        ZScore(whole=False),
    )


FAMILIES: dict[str, EncoderFamily] = {
    "ctfm": EncoderFamily(
        EncoderCard(
            "model.safetensors",
            HUGGINGFACE + "project-lighter/ct_fm_feature_extractor",
            "Apache-2.0",
            "CT",
        ),
        segresnet(32, norm="batch"),
        HuWindow(-1024.0, 2048.0),
        spacing=(3.0, 1.0, 1.0),
    ),
    "nnssl_resencl": EncoderFamily(
        EncoderCard(
            "checkpoint_final.pth",
            HUGGINGFACE + "MIC-DKFZ (OpenMind: MR; ResEncL-MissingPiece: CT too)",
            "CC BY 4.0 (nnFoundationCNN: CC BY-SA 4.0)",
            "MR; CT with the MissingPiece weights",
        ),
        unet_encoder(RESENC_L),
        ZScore(whole=True),
        spacing=(1.0, 1.0, 1.0),
    ),
    "vista3d": EncoderFamily(
        EncoderCard(
            "model.pt",
            "the vista3d bundle of the MONAI model zoo (MONAI 1.4 layout)",
            "NVIDIA Open Model License",
            "CT",
        ),
        segresnet(48, norm="instance"),
        HuWindow(-963.8247715525971, 1053.678477684517),
        ONE_AND_A_HALF,
        RAS,
    ),
    "swinvit_ssl": EncoderFamily(
        EncoderCard(
            "model_swinvit.pt",
            GITHUB + "Project-MONAI/MONAI-extra-test-data, release 0.8.1",
            "Apache-2.0",
            "CT",
        ),
        swin(48),
        HuWindow(-1000.0, 1000.0),
        layout=RAS,
    ),
    "suprem_swin": EncoderFamily(
        EncoderCard(
            "supervised_suprem_swinunetr_2100.pth",
            GITHUB + "MrGiovanni/SuPreM",
            "CC BY-NC-ND 4.0: not for commercial use",
            ABDOMEN_CT,
        ),
        swin(48),
        ABDOMEN,
        ONE_AND_A_HALF,
        RAS,
    ),
    "voco_b": EncoderFamily(
        EncoderCard(
            "VoCo_B_SSL_head.pt", GITHUB + "Luffy03/Large-Scale-Medical", "Apache-2.0", ABDOMEN_CT
        ),
        swin(48, residual=True),
        ABDOMEN,
        ONE_AND_A_HALF,
        RAS,
    ),
    "medicalnet_resnet10": _medicalnet(10),
    "medicalnet_resnet18": _medicalnet(18),
    "medicalnet_resnet34": _medicalnet(34),
    "medicalnet_resnet50": _medicalnet(50, expansion=4),
}
NOT_SUPPORTED = {"3dino": "a vision transformer whose tokens are 16 voxels wide"}
