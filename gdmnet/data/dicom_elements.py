"""A DICOM file from its data elements: explicit VR, little endian, nothing that was not given.

GDCM is not used to write: SimpleITK hands it text as UTF-8 only, which the names of patients often
are not, and it adds elements of its own, such as today as the date of a study that has none.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from pathlib import Path

from gdmnet import __version__

Elements = dict[int, tuple[str, bytes]]
"""Tag, as 0x00100010 -> value representation and value, as in the file but for the padding."""

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_IMPLEMENTATION = f"2.25.{uuid.uuid5(uuid.NAMESPACE_DNS, 'gdmnet').int}"
_LONG_LENGTH = ("OB", "OW")  # two bytes reserved and four of length, instead of two of length


def new_uid() -> str:
    """A UID that is unique in the world: 2.25 and a random UUID as a decimal number (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def decimal_string(value: float) -> str:
    """A number as DS: at most 16 characters, ten decimals where they fit, never an exponent."""
    for decimals in range(10, 0, -1):
        text = f"{round(value, decimals) + 0.0:.{decimals}f}".rstrip("0").rstrip(".")
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} has more digits than DICOM can hold")


def write_dicom(path: Path, elements: Elements) -> None:
    """Write one file; the SOP class and instance UID in its meta information are the data set's.

    Raises:
        OSError: the file cannot be written.
    """
    meta: Elements = {
        0x00020001: ("OB", b"\0\1"),
        0x00020002: ("UI", elements[0x00080016][1]),
        0x00020003: ("UI", elements[0x00080018][1]),
        0x00020010: ("UI", EXPLICIT_LITTLE_ENDIAN.encode()),
        0x00020012: ("UI", _IMPLEMENTATION.encode()),
        0x00020013: ("SH", f"GDMNET_{__version__}"[:16].encode()),
    }
    head = _encode(meta)
    length = _encode({0x00020000: ("UL", struct.pack("<I", len(head)))})
    path.write_bytes(bytes(128) + b"DICM" + length + head + _encode(elements))


def _encode(elements: Mapping[int, tuple[str, bytes]]) -> bytes:
    parts = []
    for tag, (kind, value) in sorted(elements.items()):
        if len(value) % 2:
            value += b"\0" if kind in ("UI", "OB", "OW") else b" "
        form = "<HH2sxxI" if kind in _LONG_LENGTH else "<HH2sH"
        parts += [struct.pack(form, tag >> 16, tag & 0xFFFF, kind.encode(), len(value)), value]
    return b"".join(parts)
