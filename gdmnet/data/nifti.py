"""NIfTI-1 headers: two placements in the patient, of which one has to be right.

The axes of a NIfTI file are those of its patient's right, front and head (RAS); here all is LPS.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gdmnet.data.header import ImageHeader, damaged, make_geometry
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry, NiftiForms, grid_difference, shown

_HEADER, _FIRST_VOXEL = 348, 352  # bytes
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"}
_TYPES |= {256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_TO_LPS = np.array([-1.0, -1.0, 1.0])
_MM, _OTHER_UNITS = 2, {1: "metres", 3: "micrometres"}  # of xyzt_units; 0 is unknown
_SCANNER = 1  # code of a form


def read_nifti_header(path: Path, header: bytes, form: str | None = None) -> ImageHeader:
    """The header of a NIfTI-1 file, given its first 348 bytes, unpacked.

    The form, "sform" or "qform", decides where the two differ.

    Raises:
        DatasetError: impossible, or sform and qform differ.
    """
    if len(header) < _HEADER:
        raise damaged(path, "the NIfTI header is not complete")
    order = next((o for o in "<>" if struct.unpack_from(o + "i", header)[0] == _HEADER), None)
    if header[4:8] == b"n+2\0":
        raise DatasetError(f"{path}: is NIfTI-2; store it as NIfTI-1")
    if order is None or header[344:347] != b"n+1":
        raise damaged(path, "no NIfTI-1 header")
    n_axes, *sides = struct.unpack_from(order + "8h", header, 40)
    if not 2 <= n_axes <= 7:
        raise DatasetError(f"{path}: the header gives the size of {n_axes} axes; correct it")
    code = struct.unpack_from(order + "h", header, 70)[0]
    if code not in _TYPES:
        raise DatasetError(
            f"{path}: NIfTI voxel type {code} is no real number; store a plain image"
        )
    offset, slope, intercept = struct.unpack_from(order + "3f", header, 108)
    if not _FIRST_VOXEL <= offset <= 1 << 30:
        raise DatasetError(
            f"{path}: the header says that voxels begin at byte {offset:g}, but in one file they"
            f" do from {_FIRST_VOXEL} on; correct vox_offset"
        )
    if unit := _OTHER_UNITS.get(header[123] & 7):
        raise DatasetError(f"{path}: NIfTI units {unit}; store it in mm")
    is_scaled = math.isfinite(slope) and math.isfinite(intercept) and slope != 0
    return ImageHeader(
        _geometry(path, sides[:n_axes], _forms(header, order), form),
        np.dtype(order + _TYPES[code]),
        int(offset),
        scaling=(slope, intercept) if is_scaled else (1.0, 0.0),
    )


def nifti_header(geometry: Geometry, kind: np.dtype) -> bytes:
    """The header of a NIfTI-1 file in front of its voxels; the forms are its source's."""
    forms = geometry.forms or _forms_of(geometry)
    header = bytearray(_FIRST_VOXEL)
    struct.pack_into("<i", header, 0, _HEADER)
    header[38:39] = b"r"
    struct.pack_into("<8h", header, 40, 3, *geometry.stored_shape[::-1], 1, 1, 1, 1)
    code = next(code for code, name in _TYPES.items() if name == kind.str[1:])
    struct.pack_into("<2h", header, 70, code, 8 * kind.itemsize)
    struct.pack_into("<4f", header, 76, *forms.pixdim)
    struct.pack_into("<3f", header, 108, _FIRST_VOXEL, 1, 0)
    header[123] = _MM
    struct.pack_into("<2h18f", header, 252, *forms.codes, *forms.qform, *forms.sform)
    header[344:348] = b"n+1\0"
    return bytes(header)


def _forms(header: bytes, order: str) -> NiftiForms:
    handed, *spacing = struct.unpack_from(order + "4f", header, 76)
    q_code, s_code, *numbers = struct.unpack_from(order + "2h18f", header, 252)
    return NiftiForms(
        codes=(max(q_code, 0), max(s_code, 0)),
        pixdim=(-1.0 if handed < 0 else 1.0, *(abs(width) for width in spacing)),
        qform=tuple(numbers[:6]),
        sform=tuple(numbers[6:]),
    )


