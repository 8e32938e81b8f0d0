"""From a frozen encoder's maps to point sets: what is compared with what, on which scale.

A level turns the maps of a generated and of a target batch into pairs of rows at the SAME places:
global (mean and standard deviation of the patch), local (of small blocks), spatial (the feature
vector of one location). Windows are per axis, so that thin and anisotropic volumes keep every level
that their length allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx

from gdmnet.drifting.numbers import on_device

Size = tuple[int, int, int]

POINT: Size = (1, 1, 1)
BLOCK = 4  # locations along an axis of a local block
VARIANCE_FLOOR = 1e-6  # inside the square root: its slope at 0 is infinite


@dataclass(frozen=True)
class Candidates:
    """Where the rows of one map may lie."""

    valid: Tensor  # [b, L] true where a block of locations lies in the mask, row-major
    counts: list[int]  # of these in each sample


@dataclass(frozen=True)
class Views:
    """A batch as the frozen encoder sees it: maps (b, c, z, y, x), finest first."""

    generated: Sequence[Tensor]  # with their graph
    target: Sequence[Tensor]  # without
    mask: Tensor  # (b, 1, z, y, x), 1 where rows may lie

    def stages(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Number, generated and target map of each stage."""
        for stage, pair in enumerate(zip(self.generated, self.target, strict=True)):
            yield stage, *pair

    @cached_property
    def candidates(self) -> dict[tuple[int, Size], Candidates]:
        """Of each stage its locations and blocks in the mask, by their window; counted at once."""
        valid = {}
        for stage, maps, _ in self.stages():
            shape = maps.shape[2:]
            covered = coverage(self.mask, shape)  # (b,1,z,y,x)
            for window in (POINT, block_window(shape)):
                blocks = nn.functional.avg_pool3d(covered, window, window)
                valid[stage, window] = blocks.flatten(1) > 0.5
        counts = torch.stack([places.sum(dim=1) for places in valid.values()]).tolist()
        pairs = zip(valid.items(), counts, strict=True)
        return {key: Candidates(places, count) for (key, places), count in pairs}


@dataclass(frozen=True)
class Draw:
    """How locations are drawn."""

    locations: int  # rows a map, over the whole batch
    generator: torch.Generator  # on the CPU, so that every device draws the same places
    minimum: int = 32  # a map with fewer locations inside the mask is left out


@dataclass(frozen=True)
class Rows:
    """Paired rows [n, S], float32: the i-th generated and the i-th target lie at one place.

    Rows of several maps of one size may be stacked, [..., n, S].
    """

    name: str
    generated: Tensor
    target: Tensor


def look(encoder: nn.Module, generated: Tensor, target: Tensor, mask: Tensor) -> Views:
    """Both volumes through the encoder, under the caller's autocast.

    Outside the mask the generator is free, so there the encoder is shown the target: the maps just
    inside must not suffer for what nobody judges; and so the gradient outside is 0.

    The volumes and the mask are (b, 1, z, y, x); the encoder is moved to their device.
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
        found = views.candidates[stage, POINT]
        inside = [sample for sample, count in enumerate(found.counts) if count > 0]
        if not inside:
            continue
        weights = sample_weights(found.valid)
        pairs = zip(*(masked_moments(maps, weights) for maps in (generated, target)), strict=True)
        for name, pair in zip(("mean", "std"), pairs, strict=True):  # each [b,c]
            mine, real = (p if len(inside) == p.shape[0] else p[inside] for p in pair)
            rows.append(Rows(f"global_{name}_{stage}", mine, real))
    return rows


def local_rows(views: Views, draw: Draw) -> list[Rows]:
    """Mean and standard deviation over non-overlapping blocks, at drawn places."""
    rows = []
    for stage, mine, real in _drawn_blocks(views, draw, block_window):  # each [n,l,c]
        spreads, means = zip(*(_moments(block) for block in (mine, real)), strict=True)
        rows.append(Rows(f"local_mean_{stage}", *means))
        if mine.shape[1] > 1:
            rows.append(Rows(f"local_std_{stage}", *spreads))
    return rows


def spatial_rows(views: Views, draw: Draw) -> list[Rows]:
    """The feature vectors at drawn locations."""
    return [
        Rows(f"spatial_{stage}", mine[:, 0], real[:, 0])
        for stage, mine, real in _drawn_blocks(views, draw, lambda shape: POINT)
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
        places = draw_places(views.candidates[stage, window], draw)  # [n,2]
        if places is not None:
            index = block_locations(shape, window, places[:, 1])  # [n,l]
            mine, real = (
                maps.flatten(2)[places[:, :1], :, index].float() for maps in (generated, target)
            )  # [n,l,c]
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


def sample_weights(valid: Tensor) -> Tensor:
    """Equal weights float32 [b, L] of each sample's valid locations: their sum is 1, 0 of none."""
    counted = valid.float()
    return counted / counted.sum(dim=1, keepdim=True).clamp(min=1.0)


