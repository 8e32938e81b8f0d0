"""Is a freshly trained encoder worth using? Measured on held-out patches against a random twin.

Only weights that are not finite, dead channels or a lost gradient stop a training; every other
failed figure is one warning line, and all stand in report.json.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from gdmnet.encoders.self_supervised import MASK_RATIO, masked_error, random_mask
from gdmnet.errors import TrainingError
from gdmnet.geometry import Shape
from gdmnet.plan import Normalisation

HU_EDGES = (-300.0, -20.0, 150.0)  # air and lung | fat | soft tissue | bone
QUANTILES = (0.25, 0.5, 0.75)  # for targets without a physical unit
NOISE = 0.05  # of the in-body standard deviation; CT: about 20 HU
DEAD = 1e-4  # standard deviation of a channel that says nothing
RIDGE = 1e-3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Figure:
    """One measured figure; it passes when `value` is at least (or at most) `limit`."""

    name: str
    value: float
    rule: str
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the figure keeps its limit."""
        if self.rule == "at least":
            return self.value >= self.limit
        return self.value <= self.limit


@dataclass(frozen=True)
class Report:
    """What was measured: the figures with limits, and the raw numbers behind them."""

    n_patches: int
    masked_mse: dict[str, float]
    encoder: dict[str, list[float]]
    twin: dict[str, list[float]]
    figures: tuple[Figure, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True)
class HeldOut:
    """Patches that the training did not see.

    Attributes:
        images: float32 (n, 1, z, y, x) in network units.
        bodies: bool (n, 1, z, y, x).
        cell: voxels (z, y, x) of a masked cell.
        edges: the three inner borders of the four tissue bins, network units.
    """

    images: Tensor
    bodies: Tensor
    cell: Shape
    edges: tuple[float, ...]


def tissue_edges(target: Normalisation, images: Tensor, bodies: Tensor) -> tuple[float, ...]:
    """Borders of four tissue bins in network units: in HU for CT, else in-body quartiles."""
    if target.scheme == "ct":
        return tuple((hu - target.centre) / target.scale for hu in HU_EDGES)
    quartiles = np.quantile(images[bodies].numpy(), QUANTILES)
    return tuple(float(edge) for edge in quartiles)


