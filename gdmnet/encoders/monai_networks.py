"""MONAI's networks in the names of public checkpoints, cut to the stages in use.

MONAI takes seconds to import and is an extra of its own, so it is imported where one is built.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdmnet.encoders.frozen import StagedNetwork
from gdmnet.geometry import Shape

SEGRESNET_BLOCKS = (1, 2, 2, 4, 4)  # residual blocks of each stage of CT-FM and VISTA3D
SWIN_DEPTHS, SWIN_HEADS = (2, 2, 2, 2), (3, 6, 12, 24)  # of each layer of Swin UNETR
DILATIONS = {"layer3": 2, "layer4": 4}  # of MedicalNet, in place of strides


def cubes(*sides: int) -> tuple[Shape, ...]:
    """The same number along all three axes, for every stage."""
    return tuple((side, side, side) for side in sides)


def segresnet(width: int, *, norm: str) -> StagedNetwork:
    """The encoder of SegResNetDS (Myronenko 2018).

    Args:
        width: channels of the first stage; each further one has twice as many.
        norm: "batch" or "instance".
    """

    def build(n: int) -> nn.Module:
        from monai.networks.nets.segresnet_ds import SegResEncoder

        return SegResEncoder(init_filters=width, norm=norm, blocks_down=SEGRESNET_BLOCKS[:n])

    channels = tuple(width * 2**stage for stage in range(5))
    return StagedNetwork(build, "conv_init.weight", channels, cubes(1, 2, 4, 8, 16), extra=True)


def medicalnet(depth: int, *, expansion: int = 1) -> StagedNetwork:
    """The 3D ResNet of MedicalNet (Chen et al. 2019): the stem, then four layers.

    Two things differ from MONAI's own, which takes the same weights and computes something else:
    the last two layers are dilated by 2 and 4 instead of strided, as in MedicalNet's training, and
    the parameter-free shortcut of ResNet-18 and -34 stays in the graph (detached, as in MONAI,
    outputs are the same and the gradient at the image is wrong).

    Args:
        depth: 10, 18, 34 or 50.
        expansion: channels of a block's output per inner channel; 4 for ResNet-50.
    """

    def build(n: int) -> nn.Module:
        from monai.networks.nets.resnet import ResNetFeatures

        network = ResNetFeatures(f"resnet{depth}", pretrained=False, spatial_dims=3, in_channels=1)
        for name, module in network.named_modules():
            dilation = DILATIONS.get(name.partition(".")[0])
            if dilation and isinstance(module, nn.Conv3d):
                module.stride = (1, 1, 1)
                if module.kernel_size == (3, 3, 3):
                    module.dilation = module.padding = (dilation,) * 3
            shortcut = getattr(module, "downsample", None)
            if isinstance(shortcut, partial):
                stride = 1 if dilation else 2
                module.downsample = _PaddedShortcut(shortcut.keywords["planes"], stride)
        for stage in range(n, 5):
            setattr(network, f"layer{stage}", nn.Identity())
        return network

    channels = (64, *(expansion * width for width in (64, 128, 256, 512)))
    return StagedNetwork(build, "layer1.0.conv1.weight", channels, cubes(2, 4, 8, 8, 8), extra=True)


class _PaddedShortcut(nn.Module):
    """Every stride-th voxel, and zeros for the channels that are not there yet."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        thinned = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return functional.pad(thinned, (0, 0) * 3 + (0, self.channels - x.shape[1]))


def swin(width: int, *, residual: bool = False) -> StagedNetwork:
    """The transformer of Swin UNETR (Tang et al. 2022): embedded patches, then four layers.

    Every location of a map is normalised over its channels, as Swin UNETR's own decoder sees it.

    Args:
        width: channels of the embedded patches; each further stage has twice as many.
        residual: a convolution block before each layer ("version 2", VoCo).
    """

    def build(n: int) -> nn.Module:
        import einops  # noqa: F401 (MONAI itself would miss it only when it computes)
        from monai.networks.nets.swin_unetr import PatchMerging, SwinTransformer

        # On the CPU even under a meta device: MONAI reads numbers off a tensor here.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            network = SwinTransformer(
                in_chans=1,
                embed_dim=width,
                window_size=(7, 7, 7),
                patch_size=(2, 2, 2),
                depths=SWIN_DEPTHS,
                num_heads=SWIN_HEADS,
                downsample=PatchMerging,
                use_v2=residual,
            )
        for stage in range(n, 5):
            for name in (f"layers{stage}", f"layers{stage}c"):
                if hasattr(network, name):
                    setattr(network, name, nn.ModuleList([nn.Identity()]))
        return network

    return StagedNetwork(
        build,
        anchor="patch_embed.proj.weight",
        channels=tuple(width * 2**stage for stage in range(5)),
        strides=cubes(2, 4, 8, 16, 32),
        renamed=((".mlp.fc1.", ".mlp.linear1."), (".mlp.fc2.", ".mlp.linear2.")),
        heads=("norm.", "rotation_", "contrastive_", "conv"),
        extra=True,
    )
