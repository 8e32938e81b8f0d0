"""Between patches in the target's network units and a public network: what it was trained to see.

One affine and one clamp for intensities, a permutation of the axes, the network's spacing, sizes
that it can divide. The intensities' constants are those of the dataset, never of a patch: a patch's
own z-score would take away the very errors of level and contrast that the drift has to see.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdmnet.errors import PlanError
from gdmnet.geometry import Shape, Spacing
from gdmnet.plan import Fingerprint, Intensity, Normalisation

T = TypeVar("T", int, float)
Zoom = tuple[float, float, float]

MOST_OUTSIDE = 0.2  # of the target's range that may lie outside an encoder's window unremarked
SAME_WITHIN = 1.5  # spacings that differ by less are taken as equal
SMALLEST_MAP = 4  # positions along an axis; statistics of fewer say nothing
UNCHANGED: Zoom = (1.0, 1.0, 1.0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HuWindow:
    """An encoder of CT: HU low..high become out_low..out_high, values outside are clipped."""

    low: float
    high: float
    out_low: float = 0.0
    out_high: float = 1.0


@dataclass(frozen=True)
class ZScore:
    """An encoder of any modality that sees a z-score, of this mean and deviation."""

    whole: bool = True  # of the volume, else of the body
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class IntensityMap:
    """y = clamp(scale * x + offset, low, high), x in network units of the target."""

    scale: float
    offset: float
    low: float = -inf
    high: float = inf
    outside: float = 0.0  # share of the target's range that the clamp makes constant


@dataclass(frozen=True)
class AxisLayout:
    """How a network's axes lie in gdmnet's (z, y, x), which point to S, P and L."""

    axes: tuple[int, int, int] = (0, 1, 2)  # which of (z, y, x) each of the network's is
    flipped: tuple[int, ...] = ()  # those of the network's that run the other way

    def to_network(self, x: Tensor) -> Tensor:
        """(b, c, z, y, x) along the network's axes."""
        d, h, w = self.axes
        return x.permute(0, 1, d + 2, h + 2, w + 2).flip([axis + 2 for axis in self.flipped])

    def to_image(self, y: Tensor) -> Tensor:
        """The inverse of `to_network`."""
        unflipped = y.flip([axis + 2 for axis in self.flipped])
        return unflipped.permute(0, 1, *(axis + 2 for axis in self.restored((0, 1, 2))))

    def reordered(self, values: Sequence[T]) -> tuple[T, T, T]:
        """Numbers of (z, y, x) in the order of the network's axes."""
        d, h, w = (values[axis] for axis in self.axes)
        return d, h, w

    def restored(self, values: Sequence[T]) -> tuple[T, T, T]:
        """Numbers of the network's axes in the order (z, y, x)."""
        z, y, x = (values[self.axes.index(axis)] for axis in range(3))
        return z, y, x


SPL = AxisLayout()  # nnU-Net's and CT-FM's
RAS = AxisLayout((2, 1, 0), (0, 1))  # MONAI's


