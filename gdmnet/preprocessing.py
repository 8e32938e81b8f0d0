"""From the files of a case to network units, and from a prediction back to the source's grid.

Training and prediction call the same `prepare`: what differs between the two is only whether
there is a target.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet import codec, folders
from gdmnet.arrays import normalise
from gdmnet.arrays.crop import bounding_box, box_shape, crop
from gdmnet.arrays.resample import (
    lost_detail,
    mask_slabs,
    resample,
    resample_mask,
    resampled_shape,
    resampled_slabs,
)
from gdmnet.data.body import find_body, without_bias
from gdmnet.data.case import Case, CaseFiles, CaseRecord, Volume
from gdmnet.data.dicom import read_sources
from gdmnet.data.store import save_case, stored_record
from gdmnet.data.volume import read_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import Shape, grid_difference, shape_of
from gdmnet.plan import Configuration, Normalisation

MARGIN: Shape = (2, 2, 2)  # voxels around the body, so that its border is resampled undisturbed


def prepare(case: CaseFiles, configuration: Configuration) -> Case:
    """Read a case and bring it to the spacing and units of the network.

    Raises:
        DatasetError: a file cannot be read or does not fit the others or the configuration.
    """
    return prepare_volumes(
        case.identifier,
        read_sources(case),
        configuration,
        target=None if case.target is None else read_volume(case.target),
        mask=None if case.mask is None else read_volume(case.mask),
    )[0]


def prepare_volumes(
    identifier: str,
    source: Volume,
    configuration: Configuration,
    *,
    target: Volume | None = None,
    mask: Volume | None = None,
) -> tuple[Case, Volume]:
    """The same for volumes in memory: bias correction, crop to the body, normalise, resample.

    Args:
        identifier: name of the case.
        source: (c, z, y, x) in file units, channels in the plan's order.
        configuration: spacing and normalisations.
        target: (1, z, y, x) in file units on the source's grid.
        mask: (1, z, y, x) on the source's grid, above 0 inside the body; computed from the
            sources if not given.

    Returns:
        The case in network units. Outside the body the source keeps its own values, which are
        known at prediction too; the target is background there, as in what `restore` makes. And
        the sources in file units after the bias correction, which is what a fingerprint describes.

    Raises:
        DatasetError: the volumes do not fit each other or the configuration.
    """
    _require_fit(identifier, source, configuration, target=target, mask=mask)
    schemes = [normalisation.scheme for normalisation in configuration.sources]
    body = find_body(source, schemes, configuration.region, mask, case=identifier)
    corrected = without_bias(source, schemes, configuration.bias_correction, body)
    box = bounding_box(body.counted, MARGIN)
    inside, patient = crop(body.counted, box), crop(body.patient, box)
    shape = resampled_shape(shape_of(inside), source.geometry.spacing, configuration.spacing)
    small_inside = resample_mask(inside, shape)
    if not small_inside.any():  # a body thinner than half a voxel of the new grid
        small_inside[...] = 1
    units, prepared_target, detail, products = None, None, None, (0.0, 0.0)
    residual = configuration.residual_channel
    prepared = np.empty((len(corrected), *shape), dtype=np.float32)
    for channel, scheme in enumerate(source_normalisations(configuration)):  # one in memory
        image = crop(corrected[channel], box)
        image = normalise.apply(image, normalise.fit(scheme, image, patient))[None]
        for rows, slab in resampled_slabs(image, shape):
            prepared[channel, rows] = slab[0]
        if channel == residual and configuration.target.scheme == "ct":
            detail = lost_detail(image, shape)
    if target is not None:
        image = crop(target.array, box)[0]
        units = normalise.fit(configuration.target, image, patient)
        wanted = normalise.apply(image, units)[None]
        resampled = resample(wanted, shape)
        background = np.float32(normalise.background_value(units))
        prepared_target = np.where(small_inside != 0, resampled, background)
        real = None if detail is None else lost_detail(wanted, shape)
        if detail is not None and real is not None:
            s, t = detail[0][inside != 0], real[0][inside != 0]
            products = float((s * t).sum(dtype=float)), float((s * s).sum(dtype=float))
    grid = source.geometry, box, configuration.spacing, shape
    record = CaseRecord(identifier, *grid, body.rule, units, detail=products)
    small_patient = None if body.patient is body.counted else resample_mask(patient, shape)
    arrays = prepared, prepared_target, small_inside, small_patient
    case = Case(record, *arrays, *((inside, detail) if target is None else (None, None)))
    return case, Volume(corrected, source.geometry)


def source_normalisations(configuration: Configuration) -> tuple[Normalisation, ...]:
    """The normalisation of every source channel before it takes the case's own numbers.

    The channel that the generator adds to its output (`residual_channel`) is in the target's
    units if those are the same for the whole dataset: the sum would mean nothing otherwise.
    """
    return tuple(
        configuration.target
        if channel == configuration.residual_channel and configuration.target.scheme == "ct"
        else normalisation
        for channel, normalisation in enumerate(configuration.sources)
    )


def restore(
    prediction: NDArray,
    record: CaseRecord,
    normalisation: Normalisation,
    *,
    body: NDArray,
    detail: NDArray | None = None,
) -> NDArray:
    """A prediction in file units on the source's own grid (LPS axes): the inverse of `prepare`.

    Args:
        prediction: float32 (1, z, y, x), network units, on the prepared grid.
        record: of the prepared case.
        normalisation: of the target: the plan's, or the case's own (`record.target`).
        body: `Case.body`, (z, y, x) on the prepared grid, or `Case.outline` in the source's crop.
        detail: what is added, (1, z, y, x) in the crop of the source's grid, network units: as
            much of `Case.detail` as the model's training cases share with their targets.

    Returns:
        float32 (1, z, y, x), file units (CT: HU); background outside the body and the crop.
    """
    extent, background = box_shape(record.box), np.float32(normalisation.background)
    whole = np.full((1, *record.geometry.shape), background, dtype=np.float32)
    place = crop(whole, record.box)
    slabs = zip(resampled_slabs(prediction, extent), mask_slabs(body, extent), strict=True)
    for (rows, image), (_, inside) in slabs:
        image = image if detail is None else image + detail[:, rows]
        np.copyto(place[:, rows], normalise.invert(image, normalisation), where=inside)
    return whole


def prepare_and_store(case: CaseFiles, configuration: Configuration, folder: Path) -> None:
    """Prepare a training case and write it to folder/<identifier>, in place of what is there."""
    digests = case.digests()  # first: of what is changed meanwhile the new bytes are unknown
    prepared, decided_by = prepare(case, configuration), preparation_sha256(configuration)
    record = replace(prepared.record, digests=digests, decided_by=decided_by)
    save_case(folder, replace(prepared, record=record), configuration.patch_size)


def is_prepared(
    folder: Path, identifier: str, digests: Mapping[str, str], configuration: Configuration
) -> bool:
    """Whether a stored case was made of files with these digests, as planned and by --nifti-form.

    `folder` holds the configuration's cases, `digests` are `CaseFiles.digests`.
    """
    record = stored_record(folder, identifier)
    if record is None:
        return False
    forms, made_of = record.geometry.forms, (record.digests, record.decided_by)
    is_placed = forms is None or forms.decided in (None, folders.nifti_form())
    return is_placed and made_of == (digests, preparation_sha256(configuration))


def preparation_sha256(configuration: Configuration) -> str:
    """SHA-256 of what in a configuration decides its cases; network and patch do not."""
    c = configuration
    sources, residual = source_normalisations(c), c.residual_channel
    decisive = (c.spacing, sources, c.target, c.bias_correction, c.region, residual)
    return hashlib.sha256(json.dumps(codec.encode(decisive)).encode()).hexdigest()


def _require_fit(
    identifier: str, source: Volume, configuration: Configuration, **others: Volume | None
) -> None:
    n_channels = len(configuration.sources)
    if source.array.shape[0] != n_channels:
        raise DatasetError(
            f"case {identifier}: {source.array.shape[0]} source channels, but the plan has"
            f" {n_channels}; give every channel of the training set"
        )
    for what, volume in others.items():
        difference = volume and grid_difference(volume.geometry, source.geometry)
        if difference:
            raise DatasetError(
                f"case {identifier}: the {what} has another grid than the source: {difference};"
                f" resample the {what} to the source"
            )
