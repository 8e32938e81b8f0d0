"""Small DICOM series made with pydicom, attribute by attribute."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, MRImageStorage

AXIAL = np.eye(3)
SAGITTAL = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])  # rows to the back, columns to the feet
_uids = itertools.count(1)


def new_uid() -> str:
    return f"1.2.826.0.1.3680043.9999.{next(_uids)}"


def turned(degrees_x=12.0, degrees_z=7.0) -> np.ndarray:
    """Direction cosines (a column an axis) turned about x, then z."""
    a, b = np.deg2rad([degrees_x, degrees_z])
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_z = [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_x)


def make_series(
    array: np.ndarray,
    *,
    direction=AXIAL,
    origin=(-20.0, -15.5, 40.25),
    spacing=(3.0, 1.5, 1.25),
    step=None,
    **attributes,
) -> list[Dataset]:
    """One data set a slice.

    Args:
        array: whole numbers (slice, row, column).
        direction: columns are the patient directions of column number, row number, slice number.
        origin: (x, y, z) of the first voxel.
        spacing: mm between slices, rows, columns.
        step: (x, y, z) from slice to slice, by default along the third direction.
        attributes: of every slice, by pydicom's keywords; None takes one away.
    """
    step = spacing[0] * direction[:, 2] if step is None else np.asarray(step)
    common = {
        "Modality": "MR",
        "PatientName": "Doe^Jane",
        "PatientID": "SECRET-42",
        "PatientBirthDate": "19500102",
        "PatientSex": "F",
        "PatientPosition": "HFS",
        "StudyInstanceUID": "1.2.826.0.1.3680043.9999.1000",
        "StudyDate": "20240301",
        "StudyTime": "101112",
        "StudyID": "7",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "Who^Doctor",
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.9999.2000",
        "PositionReferenceIndicator": "",
        "SeriesInstanceUID": new_uid(),
        "SeriesDescription": "t1 vibe",
        "SeriesNumber": 5,
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "ImageOrientationPatient": [*direction[:, 0], *direction[:, 1]],
        "PixelSpacing": list(spacing[1:]),
        "SliceThickness": spacing[0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": array.shape[1],
        "Columns": array.shape[2],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "EchoTime": 4.2,
        "MagneticFieldStrength": 1.5,
    }
    if attributes.get("Modality") == "CT":
        common |= {"RescaleSlope": 1, "RescaleIntercept": 0}
    common = {key: value for key, value in {**common, **attributes}.items() if value is not None}
    slices = []
    for number, plane in enumerate(array):
        item = Dataset()
        item.SOPClassUID = CTImageStorage if common["Modality"] == "CT" else MRImageStorage
        item.SOPInstanceUID = new_uid()
        item.InstanceNumber = number + 1
        item.ImagePositionPatient = list(np.asarray(origin) + number * step)
        for key, value in common.items():
            setattr(item, key, value)
        item.PixelData = np.ascontiguousarray(plane).astype("<i2").tobytes()
        slices.append(item)
    return slices


def save(path: Path, item: Dataset, *, syntax=ExplicitVRLittleEndian, preamble=True) -> Path:
    """Write one file; without preamble it has no meta information either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not preamble:
        how = {"implicit_vr": syntax.is_implicit_VR, "little_endian": syntax.is_little_endian}
        item.save_as(path, enforce_file_format=False, **how)
        return path
    item.file_meta = FileMetaDataset()
    item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID
    item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID
    item.file_meta.TransferSyntaxUID = syntax
    item.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    array: np.ndarray,
    *,
    first=1,
    ending="",
    syntax=ExplicitVRLittleEndian,
    preamble=True,
    **options,
) -> list[Path]:
    """`make_series` with its options to IM0001, IM0002, ... in a folder."""
    slices = make_series(array, **options)
    if syntax == ExplicitVRBigEndian:
        for item in slices:
            item["PixelData"].VR = "OW"
            item.PixelData = np.frombuffer(item.PixelData, "<i2").byteswap().tobytes()
    return [
        save(folder / f"IM{i:04d}{ending}", item, syntax=syntax, preamble=preamble)
        for i, item in enumerate(slices, start=first)
    ]


def make_other(sop_class: str, modality: str) -> Dataset:
    """An object without pixels, such as an RTSTRUCT."""
    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID, item.Modality = sop_class, new_uid(), modality
    item.PatientName = "Doe^Jane"
    return item


def make_structures(structures: dict, frame: str, series: str = "") -> Dataset:
    """An RTSTRUCT: name -> contours, each a list of points (x, y, z) in mm."""
    item = make_other("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT")
    place, study, images = Dataset(), Dataset(), Dataset()
    place.FrameOfReferenceUID, images.SeriesInstanceUID = frame, series
    study.RTReferencedSeriesSequence = [images]
    place.RTReferencedStudySequence = [study]
    item.ReferencedFrameOfReferenceSequence = [place]
    item.StructureSetROISequence, item.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [round(float(value), 3) for value in np.ravel(points)]
            drawn.ContourSequence.append(contour)
        item.StructureSetROISequence.append(roi)
        item.ROIContourSequence.append(drawn)
    return item


def make_registration(frames: dict) -> Dataset:
    """A REG object: frame of reference -> matrix (4, 4) into the first one's space."""
    item = make_other("1.2.840.10008.5.1.4.1.1.66.1", "REG")
    item.FrameOfReferenceUID = next(iter(frames))
    item.RegistrationSequence = []
    for frame, matrix in frames.items():
        entry, registration, step = Dataset(), Dataset(), Dataset()
        step.FrameOfReferenceTransformationMatrixType = "RIGID"
        step.FrameOfReferenceTransformationMatrix = [f"{value:.10g}" for value in np.ravel(matrix)]
        registration.MatrixSequence = [step]
        entry.FrameOfReferenceUID, entry.MatrixRegistrationSequence = frame, [registration]
        item.RegistrationSequence.append(entry)
    return item
