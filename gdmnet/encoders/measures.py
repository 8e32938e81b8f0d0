"""What an encoder's features say about an image: the measures behind the usefulness gate.

Images are float32 (n, 1, z, y, x) in network units, bodies bool of the same shape, feature maps
(n, c, z, y, x), tokens (n z y x, c): one feature vector a position.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

NOISE = 0.05  # of the in-body standard deviation; CT: about 20 HU
DEAD = 1e-4  # standard deviation of a channel that says nothing
RIDGE = 1e-3  # of a feature's variance


def degradations(images: Tensor, bodies: Tensor) -> dict[str, Tensor]:
    """Copies that are blurred (1 voxel), noisy (5 % of the in-body spread), shifted (1 voxel in x).

    Blur is what the drift must see; noise and a small misregistration must not drown it.
    """
    blurred = gaussian_filter(images.numpy(), (0, 0, 1, 1, 1), mode="nearest")
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return {
        "blur": torch.from_numpy(blurred),
        "noise": images + NOISE * images[bodies].std(correction=0) * noise,
        "shift": torch.cat([images[..., :1], images[..., :-1]], dim=-1),
    }


def inpainted(images: Tensor, hidden: Tensor, sigma: Sequence[float]) -> Tensor:
    """Normalised Gaussian convolution (Knutsson & Westin 1993): G*(visible x) / G*(visible).

    What lies under `hidden` (bool) is not looked at; `sigma` is in voxels along z, y, x. Where no
    visible voxel is near, the patch's visible mean stands.
    """
    widths = (0.0, 0.0, *sigma)
    visible = (~hidden).numpy().astype(np.float32)
    weight = gaussian_filter(visible, widths, mode="nearest")
    value = gaussian_filter(visible * images.numpy(), widths, mode="nearest")
    near = weight > 1e-4
    filled = np.where(near, value / np.where(near, weight, 1), visible_means(images, hidden))
    return torch.from_numpy(filled.astype(np.float32))


def visible_means(images: Tensor, hidden: Tensor) -> Tensor:
    """Mean of each patch's visible voxels, (n, 1, 1, 1, 1)."""
    axes = (1, 2, 3, 4)
    total = (images * ~hidden).sum(axes, keepdim=True)
    return total / (~hidden).sum(axes, keepdim=True).clamp(min=1)


@torch.no_grad()
def feature_maps(encoder: nn.Module, images: Tensor) -> list[Tensor]:
    """The encoder's maps of all images, one image at a time to spare memory."""
    rows = [encoder(image[None]) for image in images]
    return [torch.cat(stage).float() for stage in zip(*rows, strict=True)]


def tokens(feature_map: Tensor) -> Tensor:
    """(n, c, z, y, x) as (n z y x, c)."""
    return feature_map.movedim(1, -1).flatten(0, -2)


def inside(bodies: Tensor, feature_map: Tensor) -> Tensor:
    """Bool, one a token: those that lie in the body for the most part; all where there are none."""
    found = _pooled(bodies, feature_map).flatten() > 0.5
    return found | ~found.any()


def distance(first: Tensor, second: Tensor, chosen: Tensor) -> float:
    """Root mean square difference of two maps over the chosen tokens, in the first one's spread."""
    real = tokens(first)
    difference = (real - tokens(second))[chosen] / _spread(real)
    return float(difference.square().mean().sqrt())


def n_dead(feature_map: Tensor) -> int:
    """Channels that hardly differ from one position to another."""
    return int((tokens(feature_map).std(0, correction=0) < DEAD).sum())


def effective_rank(vectors: Tensor) -> float:
    """exp(entropy of the singular values' shares) of standardised tokens (n, c), from 1 to c.

    Roy & Vetterli, EUSIPCO 2007.
    """
    standard = (vectors - vectors.mean(0)) / _spread(vectors)
    eigenvalues = torch.linalg.eigvalsh(standard.T @ standard / len(standard))
    values = eigenvalues.clamp(min=0).sqrt()
    share = (values / values.sum().clamp(min=1e-12)).clamp(min=1e-12)
    return float(torch.exp(-(share * share.log()).sum()))


def tissue_read_out(
    feature_map: Tensor, images: Tensor, bodies: Tensor, edges: Sequence[float]
) -> float:
    """R2 of a ridge regression from a token to the shares of tissues among its own voxels.

    Fitted on the even patches, judged on the odd ones, inside the bodies; 0 where either has none.
    `edges` are the inner borders of the tissues' intensity bins in network units.
    """
    bins = torch.bucketize(images[:, 0], torch.tensor(edges))
    shares = functional.one_hot(bins, len(edges) + 1).movedim(-1, 1)
    x, y = tokens(feature_map), tokens(_pooled(shares, feature_map))
    n_a_patch = len(x) // len(feature_map)
    odd = torch.arange(len(feature_map)).repeat_interleave(n_a_patch) % 2 == 1
    chosen = inside(bodies, feature_map)
    fit, test = chosen & ~odd, chosen & odd
    if not (fit.any() and test.any()):
        return 0.0
    residual = (_ridge(x[fit], y[fit], x[test]) - y[test]).square().sum()
    total = (y[test] - y[test].mean(0)).square().sum()
    return float(1 - residual / total.clamp(min=1e-12))


def gradient_coverage(encoder: nn.Module, image: Tensor) -> float:
    """Share of voxels of (1, 1, z, y, x) with a finite, non-zero gradient of a random read-out."""
    x = image.detach().clone().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    read_outs = [(m.float() * torch.randn(m.shape, generator=generator)).sum() for m in encoder(x)]
    (gradient,) = torch.autograd.grad(torch.stack(read_outs).sum(), x)
    return float((gradient.isfinite() & (gradient != 0)).float().mean())


def _pooled(volume: Tensor, feature_map: Tensor) -> Tensor:
    z, y, x = feature_map.shape[2:]
    return functional.adaptive_avg_pool3d(volume.float(), (z, y, x))


def _spread(vectors: Tensor) -> Tensor:
    return vectors.std(0, correction=0).clamp(min=DEAD)


def _ridge(x: Tensor, y: Tensor, x_new: Tensor) -> Tensor:
    centre, spread = x.mean(0), _spread(x)
    x, x_new = (x - centre) / spread, (x_new - centre) / spread
    gram = x.T @ x / len(x) + RIDGE * torch.eye(x.shape[1])
    weights = torch.linalg.solve(gram, x.T @ (y - y.mean(0)) / len(x))
    return x_new @ weights + y.mean(0)
