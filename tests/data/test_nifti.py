"""Both placements of a NIfTI file are read, compared, decided between, and written back."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from gdmnet.data.volume import read_geometry, read_volume, write_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import lps_frame, placement_note

SPACING = (1.5, 1.25, 3.0)
ORIGIN = (-20.0, -25.0, 30.0)  # RAS


def turned(degrees, shift=0.0):
    """Rotation about z and the origin, in RAS."""
    angle = np.deg2rad(degrees)
    rotation = np.eye(3)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return rotation, np.add(ORIGIN, (shift, 0, 0))


def nifti(q_code=1, s_code=1, *, sform_turn=(0.0, 0.0), sform=None, pixdim=SPACING, **fields):
    """The bytes of a file of 4 x 3 x 2 voxels whose qform is not turned."""
    header = bytearray(352)
    values = {"dim": (3, 4, 3, 2, 1, 1, 1, 1), "vox_offset": 352.0, "first": 1.0} | fields
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into(f"<{len(values['dim'])}h", header, 40, *values["dim"])
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<4f", header, 76, values["first"], *pixdim)
    struct.pack_into("<3f", header, 108, values["vox_offset"], 1, 0)
    if sform is None:
        rotation, origin = turned(*sform_turn)
        sform = np.column_stack([rotation * SPACING, origin])
    struct.pack_into("<2h", header, 252, q_code, s_code)
    struct.pack_into("<6f", header, 256, *values.get("quaternion", (0, 0, 0)), *ORIGIN)
    struct.pack_into("<12f", header, 280, *np.ravel(sform))
    header[123] = values.get("units", 0)
    header[344:348] = b"n+1\0"
    return bytes(header) + np.arange(24, dtype="<i2").tobytes()


def ras_affine(path):
    """The affine by the file's sform, as nibabel, FSL and MONAI see it."""
    data = path.read_bytes()
    data = gzip.decompress(data) if path.name.endswith("gz") else data
    return np.reshape(struct.unpack_from("<12f", data, 280), (3, 4))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a_0000.nii"


@pytest.mark.parametrize("codes", [(1, 2), (1, 4), (2, 2), (1, 1)])
def test_forms_that_differ_are_refused_until_one_is_chosen(file, monkeypatch, codes):
    file.write_bytes(nifti(*codes, sform_turn=(10, 12)))
    with pytest.raises(DatasetError, match=r"differently: direction .*origins \(20, 25, 30\) and "):
        read_geometry(file)
    for form, x in (("qform", 20.0), ("sform", 8.0)):
        monkeypatch.setenv("gdmnet_nifti_form", form)
        geometry = read_geometry(file)
        assert geometry.itk_origin == pytest.approx((x, 25, 30), abs=1e-5)
        assert form in placement_note(geometry)
        assert geometry.spacing == pytest.approx(SPACING[::-1])


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 4), (0, 0)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_what_is_written_carries_the_forms_and_codes_of_its_source(file, tmp_path, codes, ending):
    file.write_bytes(nifti(*codes))
    output = tmp_path / f"out{ending}"
    volume = read_volume(file)
    write_volume(output, volume, integer=True)
    data = output.read_bytes()
    data = gzip.decompress(data) if ending.endswith("gz") else data
    assert data[76:92] == file.read_bytes()[76:92]
    assert data[252:328] == file.read_bytes()[252:328]
    assert data[352:] == file.read_bytes()[352:]
    assert read_geometry(output) == volume.geometry
    assert ("guess" in (placement_note(volume.geometry) or "")) == (codes == (0, 0))


def test_a_prediction_by_the_sform_lies_where_others_see_its_source(file, tmp_path, monkeypatch):
    file.write_bytes(nifti(1, 2, sform_turn=(10, 12)))
    monkeypatch.setenv("gdmnet_nifti_form", "sform")
    write_volume(tmp_path / "out.nii.gz", read_volume(file))
    np.testing.assert_array_equal(ras_affine(tmp_path / "out.nii.gz"), ras_affine(file))
    origin, direction = lps_frame(read_geometry(file))
    rotation, ras_origin = turned(10, 12)
    corner = ras_origin + rotation @ (np.array([3, 2, 0]) * SPACING)  # the voxel first in LPS
    np.testing.assert_allclose(origin, corner * (-1, -1, 1), atol=1e-4)
    np.testing.assert_allclose(direction, rotation, atol=1e-6)


SHEARED = np.array([[1.5, 0.5, 0, -20], [0, 1.25, 0, -25], [0, 0, 3, 30]])


