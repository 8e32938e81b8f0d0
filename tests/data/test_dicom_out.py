"""Writing: pydicom reads every attribute, and GDCM, which shares no code with it, every voxel."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicoms import AXIAL, SAGITTAL, turned, write_series
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

import gdmnet
from gdmnet.data.case import Volume
from gdmnet.data.dicom import only_series, read_series
from gdmnet.data.dicom_out import Maker, write_ct_series
from gdmnet.data.regrid import axial_grid, regrid
from gdmnet.data.volume import read_volume
from gdmnet.errors import DatasetError, OutputError
from gdmnet.geometry import Geometry, grid_difference, nearest_lps, to_stored

SHAPE = (6, 8, 10)  # slices, rows, columns
MAKER = Maker("Dataset510_MRtoCT gdm__3d_fullres", "folds 0, 1; final checkpoints")

IOD = {
    "Patient": {1: [], 2: ["PatientName", "PatientID", "PatientBirthDate", "PatientSex"]},
    "General Study": {
        1: ["StudyInstanceUID"],
        2: ["StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"],
    },
    "General Series": {
        1: ["Modality", "SeriesInstanceUID"],
        2: ["SeriesNumber", "PatientPosition"],  # the latter is 2C, and required for CT
    },
    "Frame of Reference": {1: ["FrameOfReferenceUID"], 2: ["PositionReferenceIndicator"]},
    "General Equipment": {1: [], 2: ["Manufacturer"]},
    "General Image": {1: [], 2: ["InstanceNumber"]},
    "Image Plane": {
        1: ["PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"],
        2: ["SliceThickness"],
    },
    "Image Pixel": {
        1: [
            "SamplesPerPixel",
            "PhotometricInterpretation",
            "Rows",
            "Columns",
            "BitsAllocated",
            "BitsStored",
            "HighBit",
            "PixelRepresentation",
            "PixelData",
        ],
        2: [],
    },
    "CT Image": {
        1: ["ImageType", "RescaleIntercept", "RescaleSlope", "RescaleType"],
        2: ["KVP", "AcquisitionNumber"],
    },
    "VOI LUT": {1: ["WindowCenter", "WindowWidth"], 2: []},
    "SOP Common": {1: ["SOPClassUID", "SOPInstanceUID"], 2: []},
}
"""Attributes of type 1 and 2 of the CT Image IOD (PS3.3 A.3.3); 1C and 2C where they apply."""
OPTIONAL = {
    "SpecificCharacterSet",
    "StudyDescription",
    "IssuerOfPatientID",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "InstanceCreationDate",
    "InstanceCreationTime",
    "SeriesDate",
    "SeriesTime",
    "ContentDate",
    "ContentTime",
    "SyntheticData",
    "SeriesDescription",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DerivationDescription",
    "BurnedInAnnotation",
    "SliceLocation",
    "SpacingBetweenSlices",
    "SourceImageSequence",
}
SAME_IN_THE_SOURCE = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientPosition",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
]


@pytest.fixture
def hounsfield(rng):
    """HU with the extremes of CT."""
    array = rng.integers(-1024, 3072, SHAPE).astype(np.float32)
    array[0, 0, :4] = -1024, 3071, 12000, 0
    return array


def mr(folder, rng, **options):
    write_series(folder, rng.integers(0, 900, SHAPE), **options)
    return only_series(folder)


def lps(hounsfield, geometry):
    """The array as a volume of that grid, whatever its order of axes."""
    return Volume(np.resize(hounsfield, geometry.shape)[None], geometry)


def read(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.glob("CT_*.dcm"))]


def pydicom_volume(slices):
    """HU (slice, row, column) and the Geometry of slices sorted by pydicom's attributes."""
    first = slices[0]
    along_row, along_column = np.reshape(first.ImageOrientationPatient, (2, 3)).astype(float)
    normal = np.cross(along_row, along_column)
    heights = [float(np.dot(normal, np.array(s.ImagePositionPatient, float))) for s in slices]
    assert heights == sorted(heights)
    array = np.stack([pydicom.pixels.apply_modality_lut(s.pixel_array, s) for s in slices])
    cosines = tuple(np.stack([along_row, along_column, normal], axis=1).ravel())
    axes, flips = nearest_lps(cosines)
    distance = (heights[-1] - heights[0]) / (len(slices) - 1)
    spacing = (distance, *(float(value) for value in first.PixelSpacing))
    geometry = Geometry(
        tuple(array.shape[a] for a in axes),
        tuple(spacing[a] for a in axes),
        tuple(float(value) for value in first.ImagePositionPatient),
        cosines,
        axes,
        flips,
    )
    return array, geometry


