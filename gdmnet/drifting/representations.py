"""From a frozen encoder's maps to point sets: what is compared with what, on which scale.

A level turns the maps of a generated and of a target batch into pairs of rows at the SAME places:
global (mean and standard deviation of the patch), local (of small blocks), spatial (the feature
vector of one location). Windows are per axis, so that thin and anisotropic volumes keep every level
that their length allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx

Size = tuple[int, int, int]

BLOCK = 4  # locations along an axis of a local block
VARIANCE_FLOOR = 1e-6  # inside the square root: its slope at 0 is infinite


@dataclass(frozen=True)
class Views:
    """A batch as the frozen encoder sees it.

    Attributes:
        generated: maps (b, c, z, y, x) of the generated volumes, finest first, with their graph.
        target: maps (b, c, z, y, x) of the target volumes, finest first, without a graph.
        mask: (b, 1, z, y, x), 1 where rows may lie.
    """

    generated: Sequence[Tensor]
    target: Sequence[Tensor]
    mask: Tensor

    def stages(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Number, generated and target map of each stage."""
        for stage, pair in enumerate(zip(self.generated, self.target, strict=True)):
            yield stage, *pair


@dataclass(frozen=True)
class Draw:
    """How locations are drawn.

    Attributes:
        locations: rows a map, over the whole batch.
        generator: on the CPU, so that every device draws the same places.
        minimum: a map with fewer locations inside the mask is left out.
    """

    locations: int
    generator: torch.Generator
    minimum: int = 32


@dataclass(frozen=True)
class Rows:
    """Paired rows [n, S], float32: the i-th generated and the i-th target lie at one place."""

    name: str
    generated: Tensor
    target: Tensor


def look(encoder: nn.Module, generated: Tensor, target: Tensor, mask: Tensor) -> Views:
    """Both volumes through the encoder, under the caller's autocast.

    Outside the mask the generator is free, so there the encoder is shown the target: the maps just
    inside must not suffer for what nobody judges; and so the gradient outside is 0.

    Args:
        encoder: frozen, (b, 1, z, y, x) to maps, finest first; moved to the volumes' device.
        generated: (b, 1, z, y, x), with its graph.
        target: (b, 1, z, y, x).
        mask: (b, 1, z, y, x), 1 inside.
    """
    encoder.to(generated.device)
    seen = torch.where(mask > 0.5, generated, target)
    maps = encoder(seen)
    with torch.no_grad():
        return Views(maps, encoder(target), mask)


def global_rows(views: Views, draw: Draw) -> list[Rows]:
    """Mean and standard deviation over the mask, one row a sample."""
    rows = []
    for stage, generated, target in views.stages():
        valid = coverage(views.mask, generated.shape[2:]) > 0.5  # (b,1,z,y,x)
        inside = valid.flatten(1).any(dim=1)  # [b]
        if not bool(inside.any()):
            continue
        pairs = zip(masked_moments(generated, valid), masked_moments(target, valid), strict=True)
        for name, (mine, real) in zip(("mean", "std"), pairs, strict=True):  # each [b,c]
            rows.append(Rows(f"global_{name}_{stage}", mine[inside], real[inside]))
    return rows


def local_rows(views: Views, draw: Draw) -> list[Rows]:
    """Mean and standard deviation over non-overlapping blocks, at drawn places."""
    rows = []
    for stage, mine, real in _drawn_blocks(views, draw, block_window):  # each [n,l,c]
        rows.append(Rows(f"local_mean_{stage}", mine.mean(dim=1), real.mean(dim=1)))
        if mine.shape[1] > 1:
            rows.append(Rows(f"local_std_{stage}", _deviation(mine), _deviation(real)))
    return rows


def spatial_rows(views: Views, draw: Draw) -> list[Rows]:
    """The feature vectors at drawn locations."""
    return [
        Rows(f"spatial_{stage}", mine[:, 0], real[:, 0])
        for stage, mine, real in _drawn_blocks(views, draw, lambda shape: (1, 1, 1))
    ]


LEVELS: dict[str, Callable[[Views, Draw], list[Rows]]] = {
    "global": global_rows,
    "local": local_rows,
    "spatial": spatial_rows,
}


