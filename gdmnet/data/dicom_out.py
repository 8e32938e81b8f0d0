"""Write a predicted CT as a DICOM series beside its source, for a treatment planning system.

The attributes are those of the CT Image IOD (DICOM PS3.3 A.3). Patient, study and frame of
reference are copied from the source's series, byte for byte; nothing else is: what a scanner says
about its acquisition would be wrong for a computed image.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from gdmnet import __version__
from gdmnet.data.case import Series, Volume
from gdmnet.data.dicom_elements import Elements, decimal_string, new_uid, write_dicom
from gdmnet.data.dicom_file import open_image, value_of
from gdmnet.data.regrid import axial_grid, regrid
from gdmnet.errors import DatasetError, OutputError
from gdmnet.geometry import Geometry, to_stored

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
GRIDS: dict[str, Callable[[Geometry], Geometry]] = {"axial": axial_grid, "source": lambda g: g}
"""Grids of the written series: axial with square pixels, or the source's own."""

_AIR = -1024  # HU: no CT has less, so it is both the intercept and the lowest value written
_COPIED_OR_EMPTY = {  # type 2: must be there, may be empty
    0x00080020: "DA",  # study date
    0x00080030: "TM",  # study time
    0x00080050: "SH",  # accession number
    0x00080090: "PN",  # referring physician
    0x00100010: "PN",  # patient's name
    0x00100020: "LO",  # patient's ID
    0x00100030: "DA",  # birth date
    0x00100040: "CS",  # sex
    0x00185100: "CS",  # patient position
    0x0020000D: "UI",  # study
    0x00200010: "SH",  # study's ID
    0x00200052: "UI",  # frame of reference
    0x00201040: "LO",  # position reference indicator
}
_COPIED_IF_THERE = {
    0x00080005: "CS",  # character set of the copied texts
    0x00081030: "LO",  # study's description
    0x00100021: "LO",  # issuer of the patient's ID
    0x00120062: "CS",  # patient identity removed
    0x00120063: "LO",  # de-identification method
}


@dataclass(frozen=True)
class Maker:
    """Who made the volume, in ASCII.

    Attributes:
        model: for the description of the series, such as "Dataset510_MRtoCT gdm__3d_fullres".
        details: which weights and folds.
    """

    model: str
    details: str


