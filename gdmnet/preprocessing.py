"""From the files of a case to network units, and from a prediction back to the source's grid.

Training and prediction call the same `prepare`: what differs between the two is only whether
there is a target.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet import codec
from gdmnet.arrays import normalise
from gdmnet.arrays.body import body_mask
from gdmnet.arrays.crop import bounding_box, crop, uncrop
from gdmnet.arrays.region import region_of
from gdmnet.arrays.resample import lost_detail, resample, resample_mask, resampled_shape
from gdmnet.data.bias_field import without_bias
from gdmnet.data.case import Case, CaseFiles, CaseRecord, Volume
from gdmnet.data.dicom import read_sources
from gdmnet.data.store import is_stored, remove_case, save_case, stored_identifiers
from gdmnet.data.volume import read_volume
from gdmnet.errors import DatasetError, OutputError, PlanError
from gdmnet.geometry import Shape, grid_difference
from gdmnet.plan import Configuration, Normalisation

MARGIN: Shape = (2, 2, 2)  # voxels around the body, so that its border is resampled undisturbed
GIVEN = "given"  # the rule of a mask that came with the case
CONFIGURATION_JSON = "configuration.json"


@dataclass(frozen=True)
class _Body:
    """Masks on the source grid, uint8 (z, y, x).

    Attributes:
        mask: where the target counts.
        rule: that made it.
        patient: the body: what intensities, the bias field and centres of patches are taken from.
    """

    mask: NDArray
    rule: str
    patient: NDArray


def prepare(files: CaseFiles, configuration: Configuration) -> Case:
    """Read a case and bring it to the spacing and units of the network.

    Raises:
        DatasetError: a file cannot be read or does not fit the others or the configuration.
    """
    return prepare_volumes(
        files.identifier,
        read_sources(files),
        configuration,
        target=None if files.target is None else read_volume(files.target),
        mask=None if files.mask is None else read_volume(files.mask),
    )


def prepare_volumes(
    identifier: str,
    source: Volume,
    configuration: Configuration,
    *,
    target: Volume | None = None,
    mask: Volume | None = None,
) -> Case:
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
        known at prediction too; the target is background there, as in what `restore` makes.

    Raises:
        DatasetError: the volumes do not fit each other or the configuration.
    """
    return prepare_with_sources(identifier, source, configuration, target=target, mask=mask)[0]