def _geometry(path: Path, sides: list[int], forms: NiftiForms, wanted: str | None) -> Geometry:
    """The grid by the wanted form, or by the one that is there, or by both where they agree."""
    names = [name for name, code in zip(("qform", "sform"), forms.codes, strict=True) if code]
    grids, problems = {}, []
    for name in names or ["none"]:
        try:
            grids[name] = _grid(path, sides, forms, name, is_wanted=name == wanted)
        except DatasetError as problem:
            problems.append(problem)
    if not grids:
        raise problems[0]
    difference = str(problems[0]).removeprefix(f"{path}: ") if problems else None
    if len(grids) == 2 and (difference := grid_difference(*grids.values())):
        origins = " and ".join(shown(grid.itk_origin) for grid in grids.values())
        difference += f"; origins {origins} mm (x, y, z)"
    if difference and wanted not in grids:
        raise DatasetError(
            f"{path}: its qform and its sform place it differently: {difference}; decide with"
            " --nifti-form qform or sform, or by $gdmnet_nifti_form"
        )
    chosen = grids[wanted] if difference and wanted else grids[list(grids)[-1]]  # sform: exact
    kept = _finite(forms, chosen)
    return replace(chosen, forms=replace(kept, decided=wanted) if difference else kept)


def _grid(
    path: Path, sides: list[int], forms: NiftiForms, name: str, *, is_wanted: bool
) -> Geometry:
    """The grid by one form, or where there is none by the spacing alone."""
    spacing = np.array(forms.pixdim[1:])
    if len(sides) == 2 and not spacing[2] > 0:
        spacing[2] = 1
    if name == "none":
        plain = make_geometry(path, sides, spacing.tolist(), (0.0, 0.0, 0.0), np.eye(3))
        return replace(plain, is_oriented=False)
    if name == "qform":
        direction, origin = _qform_direction(path, forms), forms.qform[3:]
    else:
        rows = np.reshape(forms.sform, (3, 4))
        direction, origin = rows[:, :3], rows[:, 3].tolist()
        widths = np.sqrt((direction**2).sum(axis=0))
        with np.errstate(invalid="ignore", divide="ignore"):
            direction = direction / widths
    placed = (np.array(origin) * _TO_LPS).tolist()
    direction = direction * _TO_LPS[:, None]
    if name == "qform" or np.allclose(widths, spacing, rtol=1e-3, atol=0):
        return make_geometry(path, sides, spacing.tolist(), placed, direction)
    grid = make_geometry(path, sides, widths.tolist(), placed, direction)
    if forms.codes[0] or is_wanted:
        return grid
    raise DatasetError(
        f"{path}: its sform gives the spacing {shown(widths)}, its pixdim {shown(spacing)} mm;"
        " correct it, or take the sform with --nifti-form sform (or $gdmnet_nifti_form)"
    )


def _qform_direction(path: Path, forms: NiftiForms) -> NDArray:
    b, c, d = forms.qform[:3]
    rest = 1 - (b * b + c * c + d * d)
    if not rest > -1e-3:  # NaN, too
        raise DatasetError(f"{path}: its qform is no rotation; correct it")
    rotation = Rotation.from_quat([b, c, d, math.sqrt(max(rest, 0.0))]).as_matrix()
    return np.asarray(rotation * (1, 1, forms.pixdim[0]))


def _finite(forms: NiftiForms, grid: Geometry) -> NiftiForms:
    """The forms without what is no number, and with the spacing that the grid has."""
    q_code, s_code = forms.codes
    is_qform, is_sform = (np.isfinite(form).all() for form in (forms.qform, forms.sform))
    widths = grid.itk_spacing
    agree = np.allclose(forms.pixdim[1:], widths, rtol=1e-3, atol=0)
    keeps = not agree and np.isfinite(forms.pixdim).all()
    return NiftiForms(
        codes=(q_code * int(is_qform), s_code * int(is_sform)),
        pixdim=forms.pixdim if keeps else (forms.pixdim[0], *widths),
        qform=forms.qform if is_qform else (0.0,) * 6,
        sform=forms.sform if is_sform else (0.0,) * 12,
    )


def _forms_of(geometry: Geometry) -> NiftiForms:
    """Both forms of a grid that comes from another format."""
    direction = np.reshape(geometry.itk_direction, (3, 3)) * _TO_LPS[:, None]
    handed = 1.0 if np.linalg.det(direction) > 0 else -1.0
    quaternion = Rotation.from_matrix(direction * (1, 1, handed)).as_quat()
    b, c, d, _ = (quaternion * (1 if quaternion[3] >= 0 else -1)).tolist()
    origin = np.array(geometry.itk_origin) * _TO_LPS
    rows = np.column_stack([direction * geometry.itk_spacing, origin])
    return NiftiForms(
        codes=(_SCANNER, _SCANNER),
        pixdim=(handed, *geometry.itk_spacing),
        qform=(b, c, d, *origin.tolist()),
        sform=tuple(rows.ravel().tolist()),
    )
