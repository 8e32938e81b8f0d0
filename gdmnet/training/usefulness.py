"""Is a freshly trained encoder worth using? Measured on held-out patches against a random twin.

Only weights that are not finite, dead channels or a lost gradient stop a training; every other
failed figure is one warning line, and all of them stand in report.json.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gdmnet.encoders import measures
from gdmnet.encoders.self_supervised import MASK_RATIO, masked_error, random_mask
from gdmnet.errors import TrainingError
from gdmnet.geometry import Shape
from gdmnet.plan import Normalisation
from gdmnet.table import text_table

HU_EDGES = (-300.0, -20.0, 150.0)  # air and lung | fat | soft tissue | bone
QUANTILES = (0.25, 0.5, 0.75)  # for targets without a physical unit
WIDTHS = (0.25, 0.5, 1.0)  # of the in-painting Gaussian, in cells; the best one is the baseline

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """Patches that the training did not see, and the cases that they come from."""

    cases: tuple[str, ...]
    images: Tensor  # float32 (n, 1, z, y, x), network units
    bodies: Tensor  # bool of that shape
    cell: Shape  # voxels (z, y, x) of a masked cell
    edges: tuple[float, ...]  # three inner borders of the four tissue bins, network units


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
        if self.rule == "at most":
            return self.value <= self.limit
        return self.value >= self.limit


@dataclass(frozen=True)
class EncoderReport:
    """What report.json says of an encoder, beside a twin with random weights."""

    cases: tuple[str, ...]
    n_patches: int
    masked_mse: dict[str, float]  # mean squared error of hidden voxels, by who fills them in
    encoder: dict[str, tuple[float, ...]]  # of each measure a number a map, finest first
    twin: dict[str, tuple[float, ...]]
    figures: tuple[Figure, ...]
    failed: tuple[str, ...]  # names of figures beyond their limit

    def __str__(self) -> str:
        lines = [f"judged on {self.n_patches} patches of {', '.join(self.cases)}", ""]
        lines += measures_table({"encoder": self.encoder, "random twin": self.twin})
        errors = ", ".join(f"{name} {value:.3g}" for name, value in self.masked_mse.items())
        lines += ["", f"masked error: {errors}", ""]
        for figure in self.figures:
            kept, wanted = "good" if figure.passed else "poor", f"{figure.rule} {figure.limit:.3g}"
            lines.append(f"{kept}  {figure.name}: {figure.value:.3g} (wanted {wanted})")
        return "\n".join(lines)


def measures_table(encoders: Mapping[str, Mapping[str, tuple[float, ...]]]) -> list[str]:
    """Measures side by side: one row a measure and encoder, one column a map, finest first."""
    rows = [
        (f"{measure}, {name}", *(f"{value:.3g}" for value in values[measure]))
        for measure in next(iter(encoders.values()))
        for name, values in encoders.items()
    ]
    n_maps = max(map(len, rows)) - 1
    titles = ("", *(f"map {number}" for number in range(n_maps)))
    return text_table([titles, *(row + ("",) * (n_maps + 1 - len(row)) for row in rows)])


def tissue_edges(target: Normalisation, images: Tensor, bodies: Tensor) -> tuple[float, ...]:
    """Borders of four tissue bins in network units: in HU for CT, else in-body quartiles."""
    if target.scheme == "ct":
        return tuple((hu - target.centre) / target.scale for hu in HU_EDGES)
    return tuple(float(q) for q in np.quantile(images[bodies].numpy(), QUANTILES))


def judge(
    encoder: nn.Module, decoder: nn.Module, twin: nn.Module, held_out: HeldOut
) -> EncoderReport:
    """Measure the encoder, warn of each failed figure, refuse a useless one; all on the CPU.

    The decoder takes the encoder's maps, finest first, to images; the twin has random weights.

    Raises:
        TrainingError: weights are not finite, a channel is dead, or no gradient reaches the image.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in encoder.state_dict().values()):
        raise _useless("its weights are not finite")
    ours, theirs = describe(encoder, held_out), describe(twin, held_out)
    for stage, n_dead in enumerate(ours["dead channels"]):
        if n_dead:
            raise _useless(f"{n_dead:.0f} channels of its map {stage} are the same everywhere")
    if ours["gradient coverage"][0] == 0:
        raise _useless("no gradient reaches the image")
    errors = masked_mse(encoder, decoder, held_out)
    figures = _figures(errors, ours, theirs)
    failed = [figure for figure in figures if not figure.passed]
    names, n_patches = tuple(figure.name for figure in failed), len(held_out.images)
    if failed:
        _log.warning(
            "warning: feature encoder: %d of %d figures are poor, so that the drift may see little;"
            " compare with --encoder random (%s)",
            *(len(failed), len(figures), ", ".join(names)),
        )
    return EncoderReport(held_out.cases, n_patches, errors, ours, theirs, figures, names)


