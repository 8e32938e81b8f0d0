import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from gdmnet import files
from gdmnet.data.case import Volume
from gdmnet.data.case_files import FORMATS
from gdmnet.data.volume import (
    grid_complaints,
    read_channels,
    read_geometry,
    read_volume,
    write_volume,
)
from gdmnet.errors import DatasetError, OutputError
from gdmnet.geometry import Geometry, grid_difference

SHAPE = (5, 8, 7)
DIRECTIONS = {
    "axial": np.eye(3),
    "RAS": np.diag([-1.0, -1.0, 1.0]),
    "PIR": np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]),
    "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
}


def oblique():
    rotation, _ = np.linalg.qr(np.eye(3) + 0.3 * np.random.default_rng(3).normal(size=(3, 3)))
    return rotation * np.sign(np.diag(rotation))


def image_of(array, direction=None):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 1.1, 3.3))
    image.SetOrigin((-101.7, 33.3, 12.25))
    image.SetDirection((oblique() if direction is None else direction).ravel())
    return image


@pytest.fixture
def array(rng):
    return np.rint(rng.normal(0, 300, SHAPE)).astype(np.int16)


@pytest.fixture(params=FORMATS)
def path(request, tmp_path, array):
    """The array on an oblique, anisotropic, odd-sized grid in each of the four formats."""
    file = tmp_path / f"case{request.param}"
    sitk.WriteImage(image_of(array), str(file), useCompression=True)
    return file


def nifti(array, *, order="<", scaling=(1.0, 0.0), sides=None, code=None):
    """The bytes of a NIfTI-1 file in RAS axes, written by hand."""
    kind = array.dtype.newbyteorder(order)
    codes = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "u2": 512, "i8": 1024}
    sides = list(array.shape[::-1]) if sides is None else sides
    header = bytearray(352)
    struct.pack_into(order + "i", header, 0, 348)
    struct.pack_into(order + "8h", header, 40, len(sides), *sides, *[1] * (7 - len(sides)))
    number = codes[kind.str[1:]] if code is None else code
    struct.pack_into(order + "2h", header, 70, number, 8 * kind.itemsize)
    struct.pack_into(order + "8f", header, 76, 1, 2, 2, 3, 1, 1, 1, 1)
    struct.pack_into(order + "3f", header, 108, 352, *scaling)
    struct.pack_into(order + "h", header, 254, 1)  # sform
    rows = [2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0]
    struct.pack_into(order + "12f", header, 280, *rows)
    header[344:348] = b"n+1\0"
    return bytes(header) + array.astype(kind).tobytes()


def test_a_volume_is_read_as_itk_reorients_it(path):
    expected = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], sitk.GetArrayFromImage(expected))
    assert volume.geometry.spacing == expected.GetSpacing()[::-1]
    assert volume.geometry == read_geometry(path)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("direction", [None, *DIRECTIONS])
def test_what_is_written_lies_on_the_grid_that_was_read(tmp_path, array, ending, direction):
    first, second = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    sitk.WriteImage(image_of(array, DIRECTIONS.get(direction)), str(first))
    write_volume(second, read_volume(first))
    before, after = sitk.ReadImage(str(first)), sitk.ReadImage(str(second))
    assert after.GetSize() == before.GetSize()
    assert after.GetSpacing() == before.GetSpacing()
    assert after.GetOrigin() == before.GetOrigin()
    # ITK turns the direction into a float32 quaternion and back for NIfTI.
    tolerance = 2e-7 if "nii" in ending else 0
    np.testing.assert_allclose(after.GetDirection(), before.GetDirection(), atol=tolerance)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after), array)


def test_the_same_patient_in_any_orientation_is_the_same_array(tmp_path, array):
    original = image_of(array, np.eye(3))
    for code in ("LPS", "RAS", "PIR", "ASL"):
        file = tmp_path / f"{code}.nii.gz"
        sitk.WriteImage(sitk.DICOMOrient(original, code), str(file))
        volume = read_volume(file)
        np.testing.assert_array_equal(volume.array[0], array)
        assert grid_difference(volume.geometry, read_geometry(tmp_path / "LPS.nii.gz")) is None