@pytest.mark.parametrize("sform", [SHEARED, np.zeros((3, 4)), np.full((3, 4), np.nan)])
def test_an_sform_that_is_no_grid_is_refused_beside_a_sound_qform(file, monkeypatch, sform):
    file.write_bytes(nifti(1, 1, sform=sform))
    with pytest.raises(DatasetError, match="its qform and its sform place it differently"):
        read_geometry(file)
    monkeypatch.setenv("gdmnet_nifti_form", "sform")
    with pytest.raises(DatasetError, match="its qform and its sform place it differently"):
        read_geometry(file)
    monkeypatch.setenv("gdmnet_nifti_form", "qform")
    assert read_geometry(file).itk_origin == (20, 25, 30)
    file.write_bytes(nifti(0, 1, sform=sform))
    with pytest.raises(DatasetError, match=r"right angles|spacing"):
        read_geometry(file)


def test_a_spacing_that_its_sform_does_not_have_is_refused(file, monkeypatch):
    file.write_bytes(nifti(0, 1, pixdim=(3.6, 1.25, 3.0)))
    with pytest.raises(DatasetError, match=r"sform gives the spacing \(1.5, .*pixdim \(3.6"):
        read_geometry(file)
    monkeypatch.setenv("gdmnet_nifti_form", "sform")
    assert read_geometry(file).spacing == pytest.approx(SPACING[::-1])


def test_axes_that_rounding_turned_are_set_at_right_angles(file):
    noise = np.random.default_rng(0).normal(0, 2e-4, (3, 3))
    sform = np.column_stack([(np.eye(3) + noise / 3) * SPACING, ORIGIN])
    file.write_bytes(nifti(0, 1, sform=sform))
    direction = np.reshape(read_geometry(file).itk_direction, (3, 3))
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.abs(direction), np.eye(3), atol=1e-3)


def test_spacings_below_zero_are_lengths_all_the_same(file):
    file.write_bytes(nifti(1, 1, pixdim=tuple(-width for width in SPACING)))
    assert read_geometry(file).spacing == SPACING[::-1]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"pixdim": (0.0015, 0.00125, 0.003)}, r"spacing \(0.0015, .*0.02 to 60 mm"),
        ({"pixdim": (1e9, 1e9, 1e9)}, "spacing"),
        ({"pixdim": (np.nan, 1.0, 1.0)}, "spacing"),
        ({"units": 3, "pixdim": (50.0, 50.0, 50.0)}, "units micrometres; store it in mm"),
        ({"units": 8 + 1}, "units metres; store it in mm"),  # 8 is of the time
        ({"dim": (1, 24, 1, 1)}, "size of 1 axes"),
        ({"dim": (9, 4, 3, 2, 1, 1, 1, 1)}, "size of 9 axes"),
        ({"dim": (0, 4, 3, 2)}, "gives the size"),
        ({"dim": (3, 4, -3, 2)}, "gives the size"),
        ({"dim": (3, 32767, 32767, 32767)}, "48 of 7036"),
        ({"vox_offset": np.nan}, "voxels begin at byte nan"),
        ({"vox_offset": -1.0}, "voxels begin at byte -1"),
        ({"vox_offset": 1e38}, "voxels begin at byte"),
        ({"vox_offset": 3000.0}, "bytes of voxels are there"),
        ({"quaternion": (5.0, 5.0, 5.0), "s_code": 0}, "no rotation"),
        ({"quaternion": (np.nan, 0, 0), "s_code": 0}, "no rotation"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_impossible_header_is_one_line(file, fields, complaint, pack, capfd):
    if pack is gzip.compress and ("vox_offset" in fields or fields.get("dim", (0, 0))[1] > 999):
        complaint = "byte"
    if "pixdim" in fields:
        fields = {**fields, "s_code": 0}
    file.write_bytes(pack(nifti(**fields)))
    with pytest.raises(DatasetError, match=complaint) as caught:
        read_volume(file)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_gzip_is_seen_whatever_the_name_and_what_lies_behind_it_is_named(file):
    expected = np.arange(24).reshape(2, 3, 4)[:, ::-1, ::-1]
    file.write_bytes(gzip.compress(nifti()))
    np.testing.assert_array_equal(read_volume(file).array[0], expected)
    whole = nifti()
    file.write_bytes(gzip.compress(whole[:370]) + gzip.compress(whole[370:]))
    np.testing.assert_array_equal(read_volume(file).array[0], expected)
    file.write_bytes(gzip.compress(whole) + b"end of transfer")
    with pytest.raises(DatasetError, match="bytes that are not its own lie behind"):
        read_volume(file)
