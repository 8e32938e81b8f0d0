"""One DICOM file: is it one, what is in it, its header, its pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from gdmnet.errors import DatasetError

_TAGS = {
    "uid": "0008|0018",
    "image_type": "0008|0008",
    "modality": "0008|0060",
    "description": "0008|103e",
    "patient": "0010|0020",
    "study": "0020|000d",
    "series": "0020|000e",
    "frame": "0020|0052",
    "position": "0020|0032",
    "orientation": "0020|0037",
    "pixel_spacing": "0028|0030",
    "thickness": "0018|0050",
    "samples": "0028|0002",
    "frames": "0028|0008",
    "rows": "0028|0010",
    "columns": "0028|0011",
}
_PHOTOMETRIC, _BITS_STORED, _IS_SIGNED = "0028|0004", "0028|0101", "0028|0103"
_INTERCEPT, _SLOPE = "0028|1052", "0028|1053"

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_IMAGES = ("2", "2.1", "4", "4.1", "20", "128", "130")  # CT, MR, NM, PET; with the enhanced forms
_NO_IMAGES = {
    "481.3": "RTSTRUCT",
    "481.5": "RTPLAN",
    "66": "raw data",
    "66.1": "registration",
    "104.1": "PDF",
}
"""SOP classes without pixels by their last components, as a person calls them."""


@dataclass(frozen=True)
class Header:
    """What is read of an image's header, as text; "" where the header lacks it."""

    uid: str
    image_type: str
    modality: str
    description: str
    patient: str
    study: str
    series: str
    frame: str
    position: str
    orientation: str
    pixel_spacing: str
    thickness: str
    samples: str
    frames: str
    rows: str
    columns: str


def is_dicom(path: Path) -> bool:
    """True for a file with the mark of DICOM files ("DICM" after 128 bytes)."""
    try:
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: Path) -> Header | str:
    """The header of a DICOM image; what to call the object in a file that holds no image.

    Raises:
        DatasetError: the file says that it is an image, but cannot be read.
    """
    try:
        reader = open_image(path)
    except DatasetError:
        kind = _sop_class(path).removeprefix(_STORAGE)
        if kind in _IMAGES:
            raise
        return "SR" if kind.startswith("88.") else _NO_IMAGES.get(kind, "objects without an image")
    return Header(**{name: value_of(reader, tag) for name, tag in _TAGS.items()})


def read_pixels(path: Path, *, is_ct: bool) -> NDArray:
    """The pixels of one slice, rescaled: float32 (rows, columns), CT in HU.

    MONOCHROME1 (low is white) is inverted, so that high is bright as in all other images, but not
    for CT: its rescale gives HU, and MONOCHROME1 only tells how to show them.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        image = sitk.ReadImage(str(path), sitk.sitkFloat32, imageIO="GDCMImageIO")
    except RuntimeError:
        raise _damaged(path) from None
    pixels: NDArray = sitk.GetArrayFromImage(image)[0]
    if is_ct and value_of(image, _PHOTOMETRIC) == "MONOCHROME1":
        return _not_inverted(pixels, image)
    return pixels


def open_image(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header of a DICOM image.

    Raises:
        DatasetError: the file holds no image or is damaged.
    """
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise _damaged(path) from None
    return reader


def value_of(header: sitk.ImageFileReader | sitk.Image, tag: str) -> str:
    """The value of a tag ("0010|0020") without its padding, "" where it is missing.

    Bytes that are not UTF-8 come as surrogates: `encode("utf-8", "surrogateescape")` gives them
    back as they are in the file.
    """
    return str(header.GetMetaData(tag)).strip(" \0") if header.HasMetaDataKey(tag) else ""


def _not_inverted(pixels: NDArray, image: sitk.Image) -> NDArray:
    """Undo GDCM's inversion: it rescales (top - stored), where `top` has all bits set."""
    slope = float(value_of(image, _SLOPE) or 1)
    intercept = float(value_of(image, _INTERCEPT) or 0)
    is_signed = value_of(image, _IS_SIGNED) == "1"
    top = -1 if is_signed else 2 ** int(value_of(image, _BITS_STORED)) - 1
    return slope * top + 2 * intercept - pixels


def _sop_class(path: Path) -> str:
    """MediaStorageSOPClassUID of the meta information, which no transfer syntax encodes."""
    with path.open("rb") as handle:
        meta = handle.read(1024)
    at = meta.find(struct.pack("<HH2s", 0x0002, 0x0002, b"UI"), 132)
    if at < 0:
        return ""
    (length,) = struct.unpack_from("<H", meta, at + 6)
    return meta[at + 8 : at + 8 + length].decode("ascii", "replace").strip(" \0")


def _damaged(path: Path) -> DatasetError:
    return DatasetError(
        f"{path}: a DICOM image that cannot be read: truncated, damaged or in an unknown transfer"
        " syntax; export it anew, uncompressed"
    )
