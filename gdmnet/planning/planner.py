"""Facts about a dataset to decisions: pure, and each decision with its reason.

Spacing, patch, depth and batch follow nnU-Net (Isensee et al., Nature Methods 2021), with the
residual-encoder budgets of Isensee et al., MICCAI 2024.
"""

from __future__ import annotations

from math import ceil, prod

import numpy as np

from gdmnet import __version__
from gdmnet.arrays.normalise import scheme_of
from gdmnet.arrays.resample import resampled_shape
from gdmnet.data.body import CORRECTED, GIVEN
from gdmnet.errors import PlanError
from gdmnet.geometry import Shape, Spacing
from gdmnet.plan import Configuration, Fingerprint, Intensity, Normalisation, Plan, Region
from gdmnet.planning.memory import (
    PRESETS,
    Preset,
    device_gb_for,
    largest_step_gb,
    most_samples,
    step_gb,
)
from gdmnet.planning.table import times
from gdmnet.planning.topology import THIN, Network, fit_network, total_stride, triple

PLANNED = ("3d_fullres", "3d_lowres")
"""The configurations that a plan may hold without being made by hand."""

_ANISOTROPY = 3.0  # from here on an axis counts as much coarser than the others
_LOWRES_COVERAGE = 0.25  # share of the median volume that a patch shows at least
_LOWRES_STEP = 1.03
_LOWRES_GAIN = 2  # a lowres that does not halve the voxels is not worth a training
_SMALLEST_BATCH = 2
_DATASET_SHARE = 0.05  # of all voxels, in one batch at most: against over-fitting
_AIR = -1024.0  # HU: the lowest value of a 12-bit CT, and what lies outside the body
_CT_CEILING = 3071.0  # HU: the highest value of a 12-bit CT


def make_plan(
    fingerprint: Fingerprint, *, file_ending: str, preset: str, memory_gb: float, preset_reason: str
) -> Plan:
    """Decide everything a training needs to know; the cpu preset does not need the memory.

    Raises:
        PlanError: there is no such preset, or there are no cases.
    """
    if preset not in PRESETS:
        raise PlanError(f"--preset {preset}: unknown; choose one of {', '.join(PRESETS)}")
    if not fingerprint.cases:
        raise PlanError(f"{fingerprint.dataset}: no training cases to plan for")
    size = PRESETS[preset]
    spacing, spacing_reason = choose_spacing(fingerprint)
    fullres = _configuration(PLANNED[0], fingerprint, size, memory_gb, spacing, spacing_reason)
    lowres, lowres_reason = _lowres(fingerprint, size, memory_gb, fullres)
    integer = fullres.target.scheme == "ct"
    return Plan(
        schema=Plan.SCHEMA,
        version=__version__,
        dataset=fingerprint.dataset,
        channel_names=fingerprint.channel_names,
        target_name=fingerprint.target_name,
        file_ending=file_ending,
        integer_output=integer,
        preset=preset,
        memory_gb=memory_gb,
        reasons={
            "preset": f"{preset}: {preset_reason}.",
            "configurations": lowres_reason,
            "integer_output": "Predictions are int16, since HU are whole numbers."
            if integer
            else "Predictions are float32, since the target has no unit.",
        },
        configurations={found.name: found for found in (fullres, lowres) if found is not None},
    )


def choose_spacing(fingerprint: Fingerprint) -> tuple[Spacing, str]:
    """The spacing of the prepared cases in mm (z, y, x), and the reason in words."""
    spacings = np.array([case.spacing for case in fingerprint.cases], dtype=np.float64)
    shapes = np.array([case.shape for case in fingerprint.cases])
    target, size = np.median(spacings, axis=0), np.median(shapes, axis=0)
    reason = f"The median over {len(spacings)} cases on each axis"
    for axis in range(3):
        if shapes[:, axis].max() == 1:  # resampling must not make two slices of one
            target[axis] = spacings[:, axis].max()
            reason += f"; the {'zyx'[axis]} axis has single slices and is not resampled"
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    coarser = target[worst] > _ANISOTROPY * target[others].max()
    fewer = size[worst] * _ANISOTROPY < size[others].min()
    if coarser and fewer and shapes[:, worst].max() > 1:
        fine = float(np.percentile(spacings[:, worst], 10))
        target[worst] = max(fine, target[others].max() + 1e-5)
        reason += (
            f"; the {'zyx'[worst]} axis is more than {_ANISOTROPY:g} times coarser than the others,"
            " so that its 10th percentile is taken: fewer cases lose slices"
        )
    return triple(target.tolist()), reason + "."


