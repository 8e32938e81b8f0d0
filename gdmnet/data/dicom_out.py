"""Write a predicted CT as a DICOM series beside its source, for a treatment planning system.

The attributes are those of the CT Image IOD (DICOM PS3.3 A.3). Patient, study and frame of
reference are copied from the source's series, byte for byte; nothing else is: what a scanner says
about its acquisition would be wrong for a computed image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gdmnet import __version__
from gdmnet.data.case import Series, Volume
from gdmnet.data.case_files import read_errors
from gdmnet.data.dicom import grid_of
from gdmnet.data.dicom_file import quiet_pydicom
from gdmnet.data.regrid import axial_grid, regrid
from gdmnet.errors import DatasetError
from gdmnet.files import whole_folder
from gdmnet.geometry import Geometry, grid_difference, to_stored

if TYPE_CHECKING:
    from pydicom import Dataset

GRIDS: dict[str, Callable[[Geometry], Geometry]] = {"axial": axial_grid, "source": lambda g: g}
"""Grids of the written series: axial with square pixels, or the source's own."""

_AIR = -1024  # HU: no CT has less, so it is both the intercept and the lowest value written
_COPIED_OR_EMPTY = (  # type 2: must be there, may be empty
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName"),
    *("PatientID", "PatientBirthDate", "PatientSex", "PatientPosition", "StudyInstanceUID"),
    *("StudyID", "FrameOfReferenceUID", "PositionReferenceIndicator"),
)
_COPIED_IF_THERE = (
    *("SpecificCharacterSet", "StudyDescription", "IssuerOfPatientID"),
    *("PatientIdentityRemoved", "DeidentificationMethod"),
)


@dataclass(frozen=True)
class Maker:
    """Who made the volume, in ASCII."""

    model: str  # "Dataset510_MRtoCT gdm__3d_fullres"
    details: str  # which weights and folds


def write_ct_series(
    folder: Path, volume: Volume, template: Series, maker: Maker, *, grid: str = "axial"
) -> None:
    """Write a CT as a new series of the template's patient, study and frame of reference.

    The whole series or nothing; a folder that is there is replaced. Values are rounded to whole HU;
    below -1024 HU, which only padding has, they become -1024.

    Args:
        folder: of the series, CT_0001.dcm from the feet upwards (along the slices' normal).
        volume: float32 (1, z, y, x) in HU, in the template's frame of reference.
        template: the series that it was made from.
        maker: named in the descriptions.
        grid: a name in `GRIDS`.

    Raises:
        DatasetError: the template lacks its study or frame of reference, or cannot be read.
        OutputError: the folder cannot be written.
    """
    from pydicom import dcmwrite
    from pydicom.uid import generate_uid

    require_template(template)
    wanted, own = GRIDS[grid](volume.geometry), grid_of(template)
    moved = regrid(volume, wanted, fill=_AIR)
    resampled = None if moved.array is volume.array else grid
    with quiet_pydicom(), read_errors():
        ct, (series_number, images) = _copied(template.files[0]), _source_images(template)
    with quiet_pydicom(), whole_folder(folder, overwrite=True) as aside:
        attributes = {**_described(template, maker, resampled), **_pixel_format(wanted)}
        for keyword, value in {**attributes, "SeriesNumber": 1000 + series_number}.items():
            setattr(ct, keyword, value)
        # On the template's own grid a slice comes from one image, else from all of them.
        is_slice_by_slice = (wanted.axes, wanted.flips) == (own.axes, own.flips)
        is_slice_by_slice &= grid_difference(wanted, own) is None
        for number, (place, height, pixels) in enumerate(_slices(moved), start=1):
            ct.SOPInstanceUID = generate_uid(prefix=None)  # 2.25 and a random UUID (PS3.5 B.2)
            ct.InstanceNumber = number
            ct.SourceImageSequence = images[number - 1 : number] if is_slice_by_slice else images
            ct.ImagePositionPatient = _decimals(place)
            ct.SliceLocation = _decimals([height])
            ct.add_new("PixelData", "OW", pixels.tobytes())
            dcmwrite(aside / f"CT_{number:04d}.dcm", ct, enforce_file_format=True)


def require_template(template: Series) -> None:
    """Refuse a series whose study and frame of reference no other series can share.

    Raises:
        DatasetError: it has none.
    """
    if not (template.study and template.frame):
        raise DatasetError(
            f"{template.folder}: has no StudyInstanceUID or FrameOfReferenceUID, which the new"
            " series must share; export it anew"
        )