@pytest.mark.parametrize("ending", FORMATS)
def test_integers_are_rounded_and_clipped_to_int16_and_others_are_float32(tmp_path, ending):
    values = np.array([-1024.6, 0.4, 0.6, 3e5, -3e5, 12.5]).reshape(1, 1, 2, 3)
    volume = Volume(values.astype(np.float32), Geometry((1, 2, 3), (1.0, 1.0, 1.0)))
    write_volume(tmp_path / f"ct{ending}", volume, integer=True)
    image = sitk.ReadImage(str(tmp_path / f"ct{ending}"))
    assert image.GetPixelID() == sitk.sitkInt16
    written = sitk.GetArrayFromImage(image).ravel()
    assert written.tolist() == [-1025, 0, 1, 32767, -32768, 12]
    write_volume(tmp_path / f"mr{ending}", volume)
    assert sitk.ReadImage(str(tmp_path / f"mr{ending}")).GetPixelID() == sitk.sitkFloat32
    np.testing.assert_array_equal(read_volume(tmp_path / f"mr{ending}").array, volume.array)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("ending", FORMATS)
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, rng, ending, compressed, capfd):
    file = tmp_path / f"case{ending}"
    noise = rng.normal(0, 300, (9, 21, 22)).astype(np.int16)
    sitk.WriteImage(image_of(noise), str(file), useCompression=compressed)
    whole = file.read_bytes()
    for n_bytes in (0, 3, 100, 400, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 1):
        file.write_bytes(whole[:n_bytes])
        with pytest.raises(DatasetError, match=rf"case\{ending}: .*copy it anew"):
            read_volume(file)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_flipped_bit_in_compressed_voxels_is_refused(tmp_path, rng, ending, capfd):
    file = tmp_path / f"case{ending}"
    noise = rng.normal(0, 300, (9, 21, 22)).astype(np.int16)
    sitk.WriteImage(image_of(noise), str(file), useCompression=True)
    whole = bytearray(file.read_bytes())
    whole[len(whole) * 3 // 4] ^= 16
    file.write_bytes(whole)
    with pytest.raises(DatasetError):
        read_volume(file)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("content", [b"no image\n" * 200, bytes(range(256)) * 20, b"NRRD0005\n"])
def test_a_file_that_is_no_image_is_refused_in_silence(tmp_path, ending, content, capfd):
    file = tmp_path / f"case{ending}"
    file.write_bytes(content)
    for read in (read_volume, read_geometry):
        with pytest.raises(DatasetError, match="case"):
            read(file)
    assert capfd.readouterr().err == ""


def test_a_file_that_may_not_be_read_is_refused(path, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", forbidden)
    with pytest.raises(DatasetError, match="Permission denied; check its permissions"):
        read_volume(path)


def test_a_missing_file_a_folder_and_an_unknown_ending_are_refused(tmp_path):
    (tmp_path / "folder.mha").mkdir()
    for name, complaint in [
        ("none.nii", "no such file"),
        ("folder.mha", "no such file"),
        ("picture.png", "unknown file ending; known are .nii.gz, .nii, .nrrd, .mha"),
    ]:
        with pytest.raises(DatasetError, match=f"{name}: {complaint}"):
            read_volume(tmp_path / name)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_nan_and_infinity_are_refused(tmp_path, rng, ending, value, kind):
    file = tmp_path / f"case{ending}"
    values = rng.normal(size=SHAPE).astype(kind)
    values[2, 3, 4] = value
    sitk.WriteImage(image_of(values), str(file), useCompression=True)
    with pytest.raises(DatasetError, match="has NaN or Inf voxels"):
        read_volume(file)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "i8", "f4", "f8"])
def test_nifti_of_any_type_and_byte_order_is_read_as_itk_reads_it(tmp_path, kind, order, compress):
    values = (np.arange(24).reshape(2, 3, 4) * 5).astype(kind)
    file = tmp_path / ("a.nii" if compress is bytes else "a.nii.gz")
    file.write_bytes(compress(nifti(values, order=order, scaling=(0.5, -7.0))))
    array = read_volume(file).array[0]
    np.testing.assert_array_equal(array, values[:, ::-1, ::-1] * np.float32(0.5) - 7)
    oriented = sitk.DICOMOrient(sitk.ReadImage(str(file)), "LPS")
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(oriented))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_nan_is_found_in_either_byte_order_and_under_a_scaling(tmp_path, kind, order):
    values = np.zeros((2, 3, 4), dtype=kind)
    values[1, 2, 3] = np.nan
    file = tmp_path / "a.nii"
    file.write_bytes(nifti(values, order=order, scaling=(2.0, 1.0)))
    assert np.isfinite(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))).all()  # the trap
    with pytest.raises(DatasetError, match="has NaN or Inf voxels"):
        read_volume(file)