def prepare_with_sources(
    identifier: str,
    source: Volume,
    configuration: Configuration,
    *,
    target: Volume | None = None,
    mask: Volume | None = None,
) -> tuple[Case, Volume]:
    """`prepare_volumes`, and the sources in file units after the bias correction: (c, z, y, x).

    Those are what the fingerprint describes.
    """
    _require_fit(identifier, source, configuration, target=target, mask=mask)
    body = _body_of(identifier, source, configuration, mask)
    source = _corrected(source, body, configuration)
    box = bounding_box(body.mask, MARGIN)
    inside, patient = crop(body.mask, box), crop(body.patient, box)
    shape = resampled_shape(_extent(inside), source.geometry.spacing, configuration.spacing)
    small_inside = resample_mask(inside, shape)
    if not small_inside.any():  # a body thinner than half a voxel of the new grid
        small_inside[...] = 1
    channels = [
        normalise.apply(image, normalise.fit(normalisation, image, patient))
        for image, normalisation in zip(
            crop(source.array, box), source_normalisations(configuration), strict=True
        )
    ]
    units, prepared_target, detail = None, None, None
    residual = configuration.residual_channel
    if target is None and residual is not None and configuration.target.scheme == "ct":
        detail = lost_detail(channels[residual][None], shape)
    if target is not None:
        image = crop(target.array, box)[0]
        units = normalise.fit(configuration.target, image, patient)
        resampled = resample(normalise.apply(image, units)[None], shape)
        background = np.float32(normalise.background_value(units))
        prepared_target = np.where(small_inside != 0, resampled, background)
    record = CaseRecord(
        identifier, source.geometry, box, configuration.spacing, shape, body.rule, units
    )
    small_patient = None if body.patient is body.mask else resample_mask(patient, shape)
    case = Case(
        record,
        resample(np.stack(channels), shape),
        prepared_target,
        small_inside,
        small_patient,
        detail,
    )
    return case, source


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
        body: `Case.body`, (z, y, x) on the prepared grid.
        detail: `Case.detail`, (1, z, y, x) in the crop of the source's grid, which is added.

    Returns:
        float32 (1, z, y, x), file units (CT: HU); background outside the body and the crop.
    """
    background = np.float32(normalisation.background)
    extent = _box_shape(record)
    image = resample(prediction, extent)
    image = normalise.invert(image if detail is None else image + detail, normalisation)
    inside = resample_mask(body, extent)
    image = np.where(inside != 0, image, background)
    return uncrop(image, record.box, record.geometry.shape, float(background))


def prepare_and_store(files: CaseFiles, configuration: Configuration, folder: Path) -> None:
    """Prepare a training case and write it to folder/<identifier>, unless it is there already."""
    if not is_stored(folder, files.identifier):
        save_case(folder, prepare(files, configuration), configuration.patch_size)


def ensure_folder(folder: Path, configuration: Configuration, *, overwrite: bool) -> None:
    """Make a folder ready for the cases of a configuration.

    Finished cases stay if they were made at the same spacing, with the same normalisations, bias
    correction and region (network and patch may differ); else, or if asked to overwrite, all are
    removed. What an interrupted run has left half-written is removed always.

    Raises:
        OutputError: the folder cannot be written.
    """
    noted = folder / CONFIGURATION_JSON
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.partial"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        if overwrite or not _prepares_alike(_read_configuration(noted), configuration):
            noted.unlink(missing_ok=True)  # first: interrupted here, the next run starts afresh
            for identifier in stored_identifiers(folder):
                remove_case(folder, identifier)
            codec.save(configuration, noted)
    except OSError as problem:
        raise OutputError(
            f"{folder}: cannot be written ({problem.strerror or problem}); check the folder's"
            " permissions and free space"
        ) from None


def _prepares_alike(before: Configuration | None, now: Configuration) -> bool:
    return before is not None and _preparation(before) == _preparation(now)


def _preparation(configuration: Configuration) -> tuple[object, ...]:
    return (
        configuration.spacing,
        source_normalisations(configuration),
        configuration.target,
        configuration.bias_correction,
        configuration.region,
    )


def _read_configuration(path: Path) -> Configuration | None:
    try:
        return codec.load(Configuration, path)
    except PlanError:  # missing, damaged or of another version: none that could be equal
        return None


def _body_of(
    identifier: str, source: Volume, configuration: Configuration, mask: Volume | None
) -> _Body:
    if mask is None:
        is_ct = [normalisation.scheme == "ct" for normalisation in configuration.sources]
        spacing = source.geometry.spacing
        patient, rule = body_mask(source.array, spacing, is_ct)
        if configuration.region == "body":
            return _Body(patient, rule, patient)
        region = region_of(configuration.region, patient, spacing)
        return _Body(region, configuration.region, patient)
    given = (mask.array[0] > 0).astype(np.uint8)
    if not given.any():
        raise DatasetError(f"case {identifier}: the mask is empty; mark the body, or remove it")
    return _Body(given, GIVEN, given)


def _corrected(source: Volume, body: _Body, configuration: Configuration) -> Volume:
    array = without_bias(
        source.array,
        source.geometry.spacing,
        [normalisation.scheme for normalisation in configuration.sources],
        configuration.bias_correction,
        body=None if body.rule == GIVEN else body.patient,
    )
    return Volume(array, source.geometry)


def _require_fit(
    identifier: str,
    source: Volume,
    configuration: Configuration,
    *,
    target: Volume | None,
    mask: Volume | None,
) -> None:
    n_channels = len(configuration.sources)
    if source.array.shape[0] != n_channels:
        raise DatasetError(
            f"case {identifier}: {source.array.shape[0]} source channels, but the plan has"
            f" {n_channels}; give every channel of the training set"
        )
    for volume, what in ((target, "target"), (mask, "mask")):
        difference = volume and grid_difference(volume.geometry, source.geometry)
        if difference:
            raise DatasetError(
                f"case {identifier}: the {what} has another grid than the source: {difference};"
                f" resample the {what} to the source"
            )


def _extent(array: NDArray) -> Shape:
    z, y, x = array.shape
    return z, y, x


def _box_shape(record: CaseRecord) -> Shape:
    z, y, x = (stop - first for first, stop in record.box)
    return z, y, x
