"""MetaImage and NRRD headers: read as ITK reads them, and refused where it would be lost."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from gdmnet.data.volume import read_geometry, read_volume, write_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import placement_note

VALUES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def write(path: Path, *changes: tuple[str, str], compressed: bool = True) -> Path:
    """The values as ITK writes them, with lines of the header changed."""
    image = sitk.GetImageFromArray(VALUES)
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((-10.0, 5.0, 7.0))
    sitk.WriteImage(image, str(path), useCompression=compressed)
    data = path.read_bytes()
    for pattern, text in changes:
        data, n_changed = re.subn(pattern.encode(), text.encode(), data, count=1)
        assert n_changed == 1, pattern
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("pattern", "text", "complaint"),
    [
        ("NDims = 3", "NDims = 0", "NDims 0"),
        ("NDims = 3", "NDims = 99", "NDims 99"),
        (r"DimSize = \S+", "DimSize = 0", "size"),
        (r"DimSize = \S+", "DimSize = -3", "size"),
        (r"DimSize = \S+", f"DimSize = {'9' * 30}", "bytes of voxels"),
        ("DimSize = 4 3 2", "DimSize = 99999 99999 99999", "bytes of voxels"),
        (r"ElementSpacing = \S+", "ElementSpacing = nan", "spacing"),
        (r"ElementSpacing = \S+", "ElementSpacing = 1e300", "spacing"),
        (r"ElementSpacing = \S+", "ElementSpacing = x", "spacing x"),
        (r"ElementSpacing = .*", "ElementSpacing = 1.5", "fewer spacings"),
        (r"ElementSpacing = .*", "ElementSpacing = 1.5 2", "fewer spacings"),
        (r"Offset = .*", "Offset = -10 5", "coordinates of its origin"),
        (r"TransformMatrix = .*", "TransformMatrix = 0 0 0 0 0 0 0 0 0", "right angles"),
        (r"TransformMatrix = .*", "TransformMatrix = nan 0 0 0 1 0 0 0 1", "right angles"),
        (r"TransformMatrix = .*", "TransformMatrix = 1e300 0 0 0 inf 0 0 0 1", "right angles"),
        (r"TransformMatrix = .*", "TransformMatrix = 1 0 0", "matrix 1 0 0"),
        (r"Offset = \S+", "Offset = 1e30", "origin"),
        (r"CompressedDataSize = \S+", "CompressedDataSize = 5", "of 5 compressed bytes"),
        ("CompressedData = True", "CompressedData = False", "bytes of voxels"),
        ("BinaryData = True", "BinaryData = False", "written as text; store them as binary"),
        ("ElementType", "ElementNumberOfChannels = 3\nElementType", "3 values a voxel"),
        ("MET_SHORT", "MET_LORD", "no usable ElementType"),
    ],
)
def test_an_impossible_metaimage_header_is_one_line(tmp_path, pattern, text, complaint, capfd):
    file = write(tmp_path / "a.mha", (pattern, text))
    with pytest.raises(DatasetError, match=complaint) as caught:
        read_volume(file)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("pattern", "text", "complaint"),
    [
        (r"sizes: \S+", "sizes: 0", "size"),
        (r"sizes: \S+", "sizes: -1", "size"),
        ("sizes: 4 3 2", "sizes: 99999 99999 99999", "bytes of voxels"),
        ("dimension: 3", "dimension: 99", "99 sizes"),
        ("dimension: 3", "dimension: 0", "0 sizes"),
        ("type: short", "type: block", "type 'block'"),
        ("encoding: gzip", "encoding: ascii", "encoding 'ascii'; store it as raw or gzip"),
        ("encoding: gzip", "encoding: raw", "bytes of voxels"),
        ("endian: little", "endian: middle", "endian 'middle'"),
        (r"space directions: \([^)]*\)", "space directions: (nan,0,0)", "spacing"),
        (r"space directions: \([^)]*\)", "space directions: (0,0,0)", "spacing"),
        (r"space directions: \([^)]*\)", "space directions: none", "directions"),
        ("space: left-posterior-superior", "space: mars", "space 'mars'"),
        (r"space directions: .*", "spacings: 1.5 2", "fewer spacings"),
        (r"space origin: \([^)]*\)", "space origin: (nan,0,0)", "origin"),
        (r"space origin: \([^)]*\)", "space origin: (-10,5)", "coordinates of its origin"),
        ("encoding", 'space units: "cm" "cm" "cm"\nencoding', "units cm, cm, cm; store it in mm"),
        ("encoding", "byte skip: 99\nencoding", "skips bytes"),
        ("encoding", "line skip: 9\nencoding", "skips bytes or lines"),
        ("kinds: domain", "kinds: vector", "4 values a voxel"),
        ("NRRD000.", "NRRD0099", "no NRRD header"),
    ],
)
def test_an_impossible_nrrd_header_is_one_line(tmp_path, pattern, text, complaint, capfd):
    file = write(tmp_path / "a.nrrd", (pattern, text))
    with pytest.raises(DatasetError, match=complaint) as caught:
        read_volume(file)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("space: left-posterior-superior", "space: right-anterior-superior"),
        ("space: left-posterior-superior", "space: LAS"),
        ("space: left-posterior-superior\n", "space dimension: 3\n"),
        ("type: short", "type: int16"),
    ],
)
def test_nrrd_spaces_and_types_are_read_as_itk_reads_them(tmp_path, pattern, text):
    file = write(tmp_path / "a.nrrd", (pattern, text))
    expected = sitk.ReadImage(str(file))
    geometry = read_geometry(file)
    assert geometry.itk_origin == expected.GetOrigin()
    assert geometry.itk_direction == expected.GetDirection()
    assert geometry.itk_spacing == expected.GetSpacing()
    oriented = sitk.DICOMOrient(expected, "LPS")
    np.testing.assert_array_equal(read_volume(file).array[0], sitk.GetArrayFromImage(oriented))


@pytest.mark.parametrize(
    ("name", "line"),
    [("a.nrrd", "space: left-posterior-superior\n"), ("a.mha", r"TransformMatrix = .*\n")],
)
def test_an_orientation_that_no_line_tells_is_a_guess(tmp_path, name, line):
    plain = read_geometry(write(tmp_path / name))
    guess = read_volume(write(tmp_path / name, (line, "")))
    write_volume(tmp_path / f"again_{name}", guess)
    guessed = read_geometry(tmp_path / f"again_{name}")
    assert placement_note(plain) is None
    assert guessed == guess.geometry
    assert "says nothing of its orientation (no NRRD space, no matrix)" in placement_note(guessed)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("a.mha", ("DimSize = 4 3 2", "DimSize = 4 3 1")),
        ("a.nrrd", ("sizes: 4 3 2", "sizes: 4 3 1")),
    ],
)
@pytest.mark.parametrize("compressed", [True, False])
def test_more_voxels_than_the_header_gives_are_refused(tmp_path, name, sizes, compressed):
    file = write(tmp_path / name, sizes, compressed=compressed)
    with pytest.raises(
        DatasetError, match=r"bytes of voxels .*are there; the file is truncated or"
    ):
        read_volume(file)


def test_bytes_behind_a_packed_nrrd_are_refused(tmp_path):
    file = write(tmp_path / "a.nrrd")
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(DatasetError, match="not its own lie behind the compressed image"):
        read_volume(file)


def test_big_endian_voxels_are_read_from_both_formats(tmp_path):
    meta = write(
        tmp_path / "a.mha", ("ByteOrderMSB = False", "ByteOrderMSB = True"), compressed=False
    )
    nrrd = write(tmp_path / "a.nrrd", ("endian: little", "endian: big"), compressed=False)
    for file in (meta, nrrd):
        file.write_bytes(file.read_bytes()[:-48] + VALUES.astype(">i2").tobytes())
        np.testing.assert_array_equal(read_volume(file).array[0], VALUES)