class EncoderAdapter(nn.Module):
    """A network (b, 1, d, h, w) -> maps, finest first, and what stands between it and our patches.

    Strides (of the stages in use, finest first) and zoom (voxels of the network per voxel of the
    patch) are along the network's axes; maps come back in ours.
    """

    def __init__(
        self,
        network: nn.Module,
        strides: Mapping[int, Shape],
        *,
        intensities: IntensityMap,
        layout: AxisLayout,
        zoom: Zoom = UNCHANGED,
    ) -> None:
        super().__init__()
        self.network, self.strides = network, strides
        self.intensities, self.layout, self.zoom = intensities, layout, zoom

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of patches (b, 1, z, y, x) in network units of the target, finest first.

        Returns:
            float32 (b, c, z', y', x') of every stage in use; the i-th of n locations along an axis
            lies over the i-th n-th of the patch.
        """
        values = self.intensities
        with torch.autocast(x.device.type, enabled=False):
            seen = values.scale * x.float() + values.offset
            seen = self.layout.to_network(seen.clamp(values.low, values.high))
            shape = seen.shape[2:]
            seen = fit(seen, self.zoom, list(self.strides.values())[-1])
        maps = self.network(seen)
        found = []
        for stage, stride in self.strides.items():
            feature_map = maps[stage].float()
            if self.zoom == UNCHANGED:  # locations that lie in the padding alone are cut off
                d, h, w = (-(-size // step) for size, step in zip(shape, stride, strict=True))
                feature_map = feature_map[:, :, :d, :h, :w]
            found.append(self.layout.to_image(feature_map))
        return found


def intensity_map(
    expects: HuWindow | ZScore, target: Normalisation, fingerprint: Fingerprint | None, *, name: str
) -> IntensityMap:
    """The mapping to an encoder's input, by what it was trained on.

    Z-scores are made of the training set's fingerprint, and the target's range is that of its 0.5
    and 99.5 percentiles (else of the plan's clip).

    Raises:
        PlanError: an encoder of CT and a target without HU; a z-score without a fingerprint.
    """
    if isinstance(expects, ZScore):
        if fingerprint is None:
            raise PlanError(
                f"encoder {name}: needs the dataset's fingerprint.json for its z-score; run"
                " gdm_plan_and_preprocess"
            )
        mean, std = moments(fingerprint, target, whole=expects.whole)
        factor = expects.std / std
        return IntensityMap(factor, expects.mean - factor * mean)
    if target.scheme != "ct":
        raise PlanError(
            f"encoder {name}: was trained on CT in HU, and this target ({target.scheme}) has none;"
            " use self, random, or one that takes any modality (gdm_info --encoders)"
        )
    outside = _share_outside(expects, target, fingerprint)
    if outside > MOST_OUTSIDE:
        _log.warning(
            "warning: encoder %s: %.0f %% of the target's range lie outside its window of %g to %g"
            " HU; there the drift has no gradient",
            *(name, 100 * outside, expects.low, expects.high),
        )
    low, high = expects.out_low, expects.out_high
    slope = (high - low) / (expects.high - expects.low)
    offset = (target.centre - expects.low) * slope + low
    return IntensityMap(target.scale * slope, offset, min(low, high), max(low, high), outside)


def moments(fingerprint: Fingerprint, target: Normalisation, *, whole: bool) -> tuple[float, float]:
    """Mean and deviation of the training targets in network units, every case with equal weight.

    Of the whole volume they are those of the body and, in the share that is not body, the value
    outside it: the background's own noise is neglected.
    """
    found = []
    for case in fingerprint.cases:
        centre, scale = _units(case.target, target)
        mean = (case.target.mean - centre) / scale
        square = (case.target.std / scale) ** 2 + mean**2
        if whole:
            air = max(case.target.outside, -inf if target.low is None else target.low)
            air = (min(air, inf if target.high is None else target.high) - centre) / scale
            share = case.body_fraction
            mean = share * mean + (1 - share) * air
            square = share * square + (1 - share) * air**2
        found.append((mean, square))
    mean, square = (sum(values) / len(values) for values in zip(*found, strict=True))
    variance = square - mean**2
    return mean, variance**0.5 if variance > 0 else 1.0


def _units(case: Intensity, target: Normalisation) -> tuple[float, float]:
    """Centre and scale of a case in file units, as `arrays.normalise` fits them."""
    if target.scheme == "percentiles":
        return case.p01, case.p99 - case.p01 or 1.0
    if target.scheme == "zscore":
        return case.mean, case.std or 1.0
    return target.centre, target.scale


def _share_outside(window: HuWindow, target: Normalisation, known: Fingerprint | None) -> float:
    low, high = target.low, target.high
    if known is not None:
        low, high = known.target.p00_5, known.target.p99_5
    if low is None or high is None or high <= low:
        return 0.0
    inside = max(0.0, min(high, window.high) - max(low, window.low))
    return 1 - inside / (high - low)


def zoom_to(spacing: Spacing, wanted: Spacing | None) -> Zoom:
    """Factors along the network's axes from a spacing to the wanted one, in mm; None is any.

    All are 1 where every axis is within 1.5 times of the wanted one.
    """
    d, h, w = (mine / theirs for mine, theirs in zip(spacing, wanted or spacing, strict=True))
    same = all(1 / SAME_WITHIN <= factor <= SAME_WITHIN for factor in (d, h, w))
    return UNCHANGED if same else (d, h, w)


def usable_stages(shape: Sequence[float], strides: Sequence[Shape]) -> int:
    """How many of the finest stages have maps large enough; at least one.

    A map needs four positions along every axis, or as many as the axis has voxels of the patch on
    the network's grid (`shape`).
    """
    sizes = [round(size) for size in shape]
    for n, stride in enumerate(strides):
        pairs = zip(sizes, stride, strict=True)
        if any(-(-size // step) < min(SMALLEST_MAP, size) for size, step in pairs):
            return max(1, n)
    return len(strides)


def fit(x: Tensor, zoom: Zoom, divisor: Shape) -> Tensor:
    """A patch (b, c, d, h, w) as the network takes it: the same region, sides that it can divide.

    Resampled by `zoom`, voxels of the network per voxel of the patch; where all are 1, padded at
    the ends with its own border values.
    """
    shape = tuple(x.shape[2:])
    if zoom != UNCHANGED:
        sides = zip(shape, zoom, divisor, strict=True)
        return resample(x, [max(step, step * round(n * by / step)) for n, by, step in sides])
    d, h, w = (-size % step for size, step in zip(shape, divisor, strict=True))
    return functional.pad(x, (0, w, 0, h, 0, d), mode="replicate") if d or h or w else x


def resample(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """An image (b, c, d, h, w) at other sizes over the same region.

    An axis that grows is interpolated linearly between voxel centres; one that shrinks is averaged
    over each new voxel's extent, so that every old voxel counts and gets a gradient.
    """
    for axis, size in enumerate(sizes, start=2):
        if size != x.shape[axis]:
            weights = _weights(x.shape[axis], size).to(x)
            x = torch.tensordot(x, weights, dims=([axis], [1])).movedim(-1, axis)
    return x


def _weights(old: int, new: int) -> Tensor:
    """(new, old), rows that add up to 1."""
    factor, voxel = old / new, torch.arange(old, dtype=torch.float64)
    if new < old:
        edges = torch.arange(new + 1, dtype=torch.float64)[:, None] * factor
        overlap = torch.minimum(edges[1:], voxel + 1) - torch.maximum(edges[:-1], voxel)
        return overlap.clamp(min=0) / factor
    centres = ((torch.arange(new, dtype=torch.float64) + 0.5) * factor - 0.5).clamp(0, old - 1)
    return (1 - (centres[:, None] - voxel).abs()).clamp(min=0)