def _copied(path: Path) -> Dataset:
    """A data set with patient, study and frame of a slice, byte for byte, to be written anew."""
    from pydicom import Dataset, dcmread
    from pydicom.datadict import dictionary_VR
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    tags = [*_COPIED_OR_EMPTY, *_COPIED_IF_THERE]
    source = dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
    ct = Dataset()
    for element in source.elements():
        if element.is_raw:  # all but the character set
            text = element.value or b""
            text += b" " * (len(text) % 2)
            element = element._replace(VR=dictionary_VR(element.tag), value=text)
        ct[element.tag] = element
    # What has the encoding of the file to write is not decoded, and so stays as it is.
    ct.set_original_encoding(False, True, source.original_character_set)
    ct.file_meta = FileMetaDataset()
    ct.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in _COPIED_OR_EMPTY:
        if keyword not in ct:
            setattr(ct, keyword, "")
    if ct.get("PatientIdentityRemoved") == "YES":  # the method may stand in a sequence there
        ct.setdefault("DeidentificationMethod", "as the source series")
    return ct


def _source_images(template: Series) -> tuple[int, list[Dataset]]:
    """The series' number, 0 where it has none, and a reference to each of its images."""
    from pydicom import Dataset, dcmread

    tags = ["SOPClassUID", "SOPInstanceUID", "SeriesNumber"]
    number, images = 0, []
    for path in template.files:
        item = dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
        image = Dataset()
        image.ReferencedSOPClassUID = item.get("SOPClassUID", "")
        image.ReferencedSOPInstanceUID = item.get("SOPInstanceUID", "")
        images.append(image)
        with contextlib.suppress(ValueError, TypeError):
            number = int(item.get("SeriesNumber") or 0)
    return number, images


def _described(template: Series, maker: Maker, resampled: str | None) -> dict[str, Any]:
    """What the series is and who made it."""
    from pydicom.uid import CTImageStorage, generate_uid

    now = datetime.now()
    how = f", resampled to an {resampled} grid" if resampled else ""
    derivation = (
        f"Synthetic CT computed from a series of modality {template.modality} by gdmnet"
        f" {__version__}, model {maker.model}{how}. {maker.details}. Not for diagnosis without"
        " validation."
    )
    begun = ("InstanceCreation", "Series", "Content")
    return {
        **{f"{what}Date": now.strftime("%Y%m%d") for what in begun},
        **{f"{what}Time": now.strftime("%H%M%S") for what in begun},
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
        "SOPClassUID": CTImageStorage,
        "SyntheticData": "YES",
        "Modality": "CT",
        "Manufacturer": "gdmnet",
        "ManufacturerModelName": "gdmnet",
        "SoftwareVersions": _ascii(__version__, 64),
        "SeriesDescription": f"sCT of {template.description or template.modality}"[:64],
        "DerivationDescription": _ascii(derivation, 1024),
        "KVP": None,  # no tube was there; the standard allows it to be empty
        "SeriesInstanceUID": generate_uid(prefix=None),
        "AcquisitionNumber": None,
        "BurnedInAnnotation": "NO",
    }


def _pixel_format(geometry: Geometry) -> dict[str, Any]:
    """Grid and values: all that is the same for every slice."""
    direction = np.reshape(geometry.itk_direction, (3, 3))
    x, y, z = geometry.itk_spacing
    _, rows, columns = geometry.stored_shape
    return {
        "SliceThickness": _decimals([z]),
        "SpacingBetweenSlices": _decimals([z]),
        "ImageOrientationPatient": _decimals(direction[:, :2].T.ravel()),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "PixelSpacing": _decimals([y, x]),  # between rows, between columns
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,  # signed
        "WindowCenter": "40",  # for viewers: soft tissue
        "WindowWidth": "400",
        "RescaleIntercept": str(_AIR),
        "RescaleSlope": "1",
        "RescaleType": "HU",
    }


def _slices(volume: Volume) -> Iterator[tuple[NDArray, float, NDArray]]:
    """Place (x, y, z), height along the normal, int16 pixels of the slices, upwards along it."""
    geometry = volume.geometry
    direction = np.reshape(geometry.itk_direction, (3, 3))
    normal = np.cross(direction[:, 0], direction[:, 1])
    hounsfield = np.clip(np.rint(to_stored(volume.array[0], geometry)), _AIR, None)
    pixels = np.minimum(hounsfield - _AIR, np.iinfo(np.int16).max).astype("<i2")
    steps = geometry.itk_spacing[2] * np.arange(len(pixels))
    places = np.array(geometry.itk_origin) + np.outer(steps, direction[:, 2])
    heights = places @ normal
    for k in np.argsort(heights):
        yield places[k], float(heights[k]), pixels[k]


def _decimals(numbers: Iterable[float]) -> list[str]:
    """Numbers as DICOM's decimal strings, which have at most 16 characters: 1e-10 and better."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(round(float(number), 10) + 0.0) for number in numbers]


def _ascii(text: str, length: int) -> str:
    """Text that every character set of the copied elements agrees on; backslash would split it."""
    return text.encode("ascii", "replace").decode().replace("\\", "/")[:length]
