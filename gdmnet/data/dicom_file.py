"""One DICOM file: is it one, which slice is in it, its pixels.

pydicom reads headers and all pixels that are not compressed; GDCM, through SimpleITK, decodes those
that are. pydicom is imported where a file is read, so that nothing else waits for it.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from gdmnet.data.dicom_grid import PASSES, Slice
from gdmnet.errors import DatasetError, is_out_of_memory
from gdmnet.geometry import SPACINGS

if TYPE_CHECKING:
    from pydicom import Dataset

NOT_DICOM = "not DICOM"
NO_PLACE = "has no position in the patient; move it away if it is no slice of the series"

_TEXTS = {  # of a slice <- attribute
    "uid": "SOPInstanceUID",
    "series": "SeriesInstanceUID",
    "study": "StudyInstanceUID",
    "frame": "FrameOfReferenceUID",
    "modality": "Modality",
}
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_HEADER = (
    *(*_TEXTS.values(), *_PLACE, *PASSES, "SOPClassUID", "SeriesDescription", "PatientID"),
    *("SliceThickness", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "RescaleSlope", "RescaleIntercept"),
)
_RESCALE_CT = {"RescaleSlope": 100.0, "RescaleIntercept": 1e5}
_RESCALE = dict.fromkeys(_RESCALE_CT, 1e12)
"""The largest number to expect, in HU and for the other modalities, which have no unit."""
_PIXEL_DATA = 0x7FE00010
_COMPRESSED = 0xFFFFFFFF  # stands for the length of pixel data that have none of their own
_SYNTAX = "1.2.840.10008.1.2"
_UNCOMPRESSED = {(True, True): "", (False, True): ".1", (False, False): ".2"}
"""Implicit VR?, little endian? -> how the transfer syntax goes on."""

_FIRST_ELEMENT = re.compile(
    rb"(?:[\x02\x08]\0[\0-\x18]\0|\0[\x02\x08]\0[\0-\x18])(?:[A-Z]{2}|..\0\0)", re.DOTALL
)
"""Of a file without preamble: group 2 or 8 in either byte order, then a VR or a short length."""

_NO_SCANS = ("RTSTRUCT", "RTPLAN", "RTDOSE", "RTIMAGE", "SEG", "SR", "REG", "DOC")
_SCOUT = re.compile(r"locali[sz]er|scout|survey|topogram|surview|scanogram|\bloc\b")
_DAMAGED = (
    "a DICOM image that cannot be read: truncated, damaged or in an unknown transfer syntax;"
    " export it anew, uncompressed"
)


def is_dicom(path: Path) -> bool:
    """True for a file with "DICM" after 128 bytes, or one without it that begins as DICOM does."""
    try:
        if not path.is_file():  # a pipe would never end
            return False
        with path.open("rb") as handle:
            head = handle.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or _FIRST_ELEMENT.match(head) is not None


def read_slice(path: Path) -> Slice | str:
    """The slice in a file, from its header only; what to call a file that holds none.

    A slice that cannot be used carries its problem, to be refused with the series that it is of.
    """
    from pydicom import dcmread

    if not is_dicom(path):
        return NOT_DICOM
    try:
        with unsound_files(path, NOT_DICOM), path.open("rb") as handle:
            item = dcmread(handle, stop_before_pixels=True, force=True, specific_tags=[*_HEADER])
            n_bytes = _pixel_bytes(handle, item)
            return _no_slice(item, n_bytes) or _slice(path, item, n_bytes)
    except (DatasetError, MemoryError):  # the latter by a length that no header has
        return NOT_DICOM


def read_pixels(path: Path, *, is_ct: bool) -> NDArray:
    """The pixels of one slice, rescaled: float32 (rows, columns), CT in HU.

    MONOCHROME1 (low is white) is inverted, so that high is bright as in all other images, but not
    for CT: its rescale gives HU, and MONOCHROME1 only tells how to show them.

    Raises:
        DatasetError: the file cannot be read.
    """
    from pydicom import dcmread

    with unsound_files(path, _DAMAGED):
        item = dcmread(path, force=True)
        slope = float(item.get("RescaleSlope") or 1)
        intercept = float(item.get("RescaleIntercept") or 0)
        is_compressed = item["PixelData"].is_undefined_length
        if is_compressed:
            pixels = _decoded(path)
        else:  # files without preamble do not name their transfer syntax
            item.file_meta.TransferSyntaxUID = _SYNTAX + _UNCOMPRESSED[item.original_encoding]
            pixels = item.pixel_array * slope + intercept
        # GDCM, which decodes compressed ones, has inverted MONOCHROME1 already.
        if item.PhotometricInterpretation == "MONOCHROME1" and is_compressed == is_ct:
            ends = -1 if item.PixelRepresentation else 2**item.BitsStored - 1  # low + high
            pixels = ends * slope + 2 * intercept - pixels
    return pixels.astype(np.float32)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's warnings off the terminal; what matters is checked and said in our words."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.disabled = True
        try:
            yield
        finally:
            logger.disabled = before


@contextmanager
def unsound_files(path: Path, what: str) -> Iterator[None]:
    """Keep pydicom quiet while a file is read; whatever it trips over there is a DatasetError.

    What that may be has no end: elements are parsed when they are asked for, by pydicom, numpy,
    struct and codecs. Only memory that ran out says nothing of the file.
    """
    try:
        with quiet_pydicom():
            yield
    except Exception as problem:
        if isinstance(problem, DatasetError) or is_out_of_memory(problem):
            raise
        raise DatasetError(f"{path}: {what}") from None


def _pixel_bytes(handle: BinaryIO, item: Dataset) -> int:
    """Bytes of the pixel data behind a header, or `_COMPRESSED`; 0 if missing or cut off."""
    from pydicom.filereader import data_element_generator

    if item.file_meta.get("TransferSyntaxUID") == f"{_SYNTAX}.1.99":  # deflated with its header
        return _COMPRESSED
    implicit, little = item.original_encoding
    try:
        element = next(data_element_generator(handle, implicit, little, defer_size=1), None)
    except (EOFError, struct.error):
        return 0
    if element is None or element.tag != _PIXEL_DATA:
        return 0
    if element.length == _COMPRESSED:
        return _COMPRESSED
    is_cut = element.value_tell + element.length > os.fstat(handle.fileno()).st_size
    return 0 if is_cut else element.length


def _no_slice(item: Dataset, n_bytes: int) -> str | None:
    """What to call an object that is no slice of a volume."""
    from pydicom.uid import UID

    modality = _text(item, "Modality")
    if modality in _NO_SCANS:
        return modality
    is_localizer = "LOCALIZER" in _text(item, "ImageType").split("\\")
    if is_localizer or _SCOUT.search(str(item.get("SeriesDescription", "")).casefold()):
        return "scouts"
    if not n_bytes:
        own, first = _text(item, "SOPClassUID"), _text(item.file_meta, "MediaStorageSOPClassUID")
        if "Image Storage" not in UID(own).name + UID(first).name:  # either may be damaged
            return "objects without an image" if UID(own or first).is_valid else NOT_DICOM
        return None if _text(item, "SeriesInstanceUID") else NOT_DICOM  # cut off
    return None


def _slice(path: Path, item: Dataset, n_bytes: int) -> Slice:
    values: dict[str, Any] = {name: _text(item, keyword) for name, keyword in _TEXTS.items()}
    try:
        problem = _why_unfit(item, n_bytes)
        if problem is None:
            values |= _place(item)
    except (AttributeError, TypeError, ValueError):
        problem = "position, orientation, pixel spacing or bits are no numbers; export it anew"
    description = str(item.get("SeriesDescription") or "")
    return Slice(
        path=path,
        patient=str(item.get("PatientID") or ""),
        description="".join(c if c.isprintable() else "?" for c in description),
        passes=tuple(_text(item, keyword) for keyword in PASSES),
        problem=problem,
        **values,
    )


def _why_unfit(item: Dataset, n_bytes: int) -> str | None:
    """Why an image is no slice of a volume."""
    from pydicom.uid import AllTransferSyntaxes

    syntax = item.file_meta.get("TransferSyntaxUID") or _SYNTAX
    if syntax not in AllTransferSyntaxes:
        return f"its transfer syntax {str(syntax)!r} is unknown; export it anew, uncompressed"
    if not n_bytes:
        return _DAMAGED
    if _text(item, "NumberOfFrames") not in ("", "1"):
        return "enhanced multi-frame images are not supported; export them as single-frame images"
    if not all(_text(item, keyword) for keyword in _PLACE):
        return NO_PLACE
    if not _text(item, "SeriesInstanceUID"):
        return "has no SeriesInstanceUID, which says what belongs together; export it anew"
    return _why_odd_pixels(item, n_bytes)


def _why_odd_pixels(item: Dataset, n_bytes: int) -> str | None:
    """Why the pixels of an image have no possible size, or are not one grey value each."""
    spacing = _numbers(item, "PixelSpacing")
    if not SPACINGS[0] <= min(spacing) <= max(spacing) <= SPACINGS[1]:
        return f"its pixels of {spacing[0]:g} x {spacing[-1]:g} mm cannot be; export it anew"
    is_ct = _text(item, "Modality") == "CT"
    for keyword, largest in (_RESCALE_CT if is_ct else _RESCALE).items():
        values = _numbers(item, keyword)
        if is_ct and not values:
            return f"has no {keyword}, without which a CT is not in HU; export it anew"
        for value in values:
            if abs(value) > largest or (value == 0 and keyword == "RescaleSlope"):
                return f"its {keyword} of {value:g} cannot be; export it anew"
    is_grey = _text(item, "PhotometricInterpretation").startswith("MONOCHROME")
    if item.SamplesPerPixel != 1 or not is_grey:
        return "its images are in colour; give the original scan"
    n_pixels, bits = item.Rows * item.Columns, item.BitsAllocated
    is_fitting = n_pixels * bits <= 8 * n_bytes < 2 * n_pixels * bits  # some have padding
    if n_bytes != _COMPRESSED and not is_fitting:
        return f"has {n_bytes} bytes for {n_pixels} pixels of {bits} bits; export it anew"
    if item.HighBit != item.BitsStored - 1 or not 0 < item.BitsStored <= bits:
        return (
            f"its pixels have {item.BitsStored} of {bits} bits up to bit {item.HighBit}, which the"
            " standard does not allow; export it anew"
        )
    return None


def _place(item: Dataset) -> dict[str, Any]:
    """Where the pixels of an image lie, as in `Slice`."""
    position, cosines, spacing = (tuple(_numbers(item, keyword)) for keyword in _PLACE)
    if (len(position), len(cosines), len(spacing)) != (3, 6, 2):
        raise ValueError(_PLACE)
    return {
        "position": position,
        "axes": (cosines[:3], cosines[3:]),
        "spacing": spacing,
        "shape": (int(item.Rows), int(item.Columns)),
        "thickness": next(iter(_numbers(item, "SliceThickness")), None),
    }


def _numbers(item: Dataset, keyword: str) -> list[float]:
    text = _text(item, keyword)
    values = [float(part) for part in text.split("\\")] if text else []
    if not np.isfinite(values).all():
        raise ValueError(text)
    return values


def _text(item: Dataset, keyword: str) -> str:
    """An ASCII value as it is in the file, but for its padding; "" if it is missing."""
    element = item.get_item(keyword, keep_deferred=True)
    if element is None:
        return ""
    value = element.value or b""
    if len(value) < element.length:
        raise EOFError(keyword)
    return value.decode("ascii", "replace").strip(" \0")


def _decoded(path: Path) -> NDArray:
    """Pixels (rows, columns) of a compressed image, rescaled."""
    str(path).encode()  # SimpleITK would end the process over a name that is not UTF-8
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.ReadImage(str(path), sitk.sitkFloat32, imageIO="GDCMImageIO")
    return sitk.GetArrayFromImage(image)[0]