def gdcm_volume(folder):
    """The same by GDCM."""
    names = [str(path) for path in sorted(folder.glob("CT_*.dcm"))]
    image = sitk.ReadImage(names, sitk.sitkFloat32, imageIO="GDCMImageIO")
    axes, flips = nearest_lps(image.GetDirection())
    array, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    geometry = Geometry(
        tuple(array.shape[a] for a in axes),
        tuple(spacing[a] for a in axes),
        image.GetOrigin(),
        image.GetDirection(),
        axes,
        flips,
    )
    return array, geometry


def test_every_attribute_of_type_1_and_2_is_there_and_no_other(tmp_path, rng, hounsfield):
    series = mr(tmp_path / "mr", rng, EthnicGroup="x", InstitutionName="Clinic", PatientAge="075Y")
    write_ct_series(tmp_path / "ct", lps(hounsfield, series.geometry), series, MAKER)
    allowed = set(OPTIONAL)
    for slice_ in read(tmp_path / "ct"):
        for module, types in IOD.items():
            for keyword in types[1]:
                assert slice_.get(keyword) not in (None, ""), (module, keyword)
            for keyword in types[2]:
                assert keyword in slice_, (module, keyword)
            allowed |= set(types[1]) | set(types[2])
        assert {element.keyword for element in slice_} <= allowed
        assert not any(element.tag.is_private for element in slice_)
        for element in slice_:  # VRs of copied elements are those of the standard, too
            known = pydicom.datadict.dictionary_VR(element.tag).split(" or ")
            assert element.VR in known, element


def test_it_is_a_ct_of_the_same_patient_study_and_frame(tmp_path, rng, hounsfield):
    series = mr(tmp_path / "mr", rng, StudyDescription="Prostate", IssuerOfPatientID="Clinic")
    write_ct_series(tmp_path / "ct", lps(hounsfield, series.geometry), series, MAKER)
    source = pydicom.dcmread(series.files[0])
    slices = read(tmp_path / "ct")
    assert len(slices) == SHAPE[0]
    for slice_ in slices:
        for keyword in [*SAME_IN_THE_SOURCE, "StudyDescription", "IssuerOfPatientID"]:
            assert slice_.get(keyword) == source.get(keyword), keyword
        assert slice_.SOPClassUID == pydicom.uid.CTImageStorage
        assert slice_.file_meta.MediaStorageSOPClassUID == pydicom.uid.CTImageStorage
        assert slice_.file_meta.MediaStorageSOPInstanceUID == slice_.SOPInstanceUID
        assert slice_.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert slice_.Modality == "CT"
        assert slice_.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert (slice_.RescaleSlope, slice_.RescaleIntercept) == (1, -1024)
        assert slice_.RescaleType == "HU"
        assert slice_.KVP is None
        assert (slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit) == (16, 16, 15)
        assert slice_.PixelRepresentation == 1
        assert slice_.SyntheticData == "YES"
    assert {s.SeriesInstanceUID for s in slices} != {source.SeriesInstanceUID}
    assert len({s.SeriesInstanceUID for s in slices}) == 1
    assert len({s.SOPInstanceUID for s in slices}) == len(slices)
    assert [s.InstanceNumber for s in slices] == list(range(1, 1 + len(slices)))
    uids = [slices[0].SeriesInstanceUID, *(s.SOPInstanceUID for s in slices)]
    assert all(uid.startswith("2.25.") and uid.is_valid for uid in uids)
    assert slices[0].file_meta.ImplementationClassUID.is_valid