def _useless(reason: str) -> TrainingError:
    return TrainingError(
        f"the feature encoder is useless: {reason}; look at the training targets, or give it"
        " another --seed or more --encoder-iterations"
    )


def _figures(
    errors: dict[str, float],
    ours: dict[str, tuple[float, ...]],
    theirs: dict[str, tuple[float, ...]],
) -> tuple[Figure, ...]:
    against = errors["encoder"] / max(errors["in-painting"], 1e-12)
    least = {"gradient coverage": (ours["gradient coverage"][0], 0.99)}
    for stage, rank in enumerate(ours["effective rank"]):
        least[f"effective rank of map {stage}"] = rank, 4.0
    for name, factor in (("blur against noise", 1.5), ("blur against shift", 1.2)):
        least[f"{name} in the last map"] = ours[name][-1], factor * theirs[name][-1]
    name = "tissue read-out R2"
    for stage in range(1, len(ours[name])):
        least[f"{name} of map {stage}"] = ours[name][stage], theirs[name][stage]
    return (
        Figure("masked error against Gaussian in-painting", against, "at most", 0.8),
        *(Figure(name, value, "at least", limit) for name, (value, limit) in least.items()),
    )


def describe(encoder: nn.Module, held_out: HeldOut) -> dict[str, tuple[float, ...]]:
    """The measures of one encoder, a number a map (of the gradient: one number)."""
    images, bodies = held_out.images, held_out.bodies
    maps = measures.feature_maps(encoder, images)
    chosen = [measures.inside(bodies, m) for m in maps]
    moved = {
        name: np.array(list(map(measures.distance, maps, degraded, chosen)))  # (maps,)
        for name, copies in measures.degradations(images, bodies).items()
        if (degraded := measures.feature_maps(encoder, copies))
    }
    found = {
        "dead channels": map(measures.n_dead, maps),
        "effective rank": (
            measures.effective_rank(measures.tokens(m)[c])
            for m, c in zip(maps, chosen, strict=True)
        ),
        "blur against noise": moved["blur"] / moved["noise"].clip(1e-12),
        "blur against shift": moved["blur"] / moved["shift"].clip(1e-12),
        "tissue read-out R2": (
            measures.tissue_read_out(m, images, bodies, held_out.edges) for m in maps
        ),
        "gradient coverage": (measures.gradient_coverage(encoder, images[:1]),),
    }
    return {name: tuple(map(float, values)) for name, values in found.items()}


@torch.no_grad()
def masked_mse(encoder: nn.Module, decoder: nn.Module, held_out: HeldOut) -> dict[str, float]:
    """Mean squared error of the hidden voxels inside the body, beside three baselines."""
    images, generator = held_out.images, torch.Generator().manual_seed(0)
    z, y, x = images.shape[2:]
    hidden = random_mask(
        len(images), (z, y, x), held_out.cell, ratio=MASK_RATIO, generator=generator
    )
    visible = images * ~hidden
    prediction = torch.cat([decoder(encoder(one[None])) for one in visible])
    guesses = {
        "encoder": prediction,
        "zero": torch.zeros_like(images),
        "visible mean": measures.visible_means(images, hidden).expand_as(images),
    }
    judged = hidden & held_out.bodies
    errors = {name: float(masked_error(guess, images, judged)) for name, guess in guesses.items()}
    widths = [[share * side for side in held_out.cell] for share in WIDTHS]
    errors["in-painting"] = min(
        float(masked_error(measures.inpainted(images, hidden, sigma), images, judged))
        for sigma in widths
    )
    return errors
