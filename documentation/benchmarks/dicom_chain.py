"""A trained MR-to-CT model from DICOM to DICOM: every attribute, every voxel and the grid checked.

    python documentation/benchmarks/dicom_chain.py IMAGES OUT -d 510 [other options of gdm_predict]

The MRs in IMAGES (CASE_0000.nii.gz) are written to OUT/scans as MR series, every second one turned
about two axes, so that it is oblique. gdm_predict makes CT series of them on both grids, which
pydicom reads. Printed is a table with a line a series; the exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from gdmnet.commands import predict
from gdmnet.data.case import Series, Volume
from gdmnet.data.dicom import case_name, grid_of, only_series
from gdmnet.data.regrid import axial_grid, regrid
from gdmnet.data.volume import read_volume

# fmt: off
TYPE_1 = [
    "StudyInstanceUID", "Modality", "SeriesInstanceUID", "FrameOfReferenceUID", "PixelSpacing",
    "ImageOrientationPatient", "ImagePositionPatient", "SamplesPerPixel",
    "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelData", "ImageType", "RescaleIntercept", "RescaleSlope",
    "RescaleType", "SOPClassUID", "SOPInstanceUID", "WindowCenter", "WindowWidth",
]
TYPE_2 = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "ReferringPhysicianName", "AccessionNumber", "SeriesNumber", "PatientPosition",
    "PositionReferenceIndicator", "Manufacturer", "InstanceNumber", "SliceThickness", "KVP",
    "AcquisitionNumber",
]
"""Of the CT Image IOD (PS3.3 A.3.3); RescaleType, window and PatientPosition are 1C and 2C."""
COPIED = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientPosition",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "FrameOfReferenceUID",
]
# fmt: on
AIR = -1024


def turned(degrees_x: float, degrees_z: float) -> NDArray:
    """Direction cosines, a column an axis, turned about x, then z."""
    a, b = np.deg2rad([degrees_x, degrees_z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_z @ about_x


def write_mr(image: Path, folder: Path, direction: NDArray) -> None:
    """An image as a series of MR Image Storage."""
    volume = read_volume(image)
    array, spacing = np.rint(volume.array[0]).astype("<i2"), volume.geometry.spacing
    common = {
        "SOPClassUID": MRImageStorage, "Modality": "MR", "Manufacturer": "dicom_chain",
        "PatientName": f"Chain^{image.name[:11]}", "PatientID": image.name[:11],
        "PatientBirthDate": "19500102", "PatientSex": "O", "PatientPosition": "HFS",
        "StudyInstanceUID": generate_uid(), "StudyDate": "20240301", "StudyTime": "101112",
        "StudyID": "7", "AccessionNumber": "A1", "ReferringPhysicianName": "",
        "FrameOfReferenceUID": generate_uid(), "PositionReferenceIndicator": "",
        "SeriesInstanceUID": generate_uid(), "SeriesDescription": "t1", "SeriesNumber": 5,
        "ImageType": ["ORIGINAL", "PRIMARY", "M"], "ScanningSequence": "SE",
        "SequenceVariant": "NONE",
        "ScanOptions": "", "MRAcquisitionType": "3D", "EchoTime": 10, "EchoTrainLength": 1,
        "ImageOrientationPatient": [f"{v:.12g}" for v in direction[:, :2].T.ravel()],
        "PixelSpacing": [f"{mm:.12g}" for mm in spacing[1:]],
        "SliceThickness": f"{spacing[0]:.12g}", "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "Rows": array.shape[1],
        "Columns": array.shape[2], "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
        "PixelRepresentation": 1,
    }  # fmt: skip
    folder.mkdir(parents=True)
    for number, plane in enumerate(array):
        item = Dataset()
        for key, value in common.items():
            setattr(item, key, value)
        position = np.array([-100.0, -80.5, 40.25]) + number * spacing[0] * direction[:, 2]
        item.ImagePositionPatient = [f"{v:.12g}" for v in position]
        item.SOPInstanceUID, item.InstanceNumber = generate_uid(), number + 1
        item.PixelData = plane.tobytes()
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.save_as(folder / f"MR{number:04d}.dcm", enforce_file_format=True)


def attributes(slices: list[Dataset], source: Dataset) -> list[str]:
    """What is wrong with the attributes of a series."""
    wrong = []
    for item in slices:
        wrong += [f"{k} (type 1)" for k in TYPE_1 if k not in item or item[k].is_empty]
        wrong += [f"{k} (type 2)" for k in TYPE_2 if k not in item]
        wrong += [f"{k} copied" for k in COPIED if item.get(k) != source.get(k)]
        wrong += ["private" for element in item if element.tag.is_private]
    first = slices[0]
    facts = {
        "CT Image Storage": first.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2",
        "Modality": first.Modality == "CT",
        "slope and intercept": (first.RescaleSlope, first.RescaleIntercept) == (1, AIR),
        "RescaleType": first.RescaleType == "HU",
        "ImageType": list(first.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"],
        "new UIDs": len({s.SOPInstanceUID for s in slices}) == len(slices)
        and all(s.SeriesInstanceUID.startswith("2.25.") for s in slices)
        and len({s.SeriesInstanceUID for s in slices}) == 1,
    }
    return sorted({*wrong, *(name for name, is_right in facts.items() if not is_right)})


def check(case: str, folder: Path, grid: str, scan: Series) -> tuple[str, bool]:
    """A row of the table for one series, and whether all is well."""
    source = pydicom.dcmread(scan.files[0])
    slices = [pydicom.dcmread(path) for path in sorted((folder / f"{case}_dicom").iterdir())]
    axes = np.reshape(slices[0].ImageOrientationPatient, (2, 3)).astype(float)
    normal = np.cross(*axes)
    slices.sort(key=lambda item: float(np.dot(normal, item.ImagePositionPatient)))
    stored = np.stack(
        [item.pixel_array * item.RescaleSlope + item.RescaleIntercept for item in slices]
    )
    volume = Volume(read_volume(folder / f"{case}.nii.gz").array, grid_of(scan))
    if grid == "axial":
        volume = regrid(volume, axial_grid(volume.geometry), fill=AIR)
    expected = np.maximum(np.rint(volume.array[0]), AIR)
    same = stored.shape == expected.shape
    difference = float(np.abs(stored - expected).max()) if same else float("inf")
    places = np.array([item.ImagePositionPatient for item in slices], dtype=float)
    frame = np.reshape(volume.geometry.itk_direction, (3, 3))
    steps = np.arange(len(slices))[:, None] * volume.geometry.spacing[0] * frame[:, 2]
    off = np.abs(places - (np.array(volume.geometry.itk_origin) + steps)).max()
    off = max(
        off, np.abs(np.reshape(slices[0].ImageOrientationPatient, (2, 3)) - frame[:, :2].T).max()
    )
    spacing = [*map(float, slices[0].PixelSpacing), float(slices[0].SliceThickness)]
    z, y, x = volume.geometry.spacing
    off = max(off, np.abs(np.subtract(spacing, [y, x, z])).max())
    wrong = attributes(slices, source)
    row = (
        f"| {source.PatientID} | {grid} | {'x'.join(map(str, stored.shape))} |"
        f" {len(TYPE_1)} + {len(TYPE_2)}: {', '.join(wrong) or 'all there'} | {difference:g} |"
        f" {off:.1e} |"
    )
    return row, not wrong and difference == 0 and off < 1e-4


def main(images: Path, out: Path, options: list[str]) -> int:
    """Make the scans, predict on both grids, check, print."""
    shutil.rmtree(out, ignore_errors=True)
    scans: dict[str, Series] = {}
    for number, image in enumerate(sorted(images.glob("*_0000.nii.gz"))):
        direction = turned(12, 7) if number % 2 else np.eye(3)
        folder = out / "scans" / f"patient_{number}"
        write_mr(image, folder, direction)
        scan = only_series(folder)
        scans[case_name(scan)] = scan
    rows, sound = [], True
    for grid in ("axial", "source"):
        begin = time.perf_counter()
        where = ["-i", str(out / "scans"), "-o", str(out / grid)]
        if predict.main([*where, "--dicom-out", "--dicom-grid", grid, *options]) != 0:
            return 2
        print(f"{grid}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
        for case, scan in scans.items():
            row, is_sound = check(case, out / grid, grid, scan)
            rows.append(row)
            sound &= is_sound
    print("| patient | grid | slices, rows, columns | type 1 + 2 | HU differ by | grid off by |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))
    return 0 if sound else 1


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