def test_the_descriptions_name_gdmnet_model_and_version(tmp_path, rng, hounsfield):
    series = mr(tmp_path / "mr", rng)
    write_ct_series(tmp_path / "ct", lps(hounsfield, series.geometry), series, MAKER)
    first = read(tmp_path / "ct")[0]
    version = gdmnet.__version__
    assert first.SeriesDescription == "sCT of t1 vibe"
    assert first.SeriesNumber == 1005
    for word in ("gdmnet", version, MAKER.model, MAKER.details, "modality MR", "Not for diagnosis"):
        assert word in first.DerivationDescription
    assert "resampled to an axial grid" in first.DerivationDescription  # pixels 1.5 x 1.25 mm
    assert first.SoftwareVersions == version


def test_a_long_name_with_odd_letters_is_cut_to_what_dicom_takes(tmp_path, rng, hounsfield):
    text = {"SeriesDescription": "Schädel " * 8, "SpecificCharacterSet": "ISO_IR 100"}
    series = mr(tmp_path / "mr", rng, **text)
    maker = Maker("Dataset510_Größe\\x " + "y" * 99, "z" * 2000)
    write_ct_series(tmp_path / "ct", lps(hounsfield, series.geometry), series, maker)
    first = read(tmp_path / "ct")[0]
    assert first.SeriesDescription == f"sCT of {'Schädel ' * 8}"[:64].rstrip()
    assert "Gr??e/x" in first.DerivationDescription
    assert len(first.DerivationDescription) == 1024


def test_each_slice_names_the_images_that_it_comes_from(tmp_path, rng):
    series = mr(tmp_path / "mr", rng, direction=turned(), SeriesNumber=None)
    images = [pydicom.dcmread(path).SOPInstanceUID for path in series.files]
    volume = lps(np.zeros(SHAPE, np.float32), series.geometry)
    for grid in ("source", "axial"):
        write_ct_series(tmp_path / grid, volume, series, MAKER, grid=grid)
        slices = read(tmp_path / grid)
        assert slices[0].SeriesNumber == 1000
        named = [[i.ReferencedSOPInstanceUID for i in s.SourceImageSequence] for s in slices]
        assert named == ([[uid] for uid in images] if grid == "source" else [images] * len(slices))
    kinds = {image.ReferencedSOPClassUID for image in slices[0].SourceImageSequence}
    assert kinds == {pydicom.uid.MRImageStorage}


DIRECTIONS = pytest.mark.parametrize(
    "direction", [AXIAL, SAGITTAL, turned()], ids=["axial", "sagittal", "oblique"]
)


@DIRECTIONS
def test_on_the_sources_grid_hu_and_geometry_come_back(tmp_path, rng, hounsfield, direction):
    series = mr(tmp_path / "mr", rng, direction=direction)
    volume = lps(hounsfield, series.geometry)
    write_ct_series(tmp_path / "ct", volume, series, MAKER, grid="source")
    slices = read(tmp_path / "ct")
    array, geometry = pydicom_volume(slices)
    again = read_series(only_series(tmp_path / "ct"))
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_array_equal(array, to_stored(volume.array[0], series.geometry))
    assert_same_geometry(geometry, series.geometry)
    assert_same_geometry(again.geometry, series.geometry)
    array, geometry = gdcm_volume(tmp_path / "ct")
    np.testing.assert_array_equal(array, to_stored(volume.array[0], series.geometry))
    assert grid_difference(geometry, series.geometry) is None  # GDCM rounds
    for written, path in zip(slices, series.files, strict=True):
        source = pydicom.dcmread(path)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            np.testing.assert_allclose(
                np.array(written[keyword].value, float),
                np.array(source[keyword].value, float),
                rtol=0,
                atol=1e-10,
            )
            assert all(len(str(value)) <= 16 for value in np.atleast_1d(written[keyword].value))
        assert (written.Rows, written.Columns) == (source.Rows, source.Columns)
    assert "resampled" not in slices[0].DerivationDescription