def _configuration(
    name: str,
    fingerprint: Fingerprint,
    preset: Preset,
    memory_gb: float,
    spacing: Spacing,
    spacing_reason: str,
) -> Configuration:
    median_shape = _median_shape(fingerprint, spacing)
    network = _network(spacing, median_shape, preset, memory_gb)
    n_cases = len(fingerprint.cases)
    batch_size, batch_reason = _batch_size(network, median_shape, n_cases, preset, memory_gb)
    sources, target, normalisation_reason = choose_normalisations(fingerprint)
    residual = residual_channel(fingerprint.channel_names, fingerprint.target_name)
    region, region_reason = _region(fingerprint)
    return Configuration(
        name=name,
        spacing=spacing,
        median_shape=median_shape,
        patch_size=network.patch,
        batch_size=batch_size,
        architecture=network.architecture,
        sources=sources,
        target=target,
        residual_channel=residual,
        feature_map_voxels=network.feature_map_voxels,
        reasons={
            "spacing": spacing_reason,
            "patch_size": _patch_reason(network, median_shape, preset, memory_gb),
            "batch_size": batch_reason,
            **_memory_reason(network, batch_size, preset, memory_gb),
            "depth": _depth_reason(network, preset),
            "normalisation": normalisation_reason,
            "residual": _residual_reason(fingerprint, residual),
            **_bias_reason(fingerprint, sources),
            **region_reason,
        },
        bias_correction=fingerprint.bias_correction,
        region=region,
    )


def _lowres(
    fingerprint: Fingerprint, preset: Preset, memory_gb: float, fullres: Configuration
) -> tuple[Configuration | None, str]:
    """A coarser configuration whose patch shows enough of the patient, where one is needed."""
    voxels = prod(fullres.median_shape)
    coverage = prod(fullres.patch_size) / voxels
    seen = f"A 3d_fullres patch shows {coverage:.0%} of the median volume"
    if coverage >= _LOWRES_COVERAGE:
        return None, f"{seen}: enough, so there is no 3d_lowres."
    spacing, shape, patch = fullres.spacing, fullres.median_shape, fullres.patch_size
    while prod(patch) < _LOWRES_COVERAGE * prod(shape):
        spacing = _coarser(spacing, fullres.median_shape)
        shape = _median_shape(fingerprint, spacing)
        patch = _network(spacing, shape, preset, memory_gb).patch
    if prod(shape) * _LOWRES_GAIN > voxels:
        return None, f"{seen}; a 3d_lowres would be hardly coarser, so there is none."
    reason = (
        f"Coarsened by {_LOWRES_STEP - 1:.0%} a time from 3d_fullres until a patch shows at least"
        f" {_LOWRES_COVERAGE:.0%} of the median volume."
    )
    lowres = _configuration(PLANNED[1], fingerprint, preset, memory_gb, spacing, reason)
    return lowres, f"{seen}, so 3d_lowres is planned for its wider view."


def _coarser(spacing: Spacing, shape: Shape) -> Spacing:
    """The next coarser spacing: first only the axes that are more than twice finer than the rest.

    Thin stacks keep their slices.
    """
    free = [axis for axis in range(3) if shape[axis] > THIN] or [int(np.argmax(shape))]
    coarsest = max(spacing[axis] for axis in free)
    chosen = [axis for axis in free if coarsest / spacing[axis] > 2] or free
    return triple(spacing[axis] * (_LOWRES_STEP if axis in chosen else 1) for axis in range(3))


