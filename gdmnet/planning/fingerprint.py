"""What is measured of a training set: shapes, spacings, intensities inside the body."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.arrays.crop import bounding_box, box_shape, crop
from gdmnet.arrays.normalise import mean_and_deviation, scheme_of
from gdmnet.data.body import find_body, without_bias
from gdmnet.data.case import CaseFiles
from gdmnet.data.volume import read_channels, read_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import Spacing, grid_difference
from gdmnet.plan import BiasCorrection, CaseFingerprint, Fingerprint, Intensity, Region

_PERCENTILES = {"p00_5": 0.5, "p01": 1, "p50": 50, "p99": 99, "p99_5": 99.5}
_MANY, _FEW_SLICES = 2**24, 16  # voxels that are looked at, and slices at least
_SHAPE = (10, 25, 50, 75, 90)  # percentiles that an input's histogram is known by
_RIM, _LOOK = 4.0, 2.5  # mm: the outermost part of a body, and a grid to find it on
_CORE = 60  # percentile of the depth, from which on a body's core is


def measure_case(
    files: CaseFiles,
    channel_names: Sequence[str],
    target_name: str,
    bias_correction: BiasCorrection = "none",
    region: Region = "body",
) -> CaseFingerprint:
    """Measure one training case inside its body, after the bias correction of its sources.

    The region, where the target counts, decides about the shape only.

    Raises:
        DatasetError: a file cannot be read, the case has no target, or its mask is empty.
    """
    if files.target is None:
        raise DatasetError(f"{files.identifier}: no target; training cases need one in targetsTr")
    sources = read_channels(files.sources)
    target = read_volume(files.target)
    difference = grid_difference(target.geometry, sources.geometry)
    if difference is not None:
        raise DatasetError(f"{files.target}: not on the grid of its source: {difference}")
    schemes = [scheme_of(name, target=False) for name in channel_names]
    mask = None if files.mask is None else read_volume(files.mask)
    body = find_body(sources, schemes, region, mask, case=files.identifier)
    corrected = without_bias(sources, schemes, bias_correction, body)
    inside = body.patient != 0
    return CaseFingerprint(
        identifier=files.identifier,
        shape=box_shape(bounding_box(body.counted)),
        spacing=sources.geometry.spacing,
        body_fraction=float(inside.mean()),
        mask_rule=body.rule,
        sources=tuple(
            measure_intensity(channel, inside, sources.geometry.spacing) for channel in corrected
        ),
        target=measure_intensity(target.array[0], inside),
        digests=files.digests(),
    )


def measure_intensity(image: NDArray, inside: NDArray, spacing: Spacing | None = None) -> Intensity:
    """Statistics of (z, y, x) in file units where the boolean `inside` is true.

    Of large volumes every n-th slice is looked at; the extremes are of all. The rim is measured
    only where the spacing, in mm (z, y, x), is given.
    """
    extremes = image.min(where=inside, initial=np.inf), image.max(where=inside, initial=-np.inf)
    minimum, maximum = map(float, extremes)
    step = max(1, min(image.size // _MANY, len(image) // _FEW_SLICES))
    if inside[::step].any():
        image, inside = image[::step], inside[::step]
        spacing = spacing and (spacing[0] * step, *spacing[1:])
    values = image[inside]
    mean, std = mean_and_deviation(values)
    asked = (*_PERCENTILES.values(), *_SHAPE)
    percentiles = map(float, np.percentile(values, asked, overwrite_input=True))
    named = dict(zip(_PERCENTILES, percentiles, strict=False))
    del values
    outside = image[~inside]
    return Intensity(
        mean=mean,
        std=std,
        minimum=minimum,
        maximum=maximum,
        **named,
        outside=float(np.median(outside, overwrite_input=True)) if outside.size else minimum,
        noise=_noise(image, inside),
        quantiles=tuple(percentiles),
        rim=None if spacing is None else _rim(image, inside, spacing, (named["p01"], named["p99"])),
    )


def _rim(
    image: NDArray, inside: NDArray, spacing: Spacing, ends: tuple[float, float]
) -> float | None:
    """How much brighter the rim is than the core, in deviations; None where one is not there.

    Inverted contrast turns its sign, whatever the histogram. Values beyond `ends` count as these.
    """
    steps = [max(1, round(_LOOK / width)) for width in spacing]
    grid = tuple(slice(None, None, step) for step in steps)
    if not inside[grid].any():
        return None
    box = bounding_box(inside[grid], (1, 1, 1))  # what lies beyond is no nearer
    body, values = crop(inside[grid], box), np.clip(crop(image[grid], box), *ends)
    sides = [width * step for width, step in zip(spacing, steps, strict=True)]
    depth = ndimage.distance_transform_edt(body, sides)  # 0 outside; without an outside, anything
    rim = body & (depth <= _RIM)
    core = depth > np.percentile(depth[body], _CORE) if rim.any() else rim
    if body.all() or not core.any():
        return None
    difference = values[rim].mean(dtype=np.float64) - values[core].mean(dtype=np.float64)
    return float(difference / (values[body].std(dtype=np.float64) or 1.0))


def _noise(image: NDArray, inside: NDArray) -> float:
    """Median of |d2/dx2 + d2/dy2| inside: noise and streaks, hardly anatomy (a median).

    Second differences from voxel to voxel; an axis of fewer than three voxels has none.
    """
    sizes, n_known = np.empty(np.count_nonzero(inside), dtype=np.float32), 0
    for axial, body in zip(image, inside, strict=True):  # no second volume in memory
        laplacian = np.zeros(axial.shape, dtype=np.float32)
        values = axial.astype(np.float32, copy=False)
        laplacian[1:-1] += np.diff(values, 2, axis=0)
        laplacian[:, 1:-1] += np.diff(values, 2, axis=1)
        own = np.abs(laplacian[body])
        sizes[n_known : n_known + own.size] = own
        n_known += own.size
    return float(np.median(sizes, overwrite_input=True))


def summarise(
    dataset: str,
    cases: Sequence[CaseFingerprint],
    channel_names: Sequence[str],
    target_name: str,
    bias_correction: BiasCorrection = "none",
    region: Region = "body",
) -> Fingerprint:
    """The facts about a training set from those about its cases.

    Raises:
        DatasetError: there are no cases.
    """
    if not cases:
        raise DatasetError(f"{dataset}: no training cases to measure; add them to imagesTr")
    channels = range(len(channel_names))
    return Fingerprint(
        schema=Fingerprint.SCHEMA,
        dataset=dataset,
        channel_names=tuple(channel_names),
        target_name=target_name,
        cases=tuple(cases),
        sources=tuple(pool([case.sources[channel] for case in cases]) for channel in channels),
        target=pool([case.target for case in cases]),
        bias_correction=bias_correction,
        region=region,
    )


def pool(intensities: Sequence[Intensity]) -> Intensity:
    """Statistics over cases, each case with equal weight whatever its size.

    Mean and deviation are those of the mixture: mean = E[m], variance = E[s^2 + m^2] - mean^2.
    Percentiles and the outside are medians over the cases, the extremes are extremes.
    """
    mean = fmean(item.mean for item in intensities)
    # E[s^2] + Var[m], the same without the cancellation of two large squares
    variance = fmean(item.std**2 + (item.mean - mean) ** 2 for item in intensities)
    known = [item.noise for item in intensities if item.noise is not None]
    names = (*_PERCENTILES, "outside")
    medians: dict[str, Any] = {n: median(getattr(i, n) for i in intensities) for n in names}
    return Intensity(
        mean=mean,
        std=variance**0.5,
        minimum=min(item.minimum for item in intensities),
        maximum=max(item.maximum for item in intensities),
        noise=median(known) if known else None,
        **medians,
    )