def masked_moments(maps: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(variance + 1e-6) [b, c], float32, of maps (b, c, z, y, x).

    The weights [b, L], L = z y x, of each sample's locations have the sum 1, or 0: then the mean
    is 0.
    """
    with torch.autocast(maps.device.type, enabled=False):
        mean, variance = _Moments.apply(maps.flatten(2), weights[:, :, None])  # each [b,c,1]
        return mean[:, :, 0], (variance[:, :, 0] + VARIANCE_FLOOR).sqrt()


class _Moments(torch.autograd.Function):
    """Weighted mean and biased variance [b, c, 1] of [b, c, L]; weights [b, L, 1] sum to 1 or 0.

    d mean / d f_l = w_l and d variance / d f_l = 2 w_l (f_l - mean), in one pass over the finest
    maps, the largest tensors of a step, where autograd makes five. Computed in float32, sample by
    sample, so that maps in half precision are kept and raised one at a time.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        means, variances = [], []
        for sample, w in zip(features, weights, strict=True):
            f = sample.float()  # [c,L]
            means.append(f @ w)  # sum_l w_l f_l                                            [c,1]
            variances.append((f - means[-1]).square_() @ w)  # sum_l w_l (f_l - mean)^2     [c,1]
        mean = torch.stack(means)
        ctx.save_for_backward(features, weights, mean)
        return mean, torch.stack(variances)

    @staticmethod
    def backward(ctx: BackwardCFunction, *slopes: Tensor) -> tuple[Tensor, None]:
        saved: Sequence[Tensor] = ctx.saved_tensors
        slope = torch.empty_like(saved[0])  # [b,c,L]
        parts = (slope, *saved, *slopes)
        for out, f, w, mean, of_mean, of_variance in zip(*parts, strict=True):
            apart = f.float() - mean  # f_l - mean                                          [c,L]
            out.copy_(apart.mul_(2 * of_variance).add_(of_mean).mul_(w.mT))
        return slope, None


def block_locations(shape: Sequence[int], window: Size, blocks: Tensor) -> Tensor:
    """The locations of chosen blocks of a map, row-major indices [n, locations of a block].

    Blocks of the window (z, y, x) lie side by side from the map's first corner, and are chosen by
    their row-major indices [n].
    """
    if window == POINT:
        return blocks[:, None]
    n_y, n_x = shape[1] // window[1], shape[2] // window[2]  # blocks along y and x
    steps = (shape[1] * shape[2], shape[2], 1)  # from one location to the next along z, y, x
    corner = (blocks // (n_y * n_x)) * (window[0] * steps[0])  # [n]
    corner += (blocks // n_x % n_y) * (window[1] * steps[1]) + (blocks % n_x) * window[2]
    z, y, x = (torch.arange(n) * step for n, step in zip(window, steps, strict=True))
    within = (z[:, None, None] + y[:, None] + x).flatten()  # [l]
    return corner[:, None] + on_device(within, blocks.device)


def draw_places(candidates: Candidates, draw: Draw) -> Tensor | None:
    """Distinct places [n, 2], sample and index; None where fewer than `draw.minimum` are valid.

    Each sample has the same number as far as its mask allows.
    """
    valid, counts = candidates.valid, candidates.counts
    n_each = max(1, draw.locations // len(counts))
    picks = [_permuted(count, n_each, draw.generator) for count in counts]
    if sum(counts) < max(1, draw.minimum):
        return None
    before = accumulate(counts, initial=0)
    ranks = torch.cat([own + first for own, first in zip(picks, before, strict=False)])  # [n]
    # The r-th true place without a list of all: the host need not learn how many there are.
    order = valid.flatten().cumsum(dim=0)
    found = torch.searchsorted(order, on_device(ranks + 1, valid.device))  # [n]
    return torch.stack([found // valid.shape[1], found % valid.shape[1]], dim=1)


def _permuted(count: int, n: int, generator: torch.Generator) -> Tensor:
    """At most n distinct numbers below `count` in random order."""
    if count > 64 * n:  # a permutation of a whole fine map costs more than the field itself
        picks = torch.unique(torch.randint(count, (2 * n,), generator=generator))
        return picks[torch.randperm(picks.numel(), generator=generator)[:n]]
    return torch.randperm(count, generator=generator)[:n]


def _moments(block: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(biased variance + 1e-6) and mean over the locations of blocks: [n, l, c] -> [n, c]."""
    variance, mean = torch.var_mean(block, dim=1, correction=0)
    return (variance + VARIANCE_FLOOR).sqrt(), mean