def _drawn_blocks(
    views: Views, draw: Draw, window_of: Callable[[Sequence[int]], Size]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of each map with enough places its stage and the same n blocks of both sides, [n, l, c]."""
    for stage, generated, target in views.stages():
        shape = generated.shape[2:]
        window = window_of(shape)
        covered = nn.functional.avg_pool3d(coverage(views.mask, shape), window, window)
        places = draw_places(covered.flatten(1) > 0.5, draw)  # [n,2]
        if places is not None:
            mine, real = (gather_blocks(maps, window, places) for maps in (generated, target))
            yield stage, mine, real


def block_window(shape: Sequence[int]) -> Size:
    """Locations (z, y, x) of a local block: min(4, max(1, side // 2)) along each axis."""
    z, y, x = (min(BLOCK, max(1, side // 2)) for side in shape)
    return z, y, x


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
        features = maps.float().flatten(2)  # f                                          [b,c,L]
        counted = valid.float().flatten(2)  # [b,1,L]
        weights = (counted / counted.sum(dim=2, keepdim=True).clamp(min=1.0)).mT  # w     [b,L,1]
        mean, variance = _Moments.apply(features, weights)  # each [b,c,1]
        return mean[:, :, 0], (variance[:, :, 0] + VARIANCE_FLOOR).sqrt()


class _Moments(torch.autograd.Function):
    """Weighted mean and biased variance [b, c, 1] of [b, c, L]; weights [b, L, 1] sum to 1 or 0.

    d mean / d f_l = w_l and d variance / d f_l = 2 w_l (f_l - mean), in one pass over the finest
    maps, the largest tensors of a step, where autograd makes five.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        mean = features @ weights  # sum_l w_l f_l                                        [b,c,1]
        variance = (features - mean).square_() @ weights  # sum_l w_l (f_l - mean)^2      [b,c,1]
        ctx.save_for_backward(features, weights, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: BackwardCFunction, *slopes: Tensor) -> tuple[Tensor, None]:
        saved: Sequence[Tensor] = ctx.saved_tensors
        features, weights, mean = saved
        of_mean, of_variance = slopes  # each [b,c,1]
        slope = (features - mean).mul_(2 * of_variance).add_(of_mean).mul_(weights.mT)  # [b,c,L]
        return slope, None


def gather_blocks(maps: Tensor, window: Size, places: Tensor) -> Tensor:
    """The locations of chosen blocks of a map, float32 [n, locations of a block, c].

    Args:
        maps: (b, c, z, y, x); blocks lie side by side from its first corner, the rest is cropped.
        window: locations (z, y, x) of a block.
        places: [n, 2] sample and index (row-major) of the block.
    """
    shape = maps.shape[2:]
    n_y, n_x = shape[1] // window[1], shape[2] // window[2]  # blocks along y and x
    block = places[:, 1]
    corner = torch.stack([block // (n_y * n_x), block // n_x % n_y, block % n_x], dim=1)  # [n,3]
    within = torch.cartesian_prod(*(torch.arange(w, device=places.device) for w in window))  # [l,3]
    z, y, x = (
        corner[:, axis, None] * window[axis] + within[None, :, axis] for axis in range(3)
    )  # each [n,l]
    index = (z * shape[1] + y) * shape[2] + x  # row-major in the map                      [n,l]
    return maps.flatten(2)[places[:, :1], :, index].float()  # [n,l,c]


def draw_places(valid: Tensor, draw: Draw) -> Tensor | None:
    """Distinct places, an equal number a sample as far as its mask allows.

    Args:
        valid: [b, L] true where a row may lie.
        draw: how many, and with which generator.

    Returns:
        [n, 2] sample and index, or None with fewer than `draw.minimum` places.
    """
    n_each = max(1, draw.locations // valid.shape[0])
    chosen = []
    for sample, of_sample in enumerate(valid):
        order = _permuted(of_sample.nonzero()[:, 0], n_each, draw.generator)
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


def _deviation(block: Tensor) -> Tensor:
    """sqrt(biased variance + 1e-6) over the locations of each block: [n, l, c] -> [n, c]."""
    return (block.var(dim=1, correction=0) + VARIANCE_FLOOR).sqrt()