def test_a_slope_of_zero_or_nan_means_no_scaling(tmp_path):
    values = np.arange(24, dtype="i2").reshape(2, 3, 4)
    for scaling in [(0.0, 5.0), (np.nan, np.nan)]:
        (tmp_path / "a.nii").write_bytes(nifti(values, scaling=scaling))
        np.testing.assert_array_equal(
            read_volume(tmp_path / "a.nii").array[0], values[:, ::-1, ::-1]
        )


def test_numbers_beyond_float32_are_refused_as_infinite(tmp_path):
    (tmp_path / "a.nii").write_bytes(nifti(np.full((1, 2, 3), 1e300)))
    with pytest.raises(DatasetError, match="has NaN or Inf voxels"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("ending", FORMATS)
def test_a_4d_file_with_one_volume_is_read_and_with_several_is_refused(tmp_path, array, ending):
    file = tmp_path / f"a{ending}"
    volume = image_of(array, np.eye(3))
    sitk.WriteImage(sitk.JoinSeries([volume]), str(file))
    assert read_volume(file).array.shape == (1, *SHAPE)
    np.testing.assert_array_equal(read_volume(file).array[0], array)
    assert read_geometry(file).itk_origin == pytest.approx(volume.GetOrigin())
    sitk.WriteImage(sitk.JoinSeries([volume, volume]), str(file))
    for read in (read_volume, read_geometry):
        with pytest.raises(DatasetError, match="holds 2 volumes; give one file a channel"):
            read(file)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_2d_image_becomes_one_slice(tmp_path, array, ending):
    file = tmp_path / f"a{ending}"
    image = sitk.GetImageFromArray(array[0])
    image.SetSpacing((0.5, 2.0))
    image.SetOrigin((3.0, 4.0))
    sitk.WriteImage(image, str(file))
    volume = read_volume(file)
    np.testing.assert_array_equal(volume.array[0, 0], array[0])
    assert volume.geometry.spacing == (1.0, 2.0, 0.5)
    assert volume.geometry.itk_origin == (3.0, 4.0, 0.0)
    write_volume(file, volume)
    assert read_geometry(file) == volume.geometry


@pytest.mark.parametrize("ending", FORMATS)
def test_colours_and_complex_numbers_are_refused(tmp_path, ending):
    file = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True), file)
    with pytest.raises(DatasetError, match=r"give one file a channel|store a plain image"):
        read_volume(file)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (struct.pack("<i4s", 540, b"n+2\0") + bytes(600), "is NIfTI-2; store it as NIfTI-1"),
        (nifti(np.zeros((2, 3, 4), "i2"), code=32), "voxel type 32 is no real number"),
        (nifti(np.zeros((2, 3, 4), "i2"), sides=[4, 0, 2]), r"gives the size \(4, 0, 2\)"),
        (nifti(np.zeros((2, 3, 4), "i2"), sides=[]), "gives the size of 0 axes"),
    ],
)
def test_nifti_headers_that_are_of_no_use_are_named(tmp_path, content, complaint, capfd):
    (tmp_path / "a.nii").write_bytes(content)
    for read in (read_volume, read_geometry):
        with pytest.raises(DatasetError, match=complaint):
            read(tmp_path / "a.nii")
    assert capfd.readouterr().err == ""


