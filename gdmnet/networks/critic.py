"""The critic of the objective gan: scores of overlapping patches, real against generated.

The patch discriminator of pix2pix (Isola et al., CVPR 2017, appendix 6.1.2: C64-C128-C256-C512) in
3D, with the plan's strides: an axis that the generator does not shorten is not shortened here.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from gdmnet.geometry import Shape
from gdmnet.networks.unet import InstanceNorm
from gdmnet.plan import Architecture

MOST_FEATURES = 64  # of the first layer, as in pix2pix
MOST_STRIDED = 3  # layers that shorten the image, as in pix2pix
_SLOPE = 0.2  # of LeakyReLU, as in pix2pix
_SPREAD = 0.02  # standard deviation of the first weights, as in pix2pix


class Critic(nn.Module):
    """Strided layers, one of stride 1, a linear score; weights from torch's global random numbers.

    Its first layer has twice the features of the generator's finest stage, 64 at most, each further
    one twice as many: 64, 128, 256, 512 beside nnU-Net's 32, and less beside smaller generators.

    It follows the generator's kernels and strides. Its `n_channels` are the source channels and one
    image to be judged. Instance norms, as pix2pix's, hide contrast and strength of texture; without
    them the weights are Kaiming's, so that scores keep their size.
    """

    def __init__(self, architecture: Architecture, n_channels: int, *, normed: bool = True) -> None:
        super().__init__()
        strides = architecture.strides[1 : 1 + MOST_STRIDED]
        kernels = architecture.kernels[: len(strides)]  # of the map that a layer sees
        width = min(MOST_FEATURES, 2 * architecture.features[0])
        self.layers = nn.ModuleList()
        for place, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            self.layers.append(_Layer(n_channels, width, kernel, stride, norm=normed and place > 0))
            n_channels, width = width, 2 * width
        last = architecture.kernels[len(strides)]
        self.layers.append(_Layer(n_channels, width, last, (1, 1, 1), norm=normed))
        self.head = _convolution(width, 1, last, (1, 1, 1), bias=True)
        for part in self.layers.modules() if not normed else ():
            if isinstance(part, nn.Conv3d):
                nn.init.kaiming_normal_(part.weight, a=_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n_channels, z, y, x), any size, in network units to scores (b, 1, z', y', x').

        There is one for each cell of at most three of the plan's strides.
        """
        for layer in self.layers:
            x = layer(x)
        scores: Tensor = self.head(x)
        return scores


class _Layer(nn.Module):
    """A convolution, a normalisation, a LeakyReLU; a stride of s gives ceil(n / s) locations."""

    def __init__(self, n_in: int, n_out: int, kernel: Shape, stride: Shape, *, norm: bool) -> None:
        super().__init__()
        self.stride = stride
        # The normalisation would subtract a bias, and Adam would blow its noise up to full steps.
        self.convolution = _convolution(n_in, n_out, kernel, stride, bias=not norm)
        self.norm = InstanceNorm(n_out) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        z, y, x_ = (-n % s for n, s in zip(x.shape[2:], self.stride, strict=True))
        if z or y or x_:  # a stride that does not divide a side would leave its end unseen
            x = F.pad(x, (0, x_, 0, y, 0, z))
        return F.leaky_relu(self.norm(self.convolution(x)), _SLOPE)


def _convolution(n_in: int, n_out: int, kernel: Shape, stride: Shape, *, bias: bool) -> nn.Conv3d:
    """Of stride + 2 voxels along an axis: 4 where it is halved, 3 where not, 1 where the plan's is.

    So a map of n voxels gives n / stride scores, and each stays above the voxels that it judges.
    """
    z, y, x = (s + 2 if max(k, s) > 1 else 1 for k, s in zip(kernel, stride, strict=True))
    padding = (min(1, z - 1), min(1, y - 1), min(1, x - 1))
    convolution = nn.Conv3d(n_in, n_out, (z, y, x), stride, padding, bias=bias)
    nn.init.normal_(convolution.weight, 0.0, _SPREAD)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