def residual_channel(channel_names: tuple[str, ...], target_name: str) -> int | None:
    """The first source that is the same quantity as the target: the same name, or both CT."""
    target_is_ct = scheme_of(target_name, target=True) == "ct"
    for channel, name in enumerate(channel_names):
        source_is_ct = scheme_of(name, target=False) == "ct"
        if name.casefold() == target_name.casefold() or (source_is_ct and target_is_ct):
            return channel
    return None


def choose_normalisations(
    fingerprint: Fingerprint,
) -> tuple[tuple[Normalisation, ...], Normalisation, str]:
    """The sources' normalisations, the target's, and the reason in words."""
    target_scheme = scheme_of(fingerprint.target_name, target=True)
    target = _normalisation(target_scheme, fingerprint.target)
    same = residual_channel(fingerprint.channel_names, fingerprint.target_name)
    sources = []
    words = [f"target {fingerprint.target_name}: {_because(target)}"]
    pairs = zip(fingerprint.channel_names, fingerprint.sources, strict=True)
    for channel, (name, intensity) in enumerate(pairs):
        scheme = scheme_of(name, target=False)
        if scheme == target_scheme == "ct":
            source = target
            why = "exactly as the target, so that their difference is one of HU"
        elif channel == same:
            source = _normalisation(target_scheme, intensity)
            why = f"{_because(source)}; as the target, whose quantity it is"
        else:
            source = _normalisation(scheme, intensity)
            why = _because(source)
        sources.append(source)
        words.append(f"source {name}: {why}")
    return tuple(sources), target, "; ".join(words) + "."


def _normalisation(scheme: str, intensity: Intensity) -> Normalisation:
    if scheme == "ct":
        high = max(_CT_CEILING, float(ceil(intensity.p99_5)))
        return Normalisation(
            "ct", intensity.mean, _width(intensity.std), _AIR, high, background=_AIR
        )
    if scheme == "percentiles":
        width = _width(intensity.p99 - intensity.p01)
        return Normalisation(scheme, intensity.p01, width, None, None, intensity.outside)
    if scheme == "zscore":
        low, high = intensity.p00_5, intensity.p99_5
        width = _width(intensity.std)
        return Normalisation(scheme, intensity.mean, width, low, high, intensity.outside)
    return Normalisation("none", 0.0, 1.0, None, None, intensity.outside)


def _width(value: float) -> float:
    return value if value > 0 else 1.0


def _because(normalisation: Normalisation) -> str:
    if normalisation.scheme == "ct":
        return (
            f"ct, HU are the same in every case: one window of {normalisation.low:g} to"
            f" {normalisation.high:g} HU (12 bits; more only where half a percent of the body"
            " exceeds it, so that metal does not stretch the scale), mean and deviation inside the"
            " body over all cases"
        )
    return {
        "percentiles": "percentiles, no physical unit: each case's own p1 and p99 inside the body"
        " become 0 and 1; predictions are written with the medians over the training cases",
        "zscore": "zscore, no physical unit: clipped to each case's own p0.5 to p99.5 inside the"
        " body, then mean 0 and deviation 1",
        "none": "none, as its name asks",
    }[normalisation.scheme]


def _median_shape(fingerprint: Fingerprint, spacing: Spacing) -> Shape:
    shapes = [resampled_shape(case.shape, case.spacing, spacing) for case in fingerprint.cases]
    return triple(max(1, round(float(median))) for median in np.median(shapes, axis=0))


def _network(spacing: Spacing, median_shape: Shape, preset: Preset, memory_gb: float) -> Network:
    def affords(network: Network) -> bool:
        return most_samples(network.architecture, network.patch, memory_gb) >= _SMALLEST_BATCH

    return fit_network(spacing, median_shape, preset, affords)


