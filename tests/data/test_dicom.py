"""Reading: what is found in a tree, what is refused, and that voxels lie where they belong."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from dicoms import AXIAL, SAGITTAL, make_other, make_series, save, turned, write_series
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from gdmnet.data.case import CaseFiles
from gdmnet.data.dicom import (
    case_name,
    find_series,
    fitting_series,
    grid_of,
    holds_dicom,
    only_series,
    read_series,
    read_sources,
    series_sha256,
)
from gdmnet.errors import DatasetError
from gdmnet.geometry import lps_frame

SHAPE = (5, 6, 7)  # slices, rows, columns


@pytest.fixture
def array(rng):
    return rng.integers(-1000, 2000, SHAPE)


def place_of(volume, index):
    """Patient position (x, y, z) of the LPS voxel (z, y, x)."""
    origin, direction = lps_frame(volume.geometry)
    return origin + direction @ (np.array(index[::-1]) * volume.geometry.spacing[::-1])


def assert_voxels_lie_right(volume, slices):
    """The obvious oracle: every pixel's place by the equation of DICOM PS3.3 C.7.6.2.1.1."""
    found = {}
    for item in slices:
        pixels = item.pixel_array * float(item.get("RescaleSlope", 1))
        pixels = pixels + float(item.get("RescaleIntercept", 0))
        along_row, along_column = np.reshape(item.ImageOrientationPatient, (2, 3)).astype(float)
        between_rows, between_columns = (float(value) for value in item.PixelSpacing)
        for row, column in np.ndindex(pixels.shape):
            place = np.array(item.ImagePositionPatient, float)
            place = place + along_row * between_columns * column + along_column * between_rows * row
            found[tuple(np.round(place, 3) + 0.0)] = pixels[row, column]
    assert volume.array.shape[1:] == volume.geometry.shape
    assert volume.array.size == len(found)
    for index in np.ndindex(volume.geometry.shape):
        place = tuple(np.round(place_of(volume, index), 3) + 0.0)
        assert volume.array[0][index] == pytest.approx(found[place])


@pytest.mark.parametrize("direction", [AXIAL, SAGITTAL, turned()], ids=["axial", "sag", "oblique"])
@pytest.mark.parametrize("order", [1, -1])
def test_every_voxel_lies_where_its_header_says(tmp_path, array, direction, order):
    slices = make_series(array, direction=direction)
    for number, item in enumerate(slices[::order]):
        save(tmp_path / f"{number}.dcm", item)
    volume = read_series(only_series(tmp_path))
    assert volume.array.dtype == np.float32
    assert_voxels_lie_right(volume, slices)


def test_the_order_of_the_slices_does_not_depend_on_names_or_numbers(tmp_path, array):
    slices = make_series(array)
    for name, item in zip("cadbe", slices, strict=True):
        item.InstanceNumber = 1
        save(tmp_path / name, item)
    assert_voxels_lie_right(read_series(only_series(tmp_path)), slices)


def test_a_step_against_the_normal_is_sorted_along_it(tmp_path, array):
    slices = make_series(array, step=(0, 0, -3.0))
    for number, item in enumerate(slices):
        save(tmp_path / str(number), item)
    series = only_series(tmp_path)
    assert [path.name for path in series.files] == list("43210")
    assert_voxels_lie_right(read_series(series), slices)


def test_each_slice_has_its_own_rescale(tmp_path, array):
    slices = make_series(array)
    for number, item in enumerate(slices):
        item.RescaleSlope, item.RescaleIntercept = 0.5 + number, -3 * number
        save(tmp_path / str(number), item)
    assert_voxels_lie_right(read_series(only_series(tmp_path)), slices)


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize(("signed", "bits"), [(0, 12), (0, 16), (1, 16)])
def test_monochrome1_is_inverted_for_mr_and_left_in_hu_for_ct(
    tmp_path, rng, signed, bits, is_compressed
):
    low, high = (-(2**15), 2**15 - 1) if signed else (0, 2**bits - 1)
    stored = rng.integers(low, high + 1, (2, 64, 64))  # GDCM cannot decode tiny RLE images
    kind = {"PixelRepresentation": signed, "BitsStored": bits, "HighBit": bits - 1}
    scale = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    read = {}
    for modality in ("MR", "CT"):
        white = {"PhotometricInterpretation": "MONOCHROME1", **kind, **scale}
        for path in write_series(tmp_path / modality, stored, Modality=modality, **white):
            if is_compressed:
                item = pydicom.dcmread(path)
                item.compress(RLELossless)
                save(path, item, syntax=RLELossless)
        read[modality] = read_series(only_series(tmp_path / modality)).array[0]
    np.testing.assert_array_equal(read["CT"], stored * 2.0 - 1024)
    np.testing.assert_array_equal(read["MR"], (high + low - stored) * 2.0 - 1024)