def assert_same_geometry(a, b):
    assert grid_difference(a, b) is None
    np.testing.assert_allclose(a.spacing, b.spacing, rtol=0, atol=1e-9)
    np.testing.assert_allclose(a.itk_origin, b.itk_origin, rtol=0, atol=1e-9)
    np.testing.assert_allclose(a.itk_direction, b.itk_direction, rtol=0, atol=1e-9)


@DIRECTIONS
def test_on_the_axial_grid_slices_are_axial_and_pixels_square(tmp_path, rng, direction):
    series = mr(tmp_path / "mr", rng, direction=direction)
    volume = lps(rng.integers(-1000, 1500, SHAPE).astype(np.float32), series.geometry)
    write_ct_series(tmp_path / "ct", volume, series, MAKER)
    slices = read(tmp_path / "ct")
    for slice_ in slices:
        assert slice_.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        assert slice_.PixelSpacing[0] == slice_.PixelSpacing[1]
        assert slice_.SliceThickness == slice_.SpacingBetweenSlices
        assert slice_.SliceLocation == slice_.ImagePositionPatient[2]
    steps = np.diff([float(slice_.ImagePositionPatient[2]) for slice_ in slices])
    np.testing.assert_allclose(steps, float(slices[0].SliceThickness), atol=1e-4)
    array, geometry = pydicom_volume(slices)
    wanted = axial_grid(series.geometry)
    assert_same_geometry(geometry, wanted)
    moved = regrid(volume, wanted, fill=-1024.0)
    np.testing.assert_array_equal(array, np.rint(moved.array[0]))


def test_a_sagittal_scan_with_square_pixels_is_copied_not_interpolated(tmp_path, rng, hounsfield):
    series = mr(tmp_path / "mr", rng, direction=SAGITTAL, spacing=(1.2, 1.2, 1.2))
    volume = lps(hounsfield, series.geometry)
    write_ct_series(tmp_path / "ct", volume, series, MAKER)
    array, _ = pydicom_volume(read(tmp_path / "ct"))
    np.testing.assert_array_equal(array, volume.array[0])


def test_a_grid_that_runs_downwards_is_written_upwards(tmp_path, rng, hounsfield):
    """NIfTI files may count slices from head to feet, which no series read from DICOM does."""
    series = mr(tmp_path / "mr", rng)
    cosines = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    axes, flips = nearest_lps(cosines)
    geometry = Geometry(SHAPE, (3.0, 1.5, 1.25), (-20.0, -15.5, 90.0), cosines, axes, flips)
    volume = Volume(hounsfield[None], geometry)
    write_ct_series(tmp_path / "ct", volume, series, MAKER, grid="source")
    array, written = pydicom_volume(read(tmp_path / "ct"))
    np.testing.assert_array_equal(array, hounsfield)
    assert grid_difference(written, geometry) is None


def test_hu_are_rounded_and_only_what_no_ct_can_hold_is_clipped(tmp_path, rng):
    series = mr(tmp_path / "mr", rng)
    array = np.zeros(SHAPE, np.float32)
    array[0, 0, :6] = 0.4, 0.6, -0.6, -3024.0, -1024.0, 40000.0
    volume = Volume(array[None], series.geometry)
    write_ct_series(tmp_path / "ct", volume, series, MAKER, grid="source")
    read_back, _ = pydicom_volume(read(tmp_path / "ct"))
    assert read_back[0, 0, :6].tolist() == [0, 1, -1, -1024, -1024, 31743]