def _batch_size(
    network: Network, median_shape: Shape, n_cases: int, preset: Preset, memory_gb: float
) -> tuple[int, str]:
    """Samples of a batch: what fits the memory, at most 5 % of the dataset's voxels, at least 2."""
    if preset.max_voxels is not None:
        return _SMALLEST_BATCH, "The least that a batch holds, to keep a step short on a CPU."
    fitting = most_samples(network.architecture, network.patch, memory_gb)
    share = round(_DATASET_SHARE * n_cases * prod(median_shape) / prod(network.patch))
    if min(fitting, share) <= _SMALLEST_BATCH:
        return _SMALLEST_BATCH, "The least that a batch holds; memory goes into a large patch."
    if fitting <= share:
        return fitting, "What fits the memory; the patch cannot use more."
    return share, (
        f"{_DATASET_SHARE:.0%} of the dataset's voxels at most, against over-fitting; memory would"
        f" hold {fitting}."
    )


def _patch_reason(network: Network, median_shape: Shape, preset: Preset, memory_gb: float) -> str:
    stride = total_stride(network.architecture.strides)
    if preset.max_voxels is not None:
        limit = f"at most {preset.max_voxels} voxels, so that a CPU takes about a second a step"
    elif network.patch == median_shape:
        limit = "all of the median image"
    else:
        limit = f"the largest that a device of {memory_gb:g} GB affords"
    return (
        f"As near to a cube in mm as the median image {times(median_shape)} lets it be; {limit};"
        f" divisible by the total stride {times(stride)}."
    )


def _memory_reason(
    network: Network, batch_size: int, preset: Preset, memory_gb: float
) -> dict[str, str]:
    """What a step takes by each objective, where the plan goes by memory."""
    if preset.max_voxels is not None:
        return {}
    size = (network.architecture, network.patch, batch_size)
    peaks = {name: step_gb(*size, name) for name in ("regression", "gan", "gdm")}
    peaks["gdm with its realism dial"] = step_gb(*size, "gdm", twin=True)
    named = ", ".join(f"{name} {peak:.1f}" for name, peak in peaks.items())
    most = largest_step_gb(*size)
    return {
        "memory": f"GB at the peak of a step in bf16, predicted: {named}; with what CUDA itself and"
        f" its allocator take, the largest of all objectives, {most:.1f}, needs a device of"
        f" {device_gb_for(most):.1f} GB, planned for {memory_gb:g}."
    }


def _depth_reason(network: Network, preset: Preset) -> str:
    stages = len(network.architecture.strides)
    reason = (
        "Each stage halves the axes that have at least 8 voxels left and are less than twice as"
        " coarse as the finest of these"
    )
    if preset.max_stages == stages:
        reason += f"; {stages} stages at most in this preset"
    coarse = ["zyx"[a] for a in range(3) if network.architecture.kernels[0][a] == 1]
    if coarse:
        reason += f"; kernels of 1 along {' and '.join(coarse)} while it is coarse or thin"
    return reason + "."


def _residual_reason(fingerprint: Fingerprint, residual: int | None) -> str:
    if residual is None:
        return f"No source is the same quantity as {fingerprint.target_name}: no residual."
    return (
        f"Source {residual} ({fingerprint.channel_names[residual]}) is the same quantity as the"
        f" target ({fingerprint.target_name}): the network learns their difference only."
    )


def _bias_reason(fingerprint: Fingerprint, sources: tuple[Normalisation, ...]) -> dict[str, str]:
    """What the bias correction does, where one was asked for."""
    if fingerprint.bias_correction == "none":
        return {}
    named = zip(fingerprint.channel_names, sources, strict=True)
    names = [name for name, source in named if source.scheme in CORRECTED]
    text = f"asked for; divided out of {', '.join(names)} inside the body, before all else"
    return {"bias_correction": f"{text}." if names else "No source is on an arbitrary scale."}


def _region(fingerprint: Fingerprint) -> tuple[Region, dict[str, str]]:
    """Where the target counts, and why it is more than the body, or not although asked for."""
    if fingerprint.region == "body":
        return "body", {}
    if any(case.mask_rule == GIVEN for case in fingerprint.cases):
        return "body", {
            "region": "Masks were given, and what lies outside was never seen: where none is given,"
            f" the body counts, not {fingerprint.region}, and all else is background."
        }
    return fingerprint.region, {
        "region": "dataset.json says so: the target counts there, outside the patient, too; patches"
        " in training lie around voxels of the patient."
    }
