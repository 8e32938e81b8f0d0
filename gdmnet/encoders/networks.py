"""Networks of public encoders, in the names of their checkpoints, cut to the stages in use.

nnU-Net's are built here; those of the others are MONAI's, which takes seconds to import and is an
extra of its own: it is imported where one is built.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdmnet.geometry import Shape

POINT: Shape = (1, 1, 1)
SEGRESNET_BLOCKS = (1, 2, 2, 4, 4)  # residual blocks of each stage of CT-FM and VISTA3D
SWIN_DEPTHS, SWIN_HEADS = (2, 2, 2, 2), (3, 6, 12, 24)  # of each layer of Swin UNETR
DILATIONS = {"layer3": 2, "layer4": 4}  # of MedicalNet, in place of strides


@dataclass(frozen=True)
class StagedNetwork:
    """A network whose stages give a map each, and how its tensors are called in checkpoints."""

    build: Callable[[int], nn.Module]  # the first n: (b, 1, d, h, w) -> maps, finest first
    anchor: str  # a tensor that every checkpoint has: the end of its name
    channels: tuple[int, ...]  # of each stage's map
    strides: tuple[Shape, ...]  # voxels along the network's axes between two locations of a map
    renamed: tuple[tuple[str, str], ...] = ()  # parts of names in some files, and theirs here
    heads: tuple[str, ...] = ()  # how names of a pretraining's own tensors begin: not needed
    extra: bool = False  # the packages of gdmnet[encoders] are needed


def total_strides(strides: Sequence[Shape]) -> tuple[Shape, ...]:
    """Voxels from one location of a stage's map to the next, of strides from stage to stage."""
    return tuple(accumulate(strides, lambda a, b: (a[0] * b[0], a[1] * b[1], a[2] * b[2])))


def cubes(*sides: int) -> tuple[Shape, ...]:
    """The same number along all three axes, for every stage."""
    return tuple((side, side, side) for side in sides)


@dataclass(frozen=True)
class UNetStages:
    """The encoder of an nnU-Net, one entry a stage, finest first; axes are the network's own.

    A `residual` one (ResidualEncoderUNet) has a stem, then basic blocks whose shortcut averages
    where the block strides and projects where it widens.
    """

    features: tuple[int, ...]
    kernels: tuple[Shape, ...]
    strides: tuple[Shape, ...]  # of the first convolution; sizes must be divisible by them
    depths: tuple[int, ...]  # convolutions, or blocks of a residual one
    residual: bool = False
    bias: bool = True
    slope: float = 0.01  # of the leaky ReLU after each instance norm, 1 for none
    eps: float = 1e-5


def unet_encoder(shape: UNetStages) -> StagedNetwork:
    """The encoder of this shape, in nnU-Net's names."""
    return StagedNetwork(
        build=partial(UNetEncoder, shape),
        anchor="stem.convs.0.conv.weight" if shape.residual else "stages.0.0.convs.0.conv.weight",
        channels=shape.features,
        strides=total_strides(shape.strides),
    )


class UNetEncoder(nn.Module):
    """The first n stages: `stages.S.0.convs.C.{conv,norm}`, or `stem` and `stages.S.blocks.B`."""

    def __init__(self, shape: UNetStages, n: int) -> None:
        super().__init__()
        c_in = 1
        self.stem: nn.Module = nn.Identity()
        if shape.residual:
            c_in = shape.features[0]
            first = _conv_norm(1, c_in, shape.kernels[0], POINT, shape)
            self.stem = _named(convs=nn.Sequential(first))
        self.stages = nn.ModuleList()
        for stage, features in enumerate(shape.features[:n]):
            layers = nn.Sequential()
            for number in range(shape.depths[stage]):
                stride = POINT if number else shape.strides[stage]
                layer = _Block if shape.residual else _conv_norm
                layers.append(layer(c_in, features, shape.kernels[stage], stride, shape))
                c_in = features
            plain = nn.Sequential(_named(convs=layers))
            self.stages.append(_named(blocks=layers) if shape.residual else plain)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 1, d, h, w) -> the map of every stage, finest first."""
        return list(accumulate(self.stages, lambda x, stage: stage(x), initial=self.stem(x)))[1:]


def _named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _conv_norm(
    c_in: int, c_out: int, kernel: Shape, stride: Shape, shape: UNetStages
) -> nn.Sequential:
    d, h, w = (side // 2 for side in kernel)
    conv = nn.Conv3d(c_in, c_out, kernel, stride, (d, h, w), bias=shape.bias)
    layers = _named(conv=conv, norm=nn.InstanceNorm3d(c_out, eps=shape.eps, affine=True))
    return layers if shape.slope == 1 else layers.append(nn.LeakyReLU(shape.slope))


class _Block(nn.Module):
    def __init__(
        self, c_in: int, c_out: int, kernel: Shape, stride: Shape, shape: UNetStages
    ) -> None:
        super().__init__()
        self.slope, linear = shape.slope, replace(shape, slope=1)
        self.conv1 = _conv_norm(c_in, c_out, kernel, stride, shape)
        self.conv2 = _conv_norm(c_out, c_out, kernel, POINT, linear)
        self.skip = nn.Sequential()
        if stride != POINT:
            self.skip.append(nn.AvgPool3d(stride, stride))
        if c_in != c_out:
            self.skip.append(_conv_norm(c_in, c_out, POINT, POINT, replace(linear, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), self.slope)


def linknet(*features: int) -> StagedNetwork:
    """The encoder of deepbet's LinkNet with so many channels a stage."""
    return StagedNetwork(
        partial(LinkNetEncoder, features),
        anchor="init.0.weight",
        channels=features,
        strides=cubes(2, 4, 8, 16, 32),
        heads=("up", "tp_conv", "conv."),
    )