COPIED = [*SAME_IN_THE_SOURCE, "StudyDescription"]


@pytest.mark.parametrize(
    ("syntax", "preamble"),
    [
        (ExplicitVRLittleEndian, True),
        (ImplicitVRLittleEndian, True),
        (ImplicitVRLittleEndian, False),
        (ExplicitVRBigEndian, True),
    ],
)
@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Müller^Jörg=王^小東"),
        ("ISO_IR 144", "Иванов"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_what_is_copied_stays_byte_for_byte(
    tmp_path, rng, hounsfield, character_set, name, syntax, preamble
):
    texts = {"PatientName": name, "PatientID": "  odd  ", "StudyDescription": "a\\b", "StudyID": ""}
    write_series(
        tmp_path / "mr",
        rng.integers(0, 900, SHAPE),
        syntax=syntax,
        preamble=preamble,
        SpecificCharacterSet=character_set,
        **texts,
    )
    series = only_series(tmp_path / "mr")
    write_ct_series(tmp_path / "ct", lps(hounsfield, series.geometry), series, MAKER)
    source, written = pydicom.dcmread(series.files[0], force=True), read(tmp_path / "ct")[0]
    for keyword in COPIED:
        before, after = source.get_item(keyword), written.get_item(keyword)
        assert bytes(after.value or b"") == bytes(before.value or b""), keyword
        assert pydicom.datadict.dictionary_VR(after.tag) == after.VR
    assert written.SpecificCharacterSet == source.SpecificCharacterSet == character_set
    assert written.PatientName == source.PatientName == name


def test_a_value_that_no_character_set_explains_is_copied_all_the_same(tmp_path, rng, hounsfield):
    """Latin letters under a multi-byte set, and an odd number of bytes, which DICOM never has."""
    for path in write_series(tmp_path / "mr", rng.integers(0, 9, SHAPE), PatientName="AAAA^BBB"):
        text = path.read_bytes()
        path.write_bytes(text.replace(b"PN\x08\0AAAA^BBB", b"PN\x07\0M\xfcll^J\x1b"))
    series = only_series(tmp_path / "mr")
    write_ct_series(tmp_path / "ct", lps(hounsfield, series.geometry), series, MAKER)
    written = read(tmp_path / "ct")[0]
    assert written.get_item("PatientName").value == b"M\xfcll^J\x1b "


def test_what_the_source_lacks_is_empty_and_not_invented(tmp_path, rng, hounsfield):
    gone = ["StudyDate", "PatientBirthDate", "AccessionNumber", "PatientPosition", "StudyID"]
    series = mr(tmp_path / "mr", rng, **dict.fromkeys(gone))
    write_ct_series(tmp_path / "ct", lps(hounsfield, series.geometry), series, MAKER)
    written = read(tmp_path / "ct")[0]
    for keyword in gone:
        assert written[keyword].is_empty


def test_a_deidentified_source_gives_a_deidentified_series(tmp_path, rng, hounsfield):
    plain = mr(tmp_path / "a", rng, PatientIdentityRemoved="YES")
    named = mr(tmp_path / "b", rng, PatientIdentityRemoved="YES", DeidentificationMethod="CTP")
    for name, series, method in [("x", plain, "as the source series"), ("y", named, "CTP")]:
        write_ct_series(tmp_path / name, lps(hounsfield, series.geometry), series, MAKER)
        written = read(tmp_path / name)[0]
        assert (written.PatientIdentityRemoved, written.DeidentificationMethod) == ("YES", method)


def test_a_template_without_a_frame_of_reference_is_refused(tmp_path, rng, hounsfield):
    series = mr(tmp_path / "mr", rng, FrameOfReferenceUID=None)
    with pytest.raises(DatasetError, match="has no StudyInstanceUID or FrameOfReferenceUID"):
        write_ct_series(tmp_path / "ct", lps(hounsfield, series.geometry), series, MAKER)
    assert not (tmp_path / "ct").exists()


@pytest.mark.parametrize("number", [0, 2])
def test_a_template_that_is_gone_is_named(tmp_path, rng, hounsfield, number):
    series = mr(tmp_path / "mr", rng)
    series.files[number].unlink()
    with pytest.raises(DatasetError, match=r"IM000\d: cannot be read \(No such file"):
        write_ct_series(tmp_path / "ct", lps(hounsfield, series.geometry), series, MAKER)
    assert not (tmp_path / "ct").exists()


def test_the_whole_series_or_nothing(tmp_path, rng, hounsfield, monkeypatch):
    series = mr(tmp_path / "mr", rng)
    volume = lps(hounsfield, series.geometry)
    write_ct_series(tmp_path / "ct", volume, series, MAKER)
    before = {path.name: path.read_bytes() for path in (tmp_path / "ct").iterdir()}
    write = pydicom.dcmwrite

    def full_disk(path, item, **options):
        if path.name == "CT_0003.dcm":
            raise OSError(28, "No space left on device")
        write(path, item, **options)

    monkeypatch.setattr(pydicom, "dcmwrite", full_disk)
    for name in ("ct", "new"):
        with pytest.raises(OutputError, match="No space left on device"):
            write_ct_series(tmp_path / name, volume, series, MAKER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "mr"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "ct").iterdir()} == before