def judge(encoder: nn.Module, decoder: nn.Module, twin: nn.Module, held_out: HeldOut) -> Report:
    """Measure the encoder, warn of each failed figure, refuse a useless one.

    Args:
        encoder: image (b, 1, z, y, x) to a list of maps, finest first; on the CPU.
        decoder: maps to image.
        twin: the encoder's architecture with random weights.
        held_out: patches that the training did not see.

    Raises:
        TrainingError: weights are not finite, a channel is dead, or no gradient reaches the image.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in encoder.state_dict().values()):
        raise TrainingError(_useless("its weights are not finite"))
    errors = masked_mse(encoder, decoder, held_out)
    ours, theirs = _describe(encoder, held_out), _describe(twin, held_out)
    for stage, n_dead in enumerate(ours["dead channels"]):
        if n_dead:
            raise TrainingError(_useless(f"{n_dead:.0f} channels of stage {stage} are dead"))
    if ours["gradient coverage"][0] == 0:
        raise TrainingError(_useless("no gradient reaches the image"))
    figures = _figures(errors, ours, theirs)
    failed = tuple(figure.name for figure in figures if not figure.passed)
    for figure in figures:
        if not figure.passed:
            _log.warning(
                "feature encoder: %s is %.3g, wanted %s %.3g",
                figure.name,
                figure.value,
                figure.rule,
                figure.limit,
            )
    return Report(len(held_out.images), errors, ours, theirs, figures, failed)


def _useless(reason: str) -> str:
    return (
        f"the feature encoder is useless: {reason}; look at the training targets, or train it"
        " longer, with another seed, or use the random one"
    )


def _figures(
    errors: dict[str, float], ours: dict[str, list[float]], theirs: dict[str, list[float]]
) -> tuple[Figure, ...]:
    """The limits of design section encoders 3."""
    figures = [
        Figure(
            "masked error against Gaussian in-painting",
            errors["encoder"] / max(errors["in-painting"], 1e-12),
            "at most",
            0.8,
        ),
        Figure("gradient coverage", ours["gradient coverage"][0], "at least", 0.99),
    ]
    figures += [
        Figure(f"effective rank of stage {stage}", rank, "at least", 4.0)
        for stage, rank in enumerate(ours["effective rank"])
    ]
    for name, factor in (("blur against noise", 1.5), ("blur against shift", 1.2)):
        value, limit = ours[name][-1], factor * theirs[name][-1]
        figures.append(Figure(f"{name} at the last stage", value, "at least", limit))
    for stage in (-2, -1):
        value, limit = ours["tissue read-out R2"][stage], theirs["tissue read-out R2"][stage]
        name = f"tissue read-out R2 of stage {len(ours['tissue read-out R2']) + stage}"
        figures.append(Figure(name, value, "at least", limit))
    return tuple(figures)


@torch.no_grad()
def masked_mse(encoder: nn.Module, decoder: nn.Module, held_out: HeldOut) -> dict[str, float]:
    """Mean squared error of the hidden voxels inside the body, beside three baselines."""
    images, generator = held_out.images, torch.Generator().manual_seed(0)
    shape: Shape = (images.shape[2], images.shape[3], images.shape[4])
    mask = random_mask(len(images), shape, held_out.cell, ratio=MASK_RATIO, generator=generator)
    visible = (images * ~mask).sum((1, 2, 3, 4)) / (~mask).sum((1, 2, 3, 4)).clamp(min=1)
    means = visible.reshape(-1, 1, 1, 1, 1).expand_as(images)
    filled = [
        inpainted(images, mask, means, [share * side for side in held_out.cell])
        for share in (0.25, 0.5, 1.0)
    ]
    judged = mask & held_out.bodies
    predictions = _by_patch(lambda x: decoder(encoder(x)), images * ~mask)
    return {
        "encoder": float(masked_error(predictions, images, judged)),
        "zero": float(masked_error(torch.zeros_like(images), images, judged)),
        "visible mean": float(masked_error(means, images, judged)),
        "in-painting": min(float(masked_error(image, images, judged)) for image in filled),
    }


def inpainted(images: Tensor, mask: Tensor, means: Tensor, sigma: Sequence[float]) -> Tensor:
    """Normalised Gaussian convolution (Knutsson & Westin 1993): G*(visible x) / G*(visible).

    Args:
        images: (n, 1, z, y, x).
        mask: True where hidden.
        means: what stands where no visible voxel is near.
        sigma: voxels along z, y, x.
    """
    widths = (0.0, 0.0, *sigma)
    visible = (~mask).numpy().astype(np.float32)
    weight = gaussian_filter(visible, widths, mode="nearest")
    value = gaussian_filter(visible * images.numpy(), widths, mode="nearest")
    near = weight > 1e-4
    filled = np.where(near, value / np.where(near, weight, 1), means.numpy())
    return torch.from_numpy(filled.astype(np.float32))


def _describe(encoder: nn.Module, held_out: HeldOut) -> dict[str, list[float]]:
    """Every figure of one encoder, a number a stage (the gradient: one number)."""
    images, bodies = held_out.images, held_out.bodies
    maps = _maps(encoder, images)
    inside = [_inside(bodies, m) for m in maps]
    spread = [_tokens(m).std(0) for m in maps]
    degraded = {name: _maps(encoder, x) for name, x in degradations(images, bodies).items()}
    distance = {
        name: [
            _distance(a, b, s, i) for a, b, s, i in zip(maps, others, spread, inside, strict=True)
        ]
        for name, others in degraded.items()
    }
    return {
        "dead channels": [float((s < DEAD).sum()) for s in spread],
        "effective rank": [
            effective_rank(_tokens(m)[i]) for m, i in zip(maps, inside, strict=True)
        ],
        "blur against noise": _ratio(distance["blur"], distance["noise"]),
        "blur against shift": _ratio(distance["blur"], distance["shift"]),
        "tissue read-out R2": [tissue_read_out(m, held_out) for m in maps],
        "gradient coverage": [gradient_coverage(encoder, images)],
    }


def _by_patch(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([function(image[None]) for image in images])


@torch.no_grad()
def _maps(encoder: nn.Module, images: Tensor) -> list[Tensor]:
    rows = [encoder(image[None]) for image in images]
    return [torch.cat(stage).float() for stage in zip(*rows, strict=True)]


def _tokens(feature_map: Tensor) -> Tensor:
    """(n, c, z, y, x) as (n z y x, c)."""
    return feature_map.movedim(1, -1).flatten(0, -2)


def _pooled(volume: Tensor, feature_map: Tensor) -> Tensor:
    z, y, x = feature_map.shape[2:]
    return functional.adaptive_avg_pool3d(volume.float(), (z, y, x))


def _inside(bodies: Tensor, feature_map: Tensor) -> Tensor:
    """Bool (n z y x): tokens that lie in the body for the most part; all where there are few."""
    inside = _pooled(bodies, feature_map).flatten() > 0.5
    return inside if int(inside.sum()) > 1 else torch.ones_like(inside)


def _distance(first: Tensor, second: Tensor, spread: Tensor, inside: Tensor) -> float:
    """Root mean square difference over in-body tokens, channels standardised on real images."""
    difference = (_tokens(first) - _tokens(second))[inside] / spread.clamp(min=DEAD)
    return float(difference.square().mean().sqrt())


def _ratio(first: list[float], second: list[float]) -> list[float]:
    return [a / max(b, 1e-12) for a, b in zip(first, second, strict=True)]


def degradations(images: Tensor, bodies: Tensor) -> dict[str, Tensor]:
    """Blurred (1 voxel), noisy (5 % of the in-body spread) and shifted (1 voxel in x) copies."""
    blurred = gaussian_filter(images.numpy(), (0, 0, 1, 1, 1), mode="nearest")
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    shifted = torch.cat([images[..., :1], images[..., :-1]], dim=-1)
    return {
        "blur": torch.from_numpy(blurred),
        "noise": images + NOISE * images[bodies].std() * noise,
        "shift": shifted,
    }


def effective_rank(tokens: Tensor) -> float:
    """exp(entropy of the normalised singular values) of standardised tokens (Roy & Vetterli 2007).

    Args:
        tokens: (n, c).
    """
    standard = (tokens - tokens.mean(0)) / tokens.std(0).clamp(min=DEAD)
    values = torch.linalg.eigvalsh(standard.T @ standard / len(standard)).clamp(min=0).sqrt()
    share = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum()))


def tissue_read_out(feature_map: Tensor, held_out: HeldOut) -> float:
    """R2 of a ridge regression from a token to the shares of four tissues in its own voxels.

    Fitted on the even patches, judged on the odd ones.
    """
    borders = torch.tensor(held_out.edges)
    bins = torch.bucketize(held_out.images[:, 0], borders)
    shares = functional.one_hot(bins, len(held_out.edges) + 1).movedim(-1, 1)
    y = _tokens(_pooled(shares, feature_map))
    x = _tokens(feature_map)
    inside = _inside(held_out.bodies, feature_map)
    patch = torch.arange(len(feature_map)).repeat_interleave(len(x) // len(feature_map))
    fit, test = inside & (patch % 2 == 0), inside & (patch % 2 == 1)
    if not (fit.any() and test.any()):
        return 0.0
    prediction = _ridge(x[fit], y[fit], x[test])
    residual = (prediction - y[test]).square().sum()
    total = (y[test] - y[test].mean(0)).square().sum()
    return float(1 - residual / total.clamp(min=1e-12))


def _ridge(x: Tensor, y: Tensor, x_new: Tensor) -> Tensor:
    centre, spread = x.mean(0), x.std(0).clamp(min=DEAD)
    x, x_new = (x - centre) / spread, (x_new - centre) / spread
    gram = x.T @ x / len(x) + RIDGE * torch.eye(x.shape[1])
    weights = torch.linalg.solve(gram, x.T @ (y - y.mean(0)) / len(x))
    return x_new @ weights + y.mean(0)


def gradient_coverage(encoder: nn.Module, images: Tensor) -> float:
    """Share of voxels with a finite, non-zero gradient of a random read-out of all maps."""
    x = images[:1].clone().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    maps = encoder(x)
    total = sum((m.float() * torch.randn(m.shape, generator=generator)).sum() for m in maps)
    (gradient,) = torch.autograd.grad(total, x)
    return float((gradient.isfinite() & (gradient != 0)).float().mean())