def test_a_sheared_grid_is_refused_with_what_to_do(tmp_path):
    content = bytearray(nifti(np.zeros((2, 3, 4), "i2")))
    struct.pack_into("<f", content, 284, 0.5)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(DatasetError, match="not at right angles; resample it"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("ElementType = MET_STRING", "no usable ElementType and DimSize"),
        ("DimSize = 3 4 x", "gives the size 3 4 x"),
        ("", "no complete MetaImage header"),
    ],
)
def test_metaimage_headers_that_are_of_no_use_are_named(tmp_path, line, complaint, capfd):
    good = "ObjectType = Image\nNDims = 3\nDimSize = 3 4 5\nElementType = MET_SHORT\n"
    local = "ElementDataFile = LOCAL\n" if line else ""
    (tmp_path / "a.mha").write_bytes(f"{good}{line}\n{local}".encode() + bytes(120))
    for read in (read_volume, read_geometry):
        with pytest.raises(DatasetError, match=complaint):
            read(tmp_path / "a.mha")
    assert capfd.readouterr().err == ""


def test_voxels_in_another_file_are_refused(tmp_path, array):
    sitk.WriteImage(image_of(array), str(tmp_path / "a.mhd"))
    (tmp_path / "a.mhd").rename(tmp_path / "a.mha")
    sitk.WriteImage(image_of(array), str(tmp_path / "a.nhdr"))
    (tmp_path / "a.nhdr").rename(tmp_path / "a.nrrd")
    for name in ("a.mha", "a.nrrd"):
        with pytest.raises(DatasetError, match="store header and voxels in one"):
            read_volume(tmp_path / name)


def test_channels_are_stacked_in_order_and_must_share_a_grid(tmp_path, array):
    paths = [tmp_path / f"case_000{k}.nii.gz" for k in range(3)]
    for k, file in enumerate(paths):
        sitk.WriteImage(image_of(array + k), str(file))
    volume = read_channels(paths)
    np.testing.assert_array_equal(volume.array[2] - volume.array[0], 2)
    np.testing.assert_array_equal(volume.array[:1], read_volume(paths[0]).array)
    moved = image_of(array)
    moved.SetOrigin((0.0, 0.0, 0.0))
    sitk.WriteImage(moved, str(paths[1]))
    with pytest.raises(DatasetError, match=r"_0001.* not on the grid of .*_0000.*: origin"):
        read_channels(paths)


@pytest.fixture
def volume(rng):
    array = rng.normal(size=(1, *SHAPE)).astype(np.float32)
    return Volume(array, Geometry(SHAPE, (3.0, 1.0, 1.0)))


@pytest.mark.parametrize("ending", FORMATS)
def test_a_missing_folder_is_made_and_one_that_cannot_be_is_an_error(
    tmp_path, volume, ending, capfd
):
    write_volume(tmp_path / "new" / "folder" / f"a{ending}", volume)
    assert read_geometry(tmp_path / "new" / "folder" / f"a{ending}").shape == SHAPE
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=rf"a\{ending}: cannot be written"):
        write_volume(tmp_path / "file" / f"a{ending}", volume)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_nothing_behind_and_keeps_the_old_file(
    tmp_path, volume, ending, trouble, monkeypatch
):
    file = tmp_path / f"a{ending}"
    file.write_bytes(b"old")

    def fail(path):
        raise trouble

    monkeypatch.setattr(files, "_to_disk", fail)
    with pytest.raises((OutputError, KeyboardInterrupt), match=r"free space|^$"):
        write_volume(file, volume)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    assert file.read_bytes() == b"old"


def test_several_channels_and_unknown_endings_are_not_written(tmp_path, volume):
    with pytest.raises(ValueError, match="one channel and an ending of"):
        write_volume(tmp_path / "a.png", volume)
    two = Volume(np.zeros((2, *SHAPE), np.float32), volume.geometry)
    with pytest.raises(ValueError, match="one channel"):
        write_volume(tmp_path / "a.nii", two)


def test_a_written_file_is_readable_by_others(tmp_path, volume):
    """Nothing of the file is left to chance: permissions as any new file has."""
    write_volume(tmp_path / "a.nii.gz", volume)
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a.nii.gz").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_images_off_the_grid_are_named_with_both_values(tmp_path, volume):
    first, second, third = (tmp_path / f"{name}.mha" for name in "abc")
    write_volume(first, volume)
    write_volume(second, volume)
    write_volume(
        third, Volume(volume.array[:, 1:], Geometry((SHAPE[0] - 1, *SHAPE[1:]), (1, 1, 1)))
    )
    (said,) = grid_complaints(first, [second, third])
    assert said.startswith(f"{third} is not on the grid of {first}: shape (4, 8, 7) against (5, 8")