def write_ct_series(
    folder: Path, volume: Volume, template: Series, maker: Maker, *, grid: str = "axial"
) -> None:
    """Write a CT as a new series of the template's patient, study and frame of reference.

    The whole series or nothing: it is written aside and renamed; a folder that is there is
    replaced. Values are rounded to whole HU; below -1024 HU, which only padding has, they become
    -1024.

    Args:
        folder: of the series, CT_0001.dcm from the feet upwards (along the slices' normal).
        volume: float32 (1, z, y, x) in HU, in the template's frame of reference.
        template: the series that the volume was made from.
        maker: named in the descriptions.
        grid: a name in `GRIDS`.

    Raises:
        DatasetError: the template lacks its study or frame of reference, or cannot be read.
        OutputError: the folder cannot be written.
    """
    require_template(template)
    wanted = GRIDS[grid](volume.geometry)
    moved = regrid(volume, wanted, fill=_AIR)
    is_copy = moved.array is volume.array
    common = {
        **_copied(template),
        **_described(template, maker, None if is_copy else grid),
        **_pixel_format(wanted),
    }
    aside = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for number, elements in enumerate(_slices(moved), start=1):
            write_dicom(aside / f"CT_{number:04d}.dcm", {**common, **elements})
        if folder.exists():
            shutil.rmtree(folder)
        aside.replace(folder)
    except OSError as problem:
        raise OutputError(
            f"{folder}: cannot be written ({problem.strerror}); check the folder's permissions and"
            " free space"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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


def _copied(template: Series) -> Elements:
    """Patient, study and frame of the template's first slice, byte for byte."""
    header = open_image(template.files[0])
    elements: Elements = {}
    for tag, kind in (_COPIED_OR_EMPTY | _COPIED_IF_THERE).items():
        text = value_of(header, f"{tag >> 16:04x}|{tag & 0xFFFF:04x}")
        if text or tag in _COPIED_OR_EMPTY:
            elements[tag] = kind, text.encode("utf-8", "surrogateescape")
    if elements.get(0x00120062) == ("CS", b"YES"):  # the method may stand in a sequence there
        elements.setdefault(0x00120063, ("LO", b"as the source series"))
    return elements


def _described(template: Series, maker: Maker, resampled: str | None) -> Elements:
    """What the series is and who made it."""
    now = datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    how = f", resampled to an {resampled} grid" if resampled else ""
    derivation = (
        f"Synthetic CT computed from a series of modality {template.modality} by gdmnet"
        f" {__version__}, model {maker.model}{how}. {maker.details}. Not for diagnosis without"
        " validation."
    )
    return {
        0x00080008: ("CS", b"DERIVED\\SECONDARY\\AXIAL"),
        **{tag: ("DA", date.encode()) for tag in (0x00080012, 0x00080021, 0x00080023)},
        **{tag: ("TM", time.encode()) for tag in (0x00080013, 0x00080031, 0x00080033)},
        0x00080016: ("UI", CT_IMAGE_STORAGE.encode()),
        0x0008001C: ("CS", b"YES"),  # synthetic data
        0x00080060: ("CS", b"CT"),
        0x00080070: ("LO", b"gdmnet"),  # manufacturer
        0x0008103E: ("LO", _ascii(f"gdmnet {__version__} {maker.model}", 64)),
        0x00081090: ("LO", b"gdmnet"),  # manufacturer's model name
        0x00082111: ("ST", _ascii(derivation, 1024)),
        0x00180060: ("DS", b""),  # KVP: no tube was there; the standard allows it to be empty
        0x00181020: ("LO", _ascii(__version__, 64)),
        0x0020000E: ("UI", new_uid().encode()),
        0x00200011: ("IS", b"1000"),  # series number: behind those of scanners
        0x00200012: ("IS", b""),  # acquisition number
        0x00280301: ("CS", b"NO"),  # burned-in annotation
    }


def _pixel_format(geometry: Geometry) -> Elements:
    """Grid and values: all that is the same for every slice."""
    direction = np.reshape(geometry.itk_direction, (3, 3))
    x, y, z = geometry.itk_spacing
    _, rows, columns = (geometry.shape[axis] for axis in np.argsort(geometry.axes))
    return {
        0x00180050: ("DS", _decimals([z])),  # slice thickness
        0x00180088: ("DS", _decimals([z])),  # spacing between slices
        0x00200037: ("DS", _decimals([*direction[:, 0], *direction[:, 1]])),
        0x00280002: ("US", _short(1)),  # samples per pixel
        0x00280004: ("CS", b"MONOCHROME2"),
        0x00280010: ("US", _short(rows)),
        0x00280011: ("US", _short(columns)),
        0x00280030: ("DS", _decimals([y, x])),  # between rows, between columns
        0x00280100: ("US", _short(16)),  # bits allocated
        0x00280101: ("US", _short(16)),  # bits stored
        0x00280102: ("US", _short(15)),  # high bit
        0x00280103: ("US", _short(1)),  # signed
        0x00281050: ("DS", b"40"),  # window for viewers: soft tissue
        0x00281051: ("DS", b"400"),
        0x00281052: ("DS", str(_AIR).encode()),  # rescale intercept
        0x00281053: ("DS", b"1"),  # rescale slope
        0x00281054: ("LO", b"HU"),  # rescale type
    }


def _slices(volume: Volume) -> Iterator[Elements]:
    """What differs from slice to slice, upwards along the normal of the slices."""
    geometry = volume.geometry
    direction = np.reshape(geometry.itk_direction, (3, 3))
    normal = np.cross(direction[:, 0], direction[:, 1])
    hounsfield = np.clip(np.rint(to_stored(volume.array[0], geometry)), _AIR, None)
    highest = np.iinfo(np.int16).max
    pixels = np.minimum(hounsfield - _AIR, highest).astype("<i2")
    step = geometry.itk_spacing[2] * direction[:, 2]
    places = [np.array(geometry.itk_origin) + k * step for k in range(len(pixels))]
    upwards = sorted(range(len(pixels)), key=lambda k: float(np.dot(normal, places[k])))
    for number, k in enumerate(upwards, start=1):
        yield {
            0x00080018: ("UI", new_uid().encode()),
            0x00200013: ("IS", str(number).encode()),  # instance number
            0x00200032: ("DS", _decimals(places[k])),
            0x00201041: ("DS", _decimals([np.dot(normal, places[k])])),  # slice location
            0x7FE00010: ("OW", pixels[k].tobytes()),
        }


def _decimals(numbers: Iterable[float]) -> bytes:
    return "\\".join(decimal_string(float(number)) for number in numbers).encode()


def _short(number: int) -> bytes:
    return struct.pack("<H", number)


def _ascii(text: str, length: int) -> bytes:
    """Text that every character set of the copied elements agrees on; backslash would split it."""
    return text.encode("ascii", "replace").replace(b"\\", b"/")[:length]