def test_other_transfer_syntaxes_are_read(tmp_path, rng):
    array = rng.integers(-1000, 2000, (2, 64, 64))  # GDCM cannot decode tiny RLE images
    for number, item in enumerate(make_series(array)):
        save(tmp_path / "implicit" / str(number), item, syntax=ImplicitVRLittleEndian)
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.compress(RLELossless)
        save(tmp_path / "rle" / str(number), item, syntax=RLELossless)
    for name in ("implicit", "rle"):
        volume = read_series(only_series(tmp_path / name))
        np.testing.assert_array_equal(volume.array[0], array)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_files_without_preamble_are_read(tmp_path, array, syntax):
    how = {"SeriesInstanceUID": "1.2.3", "syntax": syntax}
    write_series(tmp_path, array[:3], **how)
    up = (-20.0, -15.5, 40.25 + 3 * 3.0)
    write_series(tmp_path, array[3:], **how, first=4, origin=up, preamble=False)
    assert holds_dicom(tmp_path)
    np.testing.assert_array_equal(read_series(only_series(tmp_path)).array[0], array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Notes on the scan\n" * 30,
        b"DICOM: \x08 \x05",
        b"\x08\0\x05\0 and text",
        b"\x08\0\0\0" + bytes(300),
        (348).to_bytes(4, "little") + bytes(344),
        b"PK\3\4" + bytes(200),
    ],
    ids=["empty", "text", "control", "binary", "zeros", "nifti", "zip"],
)
def test_what_is_not_dicom_does_not_become_it(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    tree = find_series(tmp_path)
    assert (tree.series, tree.skipped) == ((), {"not DICOM": 1})


def test_descriptions_come_in_their_character_set(tmp_path, array):
    text = {
        "SeriesDescription": "Schädel T1\x1b",
        "PatientID": "ä",
        "SpecificCharacterSet": "ISO_IR 100",
    }
    write_series(tmp_path, array, **text)
    series = only_series(tmp_path)
    assert (series.label, series.patient) == ("MR Schädel T1?", "ä")


BITS = {  # bits allocated and stored, highest bit, signed, words of values v, why refused
    "12 signed, not extended": (16, 12, 11, 1, lambda v: (v & 0xFFF).astype("<u2"), None),
    "overlay in bit 15": (16, 12, 11, 0, lambda v: (v | 0x8000).astype("<u2"), None),
    "8": (8, 8, 7, 0, lambda v: v.astype("u1"), None),
    "32": (32, 32, 31, 1, lambda v: v.astype("<i4"), None),
    "32 said of 16": (32, 16, 15, 1, lambda v: v.astype("<i2"), "84 bytes for 42 pixels of 32"),
    "16 said of 32": (16, 16, 15, 1, lambda v: v.astype("<i4"), "168 bytes for 42 pixels of 16"),
    "upper 12": (16, 12, 15, 0, lambda v: (v << 4).astype("<u2"), "12 of 16 bits up to bit 15"),
    "more than all": (16, 17, 16, 0, lambda v: v.astype("<u2"), "17 of 16 bits up to bit 16"),
}


@pytest.mark.parametrize("name", BITS)
def test_bits_of_pixels_give_the_right_values_or_a_refusal(tmp_path, rng, name):
    allocated, stored, high, is_signed, words, refusal = BITS[name]
    values = rng.integers(-(2**11) if is_signed else 0, 2 ** min(stored, 11), SHAPE)
    bits = {"BitsAllocated": allocated, "BitsStored": stored, "HighBit": high}
    items = make_series(values, PixelRepresentation=is_signed, **bits)
    for number, (item, plane) in enumerate(zip(items, values, strict=True)):
        item.PixelData = words(plane).tobytes()
        save(tmp_path / str(number), item)
    if refusal is None:
        np.testing.assert_array_equal(read_series(only_series(tmp_path)).array[0], values)
    else:
        assert refusal in problem_of(tmp_path)


def test_a_pipe_and_a_broken_link_are_no_dicom(tmp_path, array):
    write_series(tmp_path / "a", array)
    os.mkfifo(tmp_path / "a/pipe")
    (tmp_path / "a/link").symlink_to(tmp_path / "nowhere")
    tree = find_series(tmp_path)
    assert (len(tree.series), tree.skipped) == (1, {"not DICOM": 2})
    assert tree.series[0].problem is None
    (tmp_path / "a/IM0006").symlink_to(tmp_path / "nowhere")
    assert "IM0006 beside its slices cannot be read" in problem_of(tmp_path / "a")


def test_padded_pixels_are_read(tmp_path, array):
    for number, item in enumerate(make_series(array)):
        item.PixelData += bytes(16)
        save(tmp_path / str(number), item)
    np.testing.assert_array_equal(read_series(only_series(tmp_path)).array[0], array)


def test_a_tree_is_searched_and_what_is_no_scan_is_counted(tmp_path, array):
    write_series(tmp_path / "a/mr", array)
    write_series(tmp_path / "a/ct", array, Modality="CT", SeriesDescription="planning")
    write_series(tmp_path / "a", array[:3], SeriesDescription="3-plane localizer")
    write_series(tmp_path / "b", array[:1], Modality="CT", ImageType=["ORIGINAL", "LOCALIZER"])
    structures = make_other("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT")
    save(tmp_path / "a/rs.dcm", structures)
    save(tmp_path / "a/sr.dcm", make_other("1.2.840.10008.5.1.4.1.1.88.11", "SR"))
    save(tmp_path / "a/pr.dcm", make_other("1.2.840.10008.5.1.4.1.1.11.1", "PR"))
    write_series(tmp_path / "dose", array[:1], Modality="RTDOSE")
    write_series(tmp_path / "capture", array[:1], ImagePositionPatient=None, PixelSpacing=None)
    for number, path in enumerate((tmp_path / "capture").iterdir()):
        item = pydicom.dcmread(path)
        del item.ImagePositionPatient
        save(tmp_path / "capture" / f"x{number}", item)
        path.unlink()
    (tmp_path / "readme.txt").write_text("no DICOM")
    (tmp_path / ".hidden").write_text("not looked at")
    tree = find_series(tmp_path)
    assert [series.label for series in tree.series] == ["CT planning", "MR t1 vibe"]
    assert tree.skipped == {
        "scouts": 4,
        "RTSTRUCT": 1,
        "SR": 1,
        "objects without an image": 1,
        "RTDOSE": 1,
        "images without a position in the patient": 1,
        "not DICOM": 1,
    }
    assert str(tree).startswith("2 DICOM series; left aside: RTDOSE (1), RTSTRUCT (1), SR (1), im")


def test_folders_that_are_not_looked_into_are_counted(tmp_path, array, monkeypatch):
    write_series(tmp_path / "tree/a", array)
    write_series(tmp_path / "elsewhere", array)
    (tmp_path / "tree/b").mkdir()
    (tmp_path / "tree/linked").symlink_to(tmp_path / "elsewhere")
    scan = os.scandir

    def forbidden(folder):
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    tree = find_series(tmp_path / "tree")
    assert str(tree) == (
        "1 DICOM series; left aside: folders that cannot be read (1), links to folders (1)"
    )


def test_two_series_in_one_folder_and_one_series_in_two(tmp_path, array):
    one = write_series(tmp_path / "x", array)
    write_series(tmp_path / "x", array + 7, first=100)
    (tmp_path / "y").mkdir()
    shutil.move(one[2], tmp_path / "y" / "moved")
    first, second = find_series(tmp_path).series
    np.testing.assert_array_equal(read_series(first).array[0], array)
    np.testing.assert_array_equal(read_series(second).array[0], array + 7)
    with pytest.raises(DatasetError, match=r"2 DICOM series \(MR t1 vibe, 5 images; .*give the"):
        only_series(tmp_path)


def problem_of(folder):
    (series,) = find_series(folder).series
    assert series.geometry is None
    with pytest.raises(DatasetError) as refused:
        read_series(series)
    message = str(refused.value)
    assert message.startswith(f"{folder}: MR t1 vibe: ")
    assert "\n" not in message
    assert not any(word in message for word in ("Doe", "Jane", "SECRET"))
    return message


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_slice_is_refused(tmp_path, array, missing):
    write_series(tmp_path, array)[missing].unlink()
    message = problem_of(tmp_path)
    assert "slices are missing or unevenly spaced: mostly 3 mm, but 6 mm between IM" in message


def test_duplicate_slices_are_refused(tmp_path, array):
    slices = make_series(np.concatenate([array, array]))
    for number, item in enumerate(slices):
        item.ImagePositionPatient[2] = 3.0 * (number % 5)
        save(tmp_path / f"IM{number}", item)
    assert "duplicate slices: 5 times two images lie at one position (IM0 and IM5" in problem_of(
        tmp_path
    )


def two_passes(array, attribute, values, n_apart=1):
    """Slices of which every second one, or the second half, is of another acquisition."""
    slices = make_series(array)
    for number, item in enumerate(slices):
        setattr(item, attribute, values[number // n_apart % 2])
    return slices


PASSES = pytest.mark.parametrize(
    ("attribute", "values", "texts"),
    [
        ("AcquisitionNumber", (1, 2), ["1", "2"]),
        ("EchoTime", (2, 90), ["2.0", "90.0"]),
        ("EchoNumbers", (1, 2), ["1", "2"]),
        ("KVP", (80, 120), ["80.0", "120.0"]),
        (
            "ImageType",
            (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
            [r"ORIGINAL\PRIMARY\M", r"ORIGINAL\PRIMARY\P"],
        ),
    ],
)


@PASSES
def test_acquisitions_among_each_other_are_series_of_their_own(
    tmp_path, rng, attribute, values, texts
):
    array = rng.integers(0, 9, (8, 6, 7))
    for number, item in enumerate(two_passes(array, attribute, values)):
        save(tmp_path / str(number), item)
    found = {series.acquisition: series for series in find_series(tmp_path).series}
    assert set(found) == {f"{attribute}={text}" for text in texts}
    assert len({case_name(series) for series in found.values()}) == 2
    for number, text in enumerate(texts):
        one = fitting_series(found.values(), f"mr*{attribute}={text}", "source")
        np.testing.assert_array_equal(read_series(one).array[0], array[number::2])
        assert one.geometry.spacing[0] == 6.0
    with pytest.raises(
        DatasetError, match=r"2 series fit the source 'MR\*' .*narrow it by --source"
    ):
        fitting_series(found.values(), "MR*", "source")
    with pytest.raises(DatasetError, match=f"one series is needed, but .*{attribute}="):
        only_series(tmp_path)


def test_echoes_at_one_place_with_magnitude_and_phase_are_four_acquisitions(tmp_path, rng):
    kinds = [(time, kind) for time in (2, 90) for kind in "MP"]
    arrays = rng.integers(0, 9, (4, 5, 6, 7))
    for at, ((time, kind), array) in enumerate(zip(kinds, arrays, strict=True)):
        how = {"EchoTime": time, "ImageType": ["ORIGINAL", "PRIMARY", kind]}
        write_series(tmp_path, array, first=10 * at, SeriesInstanceUID="1.2.3", **how)
    found = find_series(tmp_path).series
    assert len(found) == 4
    for (time, kind), array in zip(kinds, arrays, strict=True):
        one = fitting_series(found, rf"*EchoTime={time}.0*\{kind}", "source")
        np.testing.assert_array_equal(read_series(one).array[0], array)


@PASSES
def test_acquisitions_one_behind_the_other_are_one_volume(tmp_path, rng, attribute, values, texts):
    array = rng.integers(0, 9, (8, 6, 7))
    for number, item in enumerate(two_passes(array, attribute, values, n_apart=4)):
        save(tmp_path / str(number), item)
    np.testing.assert_array_equal(read_series(only_series(tmp_path)).array[0], array)


def test_numbers_that_grow_with_the_slices_are_no_acquisitions(tmp_path, rng):
    for number, item in enumerate(make_series(rng.integers(0, 9, (8, 6, 7)))):
        item.AcquisitionNumber, item.KVP = number, 120 if number == 3 else 100
        save(tmp_path / str(number), item)
    assert only_series(tmp_path).problem is None


def test_one_slice_that_differs_is_no_acquisition(tmp_path, array):
    for number, item in enumerate(two_passes(array[:3], "KVP", (100, 120))):
        save(tmp_path / str(number), item)
    assert only_series(tmp_path).problem is None


@pytest.mark.parametrize("direction", [AXIAL, turned()], ids=["axial", "oblique"])
@pytest.mark.parametrize("moved", [[2], [0], [2, 3], [4]])
def test_slices_moved_sideways_are_refused(tmp_path, array, direction, moved):
    slices = make_series(array, direction=direction)
    for number in moved:
        place = np.array(slices[number].ImagePositionPatient, float)
        slices[number].ImagePositionPatient = list(place + 0.7 * direction[:, 0])
    for number, item in enumerate(slices):
        save(tmp_path / str(number), item)
    message = problem_of(tmp_path)
    assert f"moved sideways: number {moved[0] + 1} of 5 ({moved[0]}) lies 0.7 mm beside" in message


def test_a_tenth_of_a_millimetre_to_the_side_is_rounding(tmp_path, array):
    slices = make_series(array)
    slices[2].ImagePositionPatient[0] += 0.1
    for number, item in enumerate(slices):
        save(tmp_path / str(number), item)
    assert only_series(tmp_path).problem is None


def test_a_copy_of_an_image_is_refused(tmp_path, array):
    files = write_series(tmp_path, array)
    shutil.copy(files[1], tmp_path / "copy")
    assert "the same image is there twice (IM0002 and copy)" in problem_of(tmp_path)


@pytest.mark.parametrize("distance", [0.01, 3000.0])
def test_an_impossible_distance_of_the_slices_is_refused(tmp_path, array, distance):
    write_series(tmp_path, array, spacing=(distance, 1.5, 1.25))
    assert f"its slices of {distance:g} mm cannot be" in problem_of(tmp_path)


@pytest.mark.parametrize("degrees", [1.5, 15.0, -15.0])
def test_a_tilted_gantry_is_refused(tmp_path, array, degrees):
    write_series(tmp_path, array, direction=turned(degrees, 0), step=(0, 0, 3.0))
    message = problem_of(tmp_path)
    assert f"the gantry was tilted by {abs(degrees):.1f} degrees" in message
    assert "--untilt resamples it to a plain grid" in message


@pytest.mark.parametrize(("degrees", "turn"), [(1.5, 0), (15.0, 0), (-15.0, 0), (20.0, 30.0)])
@pytest.mark.parametrize("step", [(0, 0, 3.0), (0.4, 0, 2.9)])
def test_a_tilted_gantry_is_resampled_on_request(tmp_path, degrees, turn, step):
    """A ramp in the patient is a ramp in every slice, and linear interpolation keeps it."""
    slices = make_series(np.zeros((9, 16, 14)), direction=turned(degrees, turn), step=step)
    ramp = np.array([4.0, -7.0, 9.0])
    for number, item in enumerate(slices):
        along_row, along_column = np.reshape(item.ImageOrientationPatient, (2, 3)).astype(float)
        row, column = np.mgrid[:16, :14]
        place = np.array(item.ImagePositionPatient, float)
        place = place + column[..., None] * 1.25 * along_row + row[..., None] * 1.5 * along_column
        item.PixelData = np.rint(20 * (place @ ramp)).astype("<i2").tobytes()
        item.RescaleSlope, item.RescaleIntercept = 0.05, 0
        save(tmp_path / str(number), item)
    (series,) = find_series(tmp_path, untilt=True).series
    volume = read_series(series)
    assert volume.array.shape[1:] == volume.geometry.shape
    lowest, n_inside = volume.array.min(), 0
    for index in np.ndindex(volume.geometry.shape):
        value, wanted = volume.array[0][index], float(place_of(volume, index) @ ramp)
        if value > lowest + 40:  # not beside the slices, nor at their rim
            n_inside += abs(value - wanted) < 0.2
    assert n_inside > 0.75 * 9 * 16 * 14
    for item in slices:  # every corner of every slice lies within the grid
        for row, column in ((0, 0), (0, 13), (15, 0), (15, 13)):
            along_row, along_column = np.reshape(item.ImageOrientationPatient, (2, 3)).astype(float)
            corner = np.array(item.ImagePositionPatient, float)
            corner = corner + column * 1.25 * along_row + row * 1.5 * along_column
            origin, direction = lps_frame(volume.geometry)
            voxel = (corner - origin) @ direction / volume.geometry.spacing[::-1]
            assert (voxel > -0.01).all()
            assert (voxel < np.array(volume.geometry.shape[::-1]) - 0.99).all()


@pytest.mark.parametrize(("n", "step"), [(7, -1.8), (10, -1.4), (11, -2.7), (13, -2.85), (7, 1.8)])
def test_slices_that_lie_whole_pixels_aside_come_back_in_their_places(tmp_path, rng, n, step):
    """How many columns are added must not depend on a rounding in one place and not in another."""
    array = rng.integers(0, 2000, (n, 5, 6))
    write_series(tmp_path, array, spacing=(2.0, 0.6, 0.6), step=(step, 0, 2.0))
    (series,) = find_series(tmp_path, untilt=True).series
    volume = read_series(series)
    origin, _ = lps_frame(volume.geometry)
    for number, plane in enumerate(array):
        column = (-20.0 + number * step - origin[0]) / 0.6
        begin = int(np.floor(column + 1e-6))
        share = max(column - begin, 0.0)
        found = volume.array[0, number, :, begin + 1 : begin + 6]
        wanted = (1 - share) * plane[:, 1:] + share * plane[:, :-1]
        np.testing.assert_allclose(found, wanted, atol=0.01)


def test_a_tag_of_tilt_alone_does_not_hurt(tmp_path, array):
    write_series(tmp_path, array, direction=turned(15, 0), GantryDetectorTilt=15)
    assert grid_of(only_series(tmp_path)).shape == SHAPE


def test_rounded_positions_are_accepted(tmp_path, array):
    slices = make_series(array, spacing=(1.25, 1.0, 1.0))
    for number, item in enumerate(slices):
        item.ImagePositionPatient[2] = round(float(item.ImagePositionPatient[2]), 1)
        save(tmp_path / str(number), item)
    assert grid_of(only_series(tmp_path)).spacing[0] == pytest.approx(1.25, abs=0.03)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "several orientations"),
        ({"PixelSpacing": [1.5, 1.3]}, "differ in size or pixel spacing"),
        ({"FrameOfReferenceUID": "1.2.3"}, "differ in patient, study or frame of reference"),
        ({"PatientID": "SECRET-43"}, "differ in patient, study or frame of reference"),
        ({"ImagePositionPatient": [1, 2]}, "are no numbers"),
        ({"PixelSpacing": [0, 1.25]}, "its pixels of 0 x 1.25 mm cannot be"),
        ({"PixelSpacing": [-1, 1.25]}, "its pixels of -1 x 1.25 mm cannot be"),
        ({"PixelSpacing": [1e9, 1e9]}, "mm cannot be"),
        ({"PixelSpacing": [1.5]}, "are no numbers"),
        ({"RescaleSlope": 0}, "its RescaleSlope of 0 cannot be"),
        ({"RescaleSlope": 1e30}, "its RescaleSlope of 1e+30 cannot be"),
        ({"Modality": "CT", "RescaleSlope": 101}, "its RescaleSlope of 101 cannot be"),
        (
            {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1e9},
            "its RescaleIntercept of -1e+09 cannot be",
        ),
        ({"Modality": "CT", "RescaleSlope": 1}, "has no RescaleIntercept, without which a CT"),
        ({"Modality": "CT", "RescaleIntercept": -1024}, "has no RescaleSlope, without which a CT"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
        ({"NumberOfFrames": 3}, "enhanced multi-frame images are not supported"),
    ],
)
def test_images_that_do_not_belong_together_are_refused(tmp_path, array, change, text):
    slices = make_series(array)
    for key, value in change.items():
        setattr(slices[2], key, value)
    if "NumberOfFrames" in change:
        slices[2].PixelData *= 3
    for number, item in enumerate(slices):
        save(tmp_path / str(number), item)
    assert text in problem_of(tmp_path)


def test_what_says_how_to_read_a_series_must_be_known(tmp_path, array):
    (first, *_) = write_series(tmp_path / "syntax", array)
    known, unknown = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"
    first.write_bytes(first.read_bytes().replace(known, unknown))
    said = "its transfer syntax '1.2.840.10008.9.9.9' is unknown"
    assert said in problem_of(tmp_path / "syntax")
    write_series(tmp_path / "series", array, SeriesInstanceUID=None)
    assert "has no SeriesInstanceUID" in problem_of(tmp_path / "series")


def test_rounded_cosines_give_axes_at_right_angles(tmp_path, array):
    rounded = [round(float(cosine), 3) for cosine in turned()[:, :2].T.ravel()]
    write_series(tmp_path, array, direction=turned(), ImageOrientationPatient=rounded)
    direction = np.reshape(grid_of(only_series(tmp_path)).itk_direction, (3, 3))
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(direction, turned(), atol=1e-3)


def test_an_orientation_that_is_none_is_refused(tmp_path, array):
    write_series(tmp_path, array, ImageOrientationPatient=[1, 0, 0, 0.1, 1, 0])
    assert "two unit vectors at right angles" in problem_of(tmp_path)


def test_colours_are_refused(tmp_path, array):
    three = np.repeat(array[..., None], 3, axis=-1) % 256
    slices = make_series(array, SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsStored=8)
    for number, (item, plane) in enumerate(zip(slices, three, strict=True)):
        item.BitsAllocated, item.HighBit, item.PixelRepresentation = 8, 7, 0
        item.PlanarConfiguration = 0
        item.PixelData = plane.astype("u1").tobytes()
        save(tmp_path / str(number), item)
    assert "in colour" in problem_of(tmp_path)


@pytest.mark.parametrize("garbage", [b"1.2.840.1000\xf8.5.1.4.1.1.4", b"1.2.840.10008.5.1.4.1.9.4"])
@pytest.mark.parametrize("places", [1, 2])
def test_a_cut_slice_of_a_damaged_class_is_not_left_aside(tmp_path, array, garbage, places):
    """Without it the others of three slices would be an even stack."""
    files = write_series(tmp_path, array[:3])
    content = files[1].read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.4", garbage, places)
    files[1].write_bytes(content[:-20])
    if places == 1 or garbage[12:13] == b"\xf8":
        assert find_series(tmp_path).series[0].problem is not None
    else:  # both places name a class of something else
        assert find_series(tmp_path).skipped == {"objects without an image": 1}


def test_a_damaged_image_is_named_not_skipped(tmp_path, array):
    files = write_series(tmp_path, array)
    content = files[1].read_bytes()
    files[1].write_bytes(content[: len(content) - 20])
    assert "IM0002: a DICOM image that cannot be read: truncated" in problem_of(tmp_path)


HEADER_OF = {"in the preamble": 90, "in the meta information": 200, "in the header": 700}


@pytest.mark.parametrize("ending", ["", ".dcm"])
@pytest.mark.parametrize("what", ["empty", "zeros", *HEADER_OF, "in the pixels"])
def test_a_damaged_file_among_the_slices_fails_their_series(tmp_path, array, what, ending):
    files = write_series(tmp_path / "a", array, ending=ending)
    write_series(tmp_path / "b", array)
    whole = files[-1].read_bytes()
    n_left = {"empty": 0, "in the pixels": len(whole) - 20, **HEADER_OF}.get(what)
    files[-1].write_bytes(bytes(len(whole)) if n_left is None else whole[:n_left])
    (tmp_path / "a/readme.txt").write_text("notes")
    damaged, sound = find_series(tmp_path).series
    assert f"IM0005{ending}" in damaged.problem
    assert "cannot be read" in damaged.problem
    assert sound.problem is None


@pytest.mark.parametrize(
    ("names", "fails"),
    [
        (("a.dcm", "b.dcm", "lost.dcm"), True),
        (("a.dcm", "b.DCM", "lost.Dcm"), True),
        (("a.dcm", "b.dcm", "lost.txt"), False),
        (("MR.1.2.1", "MR.1.2.2", "MR.1.2.3"), True),
        (("MR.1.2.1", "MR.1.2.2", "CT.1.2.3"), False),
        (("IM00000A", "IM00000B", "IM00001Z"), True),
        (("IM1", "IM2", "VERSION"), False),
    ],
)
def test_a_lost_slice_is_known_by_its_name(tmp_path, array, names, fails):
    for item, name in zip(make_series(array[:2]), names, strict=False):
        save(tmp_path / name, item)
    (tmp_path / names[2]).write_text("lost")
    assert (only_series(tmp_path).problem is not None) == fails


def test_a_slice_without_a_position_fails_its_series(tmp_path, array):
    item = pydicom.dcmread(write_series(tmp_path, array)[-1])
    del item.ImagePositionPatient
    save(tmp_path / "IM0005", item)
    assert "IM0005: has no position in the patient" in problem_of(tmp_path)


def test_wherever_a_file_is_cut_its_series_fails(tmp_path, array):
    last = write_series(tmp_path, array)[-1]
    whole = last.read_bytes()
    for n_left in range(0, len(whole), 7):
        last.write_bytes(whole[:n_left])
        series = find_series(tmp_path).series
        assert all(item.geometry is None for item in series), n_left


def test_a_cut_compressed_image_is_noticed_in_its_header(tmp_path, rng):
    for number, item in enumerate(make_series(rng.integers(0, 99, (3, 64, 64)))):
        save(tmp_path / str(number), item)
        item.compress(RLELossless)
        save(tmp_path / str(number), item, syntax=RLELossless)
    whole = (tmp_path / "1").read_bytes()
    (tmp_path / "1").write_bytes(whole[:-30])
    assert "1: a DICOM image that cannot be read: truncated" in problem_of(tmp_path)


def test_an_image_damaged_after_it_was_found_is_named(tmp_path, array):
    files = write_series(tmp_path, array)
    series = only_series(tmp_path)
    files[1].write_bytes(files[1].read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"IM0002: a DICOM image that cannot be read"):
        read_series(series)


def test_a_single_slice_is_as_thick_as_its_header_says(tmp_path, array):
    write_series(tmp_path / "a", array[:1])
    write_series(tmp_path / "b", array[:1], SliceThickness=None)
    assert grid_of(only_series(tmp_path / "a")).spacing == (3.0, 1.5, 1.25)
    assert grid_of(only_series(tmp_path / "b")).spacing == (1.0, 1.5, 1.25)


def test_channels_must_share_a_grid(tmp_path, array):
    write_series(tmp_path / "a", array)
    write_series(tmp_path / "b", array + 1)
    write_series(tmp_path / "c", array, origin=(0, 0, 0))
    a, b, c = (only_series(tmp_path / name) for name in "abc")
    volume = read_sources(CaseFiles("x", (), series=(a, b)))
    np.testing.assert_array_equal(volume.array, np.stack([array, array + 1]))
    with pytest.raises(DatasetError, match=r"c: MR t1 vibe is not on the grid of MR t1 vibe: orig"):
        read_sources(CaseFiles("x", (), series=(a, c)))


def test_names_of_cases_are_stable_and_tell_nothing(tmp_path, array):
    uid = "1.2.3.4"
    write_series(tmp_path / "a", array, SeriesInstanceUID=uid, PatientID="x")
    write_series(tmp_path / "b", array, SeriesInstanceUID=uid, PatientID="y")
    write_series(tmp_path / "c", array)
    a, b, c = (only_series(tmp_path / name) for name in "abc")
    assert case_name(a) == case_name(b) == "case_6694f83c"
    assert case_name(c) != case_name(a)


def test_the_digest_of_a_series_is_that_of_its_files_in_order(tmp_path, array):
    files = write_series(tmp_path, array)
    before = series_sha256(only_series(tmp_path))
    for number, path in enumerate(files):
        path.rename(tmp_path / f"renamed{9 - number}")
    assert series_sha256(only_series(tmp_path)) == before
    write_series(tmp_path / "other", array)
    assert series_sha256(only_series(tmp_path / "other")) != before


def test_no_dicom_is_said_and_a_missing_folder_too(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.txt").write_text("x" * 200)
    assert not holds_dicom(tmp_path)
    with pytest.raises(DatasetError, match=r"0 DICOM series; left aside: not DICOM \(1\);"):
        only_series(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        find_series(tmp_path / "none")


def test_a_folder_with_dicom_deep_inside_holds_dicom(tmp_path, array):
    write_series(tmp_path / "a/b/c", array)
    assert holds_dicom(tmp_path)


def test_nothing_is_printed(tmp_path, array, capfd, caplog):
    odd = {
        "PatientName": "Müller^Jörg",
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientID": "x" * 70,
    }
    with pytest.warns(UserWarning, match="exceeds the maximum length"):
        write_series(tmp_path, array, **odd)
    (tmp_path / "x").write_bytes(bytes(128) + b"DICM" + b"rubbish" * 30)
    caplog.clear()
    assert find_series(tmp_path).skipped == {"not DICOM": 1}
    read_series(find_series(tmp_path).series[0])
    captured = capfd.readouterr()
    assert captured.out == captured.err == caplog.text == ""


def test_who_reads_no_dicom_does_not_wait_for_pydicom():
    modules = "gdmnet.commands.predict, gdmnet.commands.convert, gdmnet.data.dicom_out"
    script = f"import {modules}, sys; sys.exit('pydicom' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
