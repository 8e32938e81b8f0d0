"""From a frozen encoder's maps to point sets: what is compared with what, on which scale.

A level turns the maps of a generated and of a target batch into pairs of rows at the SAME places:
global (mean and standard deviation of the patch), local (of small blocks), spatial (the feature
vector of one location), raw (a small patch of intensities). Windows are per axis, so that thin and
anisotropic volumes keep every level that their length allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx

Size = tuple[int, int, int]

BLOCK = 4  # locations along an axis of a local block
RAW_VOXELS = 64
VARIANCE_FLOOR = 1e-6  # inside the square root: its slope at 0 is infinite
BACKGROUND_SHARE = 0.05  # of the patch's intensity range above its minimum


@dataclass(frozen=True)
class Views:
    """A batch as the frozen encoder sees it.

    Attributes:
        generated: maps (b, c, z, y, x) of the generated volumes, finest first, with their graph.
        target: maps of the targets, likewise.
        volumes: generated and target volumes (b, 1, z, y, x).
        mask: (b, 1, z, y, x), 1 where rows may lie.
    """

    generated: Sequence[Tensor]
    target: Sequence[Tensor]
    volumes: tuple[Tensor, Tensor]
    mask: Tensor


@dataclass(frozen=True)
class Draw:
    """How locations are drawn.

    Attributes:
        locations: rows a map, over the whole batch.
        generator: on the CPU, so that every device draws the same places.
        raw_size: voxels (z, y, x) of an intensity patch.
        foreground: share of the locations that must lie on foreground; 0 for no such rule.
        same_places: every sample gives the same places, those that all their masks allow.
        minimum: a map with fewer locations inside the mask is left out.
    """

    locations: int
    generator: torch.Generator
    raw_size: Size
    foreground: float = 0.0
    same_places: bool = False
    minimum: int = 32


@dataclass(frozen=True)
class Rows:
    """Paired rows [n, S], float32: the i-th generated and the i-th target lie at one place.

    `samples` is the number of samples they come from, one after the other.
    """

    name: str
    generated: Tensor
    target: Tensor
    samples: int = 1

    def by_place(self, rows: Tensor) -> Tensor:
        """[n, S] as [places, samples, S], where all samples gave the same places."""
        return rows.unflatten(0, (self.samples, -1)).transpose(0, 1)


def global_rows(views: Views, draw: Draw) -> list[Rows]:
    """Mean and standard deviation over the mask, one row a sample."""
    rows = []
    for stage, (generated, target) in enumerate(zip(views.generated, views.target, strict=True)):
        valid = coverage(views.mask, generated.shape[2:]) > 0.5
        inside = valid.flatten(1).any(dim=1)
        if not bool(inside.any()):
            continue
        pairs = zip(masked_moments(generated, valid), masked_moments(target, valid), strict=True)
        for name, (mine, real) in zip(("mean", "std"), pairs, strict=True):
            rows.append(Rows(f"global_{name}_{stage}", mine[inside], real[inside]))
    return rows


def local_rows(views: Views, draw: Draw) -> list[Rows]:
    """Mean and standard deviation over non-overlapping blocks, at drawn places."""
    rows = []
    for stage, (generated, target) in enumerate(zip(views.generated, views.target, strict=True)):
        window = block_window(generated.shape[2:])
        places = _draw_blocks(views, generated.shape[2:], window, draw)
        if places is None:
            continue
        blocks = [gather_blocks(maps, window, places) for maps in (generated, target)]
        mean, real_mean = (block.mean(dim=1) for block in blocks)
        rows.append(Rows(f"local_mean_{stage}", mean, real_mean, len(target)))
        if math.prod(window) > 1:
            std, real_std = (_deviation(block) for block in blocks)
            rows.append(Rows(f"local_std_{stage}", std, real_std, len(target)))
    return rows


def spatial_rows(views: Views, draw: Draw) -> list[Rows]:
    """The feature vectors at drawn locations."""
    rows = []
    for stage, (generated, target) in enumerate(zip(views.generated, views.target, strict=True)):
        places = _draw_blocks(views, generated.shape[2:], (1, 1, 1), draw)
        if places is not None:
            mine, real = (gather_blocks(m, (1, 1, 1), places)[:, 0] for m in (generated, target))
            rows.append(Rows(f"spatial_{stage}", mine, real, len(target)))
    return rows


def raw_rows(views: Views, draw: Draw) -> list[Rows]:
    """Intensity patches on a grid with a random offset, the same for both volumes."""
    shape = views.mask.shape[2:]
    offset = [
        int(torch.randint(min(size, side - size + 1), (), generator=draw.generator))
        for size, side in zip(draw.raw_size, shape, strict=True)
    ]
    z, y, x = (slice(start, None) for start in offset)
    volumes = (views.volumes[0][:, :, z, y, x], views.volumes[1][:, :, z, y, x])
    shifted = Views((), (), volumes, views.mask[:, :, z, y, x])
    places = _draw_blocks(shifted, shifted.mask.shape[2:], draw.raw_size, draw)
    if places is None:
        return []
    mine, real = (gather_blocks(volume, draw.raw_size, places)[:, :, 0] for volume in volumes)
    return [Rows("raw", mine, real, len(volumes[1]))]


LEVELS: dict[str, Callable[[Views, Draw], list[Rows]]] = {
    "global": global_rows,
    "local": local_rows,
    "spatial": spatial_rows,
    "raw": raw_rows,
}


def block_window(shape: Sequence[int]) -> Size:
    """Voxels (z, y, x) of a local block: min(4, max(1, side // 2)) along each axis."""
    z, y, x = (min(BLOCK, max(1, side // 2)) for side in shape)
    return z, y, x


def raw_size(shape: Sequence[int], spacing: Sequence[float]) -> Size:
    """The intensity patch (z, y, x) of about 64 voxels that is nearest to a cube in mm.

    Args:
        shape: voxels (z, y, x) of the volume; no side of the patch is longer.
        spacing: mm (z, y, x).
    """

    def unlike_a_cube(size: Size) -> float:
        logs = [
            math.log(length * step)
            for length, step, side in zip(size, spacing, shape, strict=True)
            if side > 1
        ]
        centre = sum(logs) / max(1, len(logs))
        off_volume = math.log(math.prod(size) / RAW_VOXELS)
        return sum((log - centre) ** 2 for log in logs) + off_volume**2

    # Longer than 16 would be a rod of 64 voxels, not a patch.
    z, y, x = (range(1, min(side, 16) + 1) for side in shape)
    return min(product(z, y, x), key=unlike_a_cube)


def random_crop(
    shape: Sequence[int], share: float, generator: torch.Generator
) -> tuple[slice, ...]:
    """A random box of (b, c, z, y, x), `share` of each spatial side; with 1 nothing is drawn."""
    box = [slice(None), slice(None)]
    for side in shape:
        size = max(1, round(share * side))
        spare = side - size
        start = int(torch.randint(spare + 1, (), generator=generator)) if spare else 0
        box.append(slice(start, start + size))
    return tuple(box)


def coverage(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask's share (b, 1, z, y, x) of each location of a map of this shape."""
    if tuple(mask.shape[2:]) == tuple(shape):
        return mask
    z, y, x = shape
    return nn.functional.adaptive_avg_pool3d(mask, (z, y, x))


def masked_moments(maps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(variance + 1e-6) [b, c], float32, over the valid locations of each sample.

    Args:
        maps: (b, c, z, y, x).
        valid: (b, 1, z, y, x), true where counted; a sample without any has mean 0.
    """
    with torch.autocast(maps.device.type, enabled=False):
        features = maps.float().flatten(2)  # [b, c, L]
        weights = valid.float().flatten(2)
        weights = (weights / weights.sum(dim=2, keepdim=True).clamp(min=1.0)).mT  # [b, L, 1]
        mean, variance = _Moments.apply(features, weights)
        return mean[:, :, 0], (variance[:, :, 0] + VARIANCE_FLOOR).sqrt()


class _Moments(torch.autograd.Function):
    """Weighted mean and biased variance [b, c, 1] of [b, c, L]; weights [b, L, 1] sum to 1 or 0.

    d mean / d f_l = w_l and d variance / d f_l = 2 w_l (f_l - mean), in one pass over the finest
    maps, the largest tensors of a step, where autograd makes five.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        mean = features @ weights
        variance = (features - mean).square_() @ weights
        ctx.save_for_backward(features, weights, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: BackwardCFunction, *slopes: Tensor) -> tuple[Tensor, None]:
        saved: Sequence[Tensor] = ctx.saved_tensors
        features, weights, mean = saved
        of_mean, of_variance = slopes
        slope = (features - mean).mul_(2 * of_variance).add_(of_mean).mul_(weights.mT)
        return slope, None


def gather_blocks(maps: Tensor, window: Size, places: Tensor) -> Tensor:
    """The locations of chosen blocks of a map, float32 [n, locations of a block, c].

    Args:
        maps: (b, c, z, y, x); blocks lie side by side from its first corner, the rest is cropped.
        window: locations (z, y, x) of a block.
        places: [n, 2] sample and index (row-major) of the block.
    """
    shape = maps.shape[2:]
    n_y, n_x = shape[1] // window[1], shape[2] // window[2]
    block = places[:, 1]
    corner = torch.stack([block // (n_y * n_x), block // n_x % n_y, block % n_x], dim=1)
    within = torch.cartesian_prod(*(torch.arange(w, device=places.device) for w in window))
    z, y, x = (
        corner[:, axis, None] * window[axis] + within[None, :, axis] for axis in range(3)
    )  # each [n, locations of a block]
    index = (z * shape[1] + y) * shape[2] + x
    return maps.flatten(2)[places[:, :1], :, index].float()


def draw_places(valid: Tensor, draw: Draw, *, foreground: Tensor | None = None) -> Tensor | None:
    """Distinct places, an equal number a sample as far as its mask allows.

    Args:
        valid: [b, L] true where a row may lie.
        draw: how many, and with which generator.
        foreground: [b, L] true on foreground, for the rule of `draw.foreground`.

    Returns:
        [n, 2] sample and index, or None with fewer than `draw.minimum` places.
    """
    n_each = max(1, draw.locations // valid.shape[0])
    if draw.same_places:
        order = _permuted(valid.all(dim=0).nonzero()[:, 0], n_each, draw.generator)
        samples = torch.arange(valid.shape[0], device=order.device).repeat_interleave(len(order))
        places = torch.stack([samples, order.repeat(valid.shape[0])], dim=1)
        return places if places.shape[0] >= max(1, draw.minimum) else None
    chosen = []
    for sample in range(valid.shape[0]):
        candidates = valid[sample].nonzero()[:, 0]
        if foreground is not None:
            order = _permuted(candidates, candidates.numel(), draw.generator)
            bright = foreground[sample][order]
            n_bright = min(round(draw.foreground * n_each), int(bright.sum()))
            front = order[bright]
            order = torch.cat([front[:n_bright], order[~bright], front[n_bright:]])[:n_each]
        else:
            order = _permuted(candidates, n_each, draw.generator)
        chosen.append(torch.stack([torch.full_like(order, sample), order], dim=1))
    places = torch.cat(chosen)
    return places if places.shape[0] >= max(1, draw.minimum) else None


def _permuted(candidates: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """At most n distinct candidates in random order."""
    count = candidates.numel()
    if count > 64 * n:  # a permutation of a whole fine map costs more than the field itself
        picks = torch.unique(torch.randint(count, (2 * n,), generator=generator))
        picks = picks[torch.randperm(picks.numel(), generator=generator)[:n]]
    else:
        picks = torch.randperm(count, generator=generator)[:n]
    return candidates[picks.to(candidates.device)]


def _draw_blocks(views: Views, shape: Sequence[int], window: Size, draw: Draw) -> Tensor | None:
    if any(side < size for side, size in zip(shape, window, strict=True)):
        return None
    pool = nn.functional.avg_pool3d
    valid = pool(coverage(views.mask, shape), window, window).flatten(1) > 0.5
    if draw.foreground <= 0:
        return draw_places(valid, draw)
    target = pool(coverage(views.volumes[1], shape), window, window).flatten(1)
    low, high = target.amin(dim=1, keepdim=True), target.amax(dim=1, keepdim=True)
    foreground = target > low + BACKGROUND_SHARE * (high - low)
    return draw_places(valid, draw, foreground=foreground)


def _deviation(block: Tensor) -> Tensor:
    """sqrt(biased variance + 1e-6) over the locations of each block: [n, l, c] -> [n, c]."""
    return (block.var(dim=1, correction=0) + VARIANCE_FLOOR).sqrt()