class LinkNetEncoder(nn.Module):
    """The first n stages of deepbet's LinkNet (Fisch et al. 2024), a ResNet-18 with instance norms.

    Its stem of stride 2 is the first stage; a pooling and down0, down1, ... are the further ones.
    """

    def __init__(self, features: tuple[int, ...], n: int) -> None:
        super().__init__()
        stem = nn.Conv3d(1, features[0], 7, 2, 3, bias=False)
        self.init = nn.Sequential(stem, nn.InstanceNorm3d(features[0]), nn.ReLU())
        for stage, (c_in, c_out) in enumerate(pairwise(features[:n])):
            first = _LinkNetBlock(c_in, c_out, 2 if stage else 1)
            self.add_module(
                f"down{stage}", _named(block1=first, block2=_LinkNetBlock(c_out, c_out))
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 1, d, h, w) -> the map of every stage, finest first."""
        stem, *downs = self.children()
        first = stem(x)
        pooled = functional.max_pool3d(first, 3, 2, 1)
        return [first, *list(accumulate(downs, lambda x, down: down(x), initial=pooled))[1:]]


class _LinkNetBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv3d(c_in, c_out, 3, stride, 1, bias=False),
            nn.InstanceNorm3d(c_out),
            nn.ReLU(),
            nn.Conv3d(c_out, c_out, 3, 1, 1, bias=False),
            nn.InstanceNorm3d(c_out),
        )
        self.downsample = nn.Sequential()
        if stride != 1:
            shortcut = nn.Conv3d(c_in, c_out, 1, stride, bias=False)
            self.downsample.extend([shortcut, nn.InstanceNorm3d(c_out)])

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.double_conv(x) + self.downsample(x))


def segresnet(width: int, *, norm: str) -> StagedNetwork:
    """The encoder of SegResNetDS (Myronenko 2018) with norms "batch" or "instance".

    The first stage has `width` channels, each further one twice as many.
    """

    def build(n: int) -> nn.Module:
        from monai.networks.nets.segresnet_ds import SegResEncoder

        return SegResEncoder(init_filters=width, norm=norm, blocks_down=SEGRESNET_BLOCKS[:n])

    channels = tuple(width * 2**stage for stage in range(5))
    return StagedNetwork(build, "conv_init.weight", channels, cubes(1, 2, 4, 8, 16), extra=True)


def medicalnet(depth: int) -> StagedNetwork:
    """The 3D ResNet-10, -18, -34 or -50 of MedicalNet (Chen et al. 2019): stem, then four layers.

    Two things differ from MONAI's own, which takes the same weights and computes something else:
    the last two layers are dilated by 2 and 4 instead of strided, as in MedicalNet's training, and
    the parameter-free shortcut of ResNet-18 and -34 stays in the graph (detached, as in MONAI,
    outputs are the same and the gradient at the image is wrong).
    """

    def build(n: int) -> nn.Module:
        from monai.networks.nets.resnet import ResNetFeatures

        network = ResNetFeatures(f"resnet{depth}", pretrained=False, spatial_dims=3, in_channels=1)
        for name, module in network.named_modules():
            dilation = DILATIONS.get(name.partition(".")[0])
            if dilation and isinstance(module, nn.Conv3d):
                module.stride = POINT
                if module.kernel_size == (3, 3, 3):
                    module.dilation = module.padding = (dilation,) * 3
            shortcut = getattr(module, "downsample", None)
            if isinstance(shortcut, partial):
                stride = 1 if dilation else 2
                module.downsample = _PaddedShortcut(shortcut.keywords["planes"], stride)
        for stage in range(n, 5):
            setattr(network, f"layer{stage}", nn.Identity())
        return network

    expansion = 4 if depth >= 50 else 1  # channels of a block's output per inner channel
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
    Embedded patches have `width` channels, each further stage twice as many; a `residual` one has a
    convolution block before each layer ("version 2", VoCo).
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