def test_a_second_series_replaces_the_first_under_new_uids(tmp_path, rng, hounsfield):
    series = mr(tmp_path / "mr", rng)
    uids = []
    for n_slices in (6, 4):
        geometry = Geometry((n_slices, 8, 10), (3.0, 1.5, 1.25))
        volume = Volume(hounsfield[None, :n_slices], geometry)
        write_ct_series(tmp_path / "ct", volume, series, MAKER)
        slices = read(tmp_path / "ct")
        assert len(slices) == n_slices
        uids.append(slices[0].SeriesInstanceUID)
    assert uids[0] != uids[1]


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1.0, -1024.0, 1 / 3, -123.456789012345678, -1e-17, -1.23e-5, 1e5 / 7]
)
def test_places_fit_into_decimal_strings(tmp_path, rng, hounsfield, value):
    series = mr(tmp_path / "mr", rng, origin=(value, 0, 0), spacing=(3, 1, 1))
    write_ct_series(tmp_path / "ct", lps(hounsfield, series.geometry), series, MAKER)
    text = read(tmp_path / "ct")[0].get_item("ImagePositionPatient").value.split(b"\\")[0].decode()
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, abs=1e-9, rel=1e-12)
    assert text.startswith("-") == (float(text) < 0)


@pytest.mark.real
def test_a_real_scan_goes_through_dicom_and_comes_back_to_the_voxel(shared, tmp_path):
    raw = shared / "data/raw/Dataset510_SimulatedMRtoCT"
    case = "headneck_02"
    mr, ct = raw / f"imagesTr/{case}_0000.nii.gz", raw / f"targetsTr/{case}.nii.gz"
    image = sitk.ReadImage(str(mr))
    write_series(
        tmp_path / "mr",
        sitk.GetArrayFromImage(image),
        direction=np.reshape(image.GetDirection(), (3, 3)),
        origin=image.GetOrigin(),
        spacing=image.GetSpacing()[::-1],
    )
    series = only_series(tmp_path / "mr")
    source, target = read_series(series), read_volume(ct)
    np.testing.assert_array_equal(source.array, read_volume(mr).array)
    assert_same_geometry(source.geometry, read_volume(mr).geometry)
    for grid in ("axial", "source"):
        write_ct_series(tmp_path / grid, target, series, MAKER, grid=grid)
        array, geometry = pydicom_volume(read(tmp_path / grid))
        np.testing.assert_array_equal(array, target.array[0])
        assert_same_geometry(geometry, target.geometry)
