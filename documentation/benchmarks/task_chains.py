"""Three chains of commands on whole tasks: sparse-view CT, DICOM to DICOM, single slices.

    gdm_simulate_sparse_view -i ct -d 502 --views 60,20,120 --split split.json --keep-sinograms
    gdm_plan_and_preprocess 502 --preset cpu
    gdm_train 502 3d_fullres all --realism-dial
    python documentation/benchmarks/task_chains.py sparse-view RAW/Dataset502_X ... -m MODEL -o OUT
    python documentation/benchmarks/task_chains.py dicom IMAGES OUT -m MODEL
    python documentation/benchmarks/task_chains.py slices RAW/Dataset501_X RAW/Dataset504_Slices

sparse-view: FBP, FBP with less total variation, and a model with its regression twin at several
settings of its dial and with data consistency, on the held-out cases of one dataset or several, all
judged in the same bodies: OUT/DATASET/table.md. The weight of the total variation (scikit-image's
denoise_tv_chambolle of the whole volume) is the best of a few on training cases of each dataset.
What is finished is kept; `gdm_report` shows OUT/DATASET/rows/*/predictions.

dicom: the MRs in IMAGES (CASE_0000.nii.gz) become MR series in OUT/scans, every second one turned
about two axes, so that it is oblique. gdm_predict makes CT series of them on both grids, which
pydicom reads: every attribute, every voxel and the grid is checked. The exit status is 1 if
anything is wrong.

slices: a dataset of single axial slices, one a case, cut from the middle of a raw dataset's
volumes; each keeps its thickness, position and direction, and nothing is resampled.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import judging
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from skimage.restoration import denoise_tv_chambolle

from gdmnet.arrays.body import body_mask
from gdmnet.commands import predict
from gdmnet.commands.terminal import guarded, new_parser
from gdmnet.data.case import Series, Volume
from gdmnet.data.dicom import case_name, grid_of, only_series
from gdmnet.data.regrid import axial_grid, regrid
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.folders import Roots
from gdmnet.models.card import PredictionSettings
from gdmnet.models.select import ModelChoice

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from dicoms import AXIAL, turned, write_series

WEIGHTS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)  # of the total variation, intensities in 1000 HU
N_TUNING = 4  # training cases that choose the weight
FBP, VARIATION = "FBP", "FBP + total variation"
MODEL_ROWS = {
    "regression (T = 0)": (0.0, False),
    "gdm (T = 1)": (1.0, False),
    "gdm (T = 1.5)": (1.5, False),
    "gdm (T = 1) + data consistency": (1.0, True),
}
"""Row -> realism, and whether predictions are made to agree with the measured views."""

NO_ROOTS = Roots(Path(), Path(), Path())  # models are given by their folders
AIR = -1024  # HU
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


def compare_on_sparse_views(
    raw: list[Path], model: Path, output: Path, judge_iterations: int
) -> int:
    """All methods on every dataset: output/DATASET/rows/METHOD and table.md."""
    for dataset in raw:
        held_out, home = judging.HeldOut(dataset, judge_iterations), output / dataset.name
        names = [FBP, VARIATION, *MODEL_ROWS]
        for name in names:
            make = smooth_all if name in (FBP, VARIATION) else partial(predict_all, model)
            held_out.make_row(home, name, partial(make, held_out, name))
            judging.write_table(home, names, dataset.name)
    return 0


def predict_all(model: Path, held_out: judging.HeldOut, name: str, out: Path) -> dict[str, float]:
    """Predict every held-out FBP by the model; what was measured meanwhile."""
    realism, consistent = MODEL_ROWS[name]
    choice, settings = ModelChoice(model=model, folds=("all",)), PredictionSettings(realism=realism)
    options = predict.PredictionOptions(data_consistency=consistent)
    predict.run(held_out.raw / "imagesTs", out, NO_ROOTS, choice, settings, options)
    return {"seconds_a_volume": judging.seconds_a_volume(out)}


def smooth_all(held_out: judging.HeldOut, name: str, out: Path) -> dict[str, float]:
    """Write every held-out FBP, with less total variation or as it is."""
    weight = best_weight(held_out) if name == VARIATION else 0.0
    out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    for case in held_out.cases:
        fbp = read_volume(case.sources[0])
        volume = Volume(total_variation(fbp.array[0], weight)[None], fbp.geometry)
        write_volume(out / case.target.name, volume, integer=False)
    seconds = (time.perf_counter() - begin) / len(held_out.cases)
    return {"weight": weight, "seconds_a_volume": seconds}


def total_variation(image: NDArray, weight: float) -> NDArray:
    """An image in HU (z, y, x) with less total variation; a weight of 0 leaves it as it is."""
    return 1e3 * denoise_tv_chambolle(image / 1e3, weight=weight) if weight else image


def best_weight(held_out: judging.HeldOut) -> float:
    """Of `WEIGHTS`, by the MAE inside the bodies of the first training cases."""
    errors = np.zeros(len(WEIGHTS))
    for case in held_out.training[:N_TUNING]:
        fbp, target = read_volume(case.sources[0]).array[0], read_volume(case.target)
        inside = body_mask(target.array, target.geometry.spacing, [True])[0] != 0
        for i, weight in enumerate(WEIGHTS):
            errors[i] += np.abs(total_variation(fbp, weight) - target.array[0])[inside].mean()
    return WEIGHTS[int(errors.argmin())]


def check_dicom_chain(images: Path, output: Path, model: Path) -> int:
    """Make the scans, predict on both grids, check, print; 1 if anything is wrong."""
    shutil.rmtree(output, ignore_errors=True)
    scans: dict[str, Series] = {}
    for number, image in enumerate(sorted(images.glob("*_0000.nii.gz"))):
        folder = output / "scans" / f"patient_{number}"
        write_mr(image, folder, turned() if number % 2 else AXIAL)
        scan = only_series(folder)
        scans[case_name(scan)] = scan
    head = "| patient | grid | slices, rows, columns | type 1 + 2 | HU differ by | grid off by |"
    rows, is_sound = [head, "|---" * 6 + "|"], True
    for grid in ("axial", "source"):
        options = predict.PredictionOptions(dicom_out=True, dicom_grid=grid)
        choice = ModelChoice(model=model)
        predict.run(output / "scans", output / grid, NO_ROOTS, choice, options=options)
        for case, scan in scans.items():
            row, row_is_sound = check_series(case, output / grid, grid, scan)
            rows.append(row)
            is_sound &= row_is_sound
    print("\n".join(rows))
    return 0 if is_sound else 1


def write_mr(image: Path, folder: Path, direction: NDArray) -> None:
    """An image as a series of MR Image Storage, of a patient, study and frame of its own."""
    volume, patient = read_volume(image), image.name[:11]
    array = np.rint(volume.array[0])
    new = {name: generate_uid() for name in ("StudyInstanceUID", "FrameOfReferenceUID")}
    new |= {"PatientName": f"Chain^{patient}", "PatientID": patient}
    write_series(folder, array, direction=direction, spacing=volume.geometry.spacing, **new)


def check_series(case: str, folder: Path, grid: str, scan: Series) -> tuple[str, bool]:
    """A row of the table for one series, and whether all is well."""
    source = pydicom.dcmread(scan.files[0])
    slices = [pydicom.dcmread(path) for path in sorted((folder / f"{case}_dicom").iterdir())]
    normal = np.cross(*np.reshape(slices[0].ImageOrientationPatient, (2, 3)).astype(float))
    slices.sort(key=lambda item: float(np.dot(normal, item.ImagePositionPatient)))
    stored = np.stack([one.pixel_array * one.RescaleSlope + one.RescaleIntercept for one in slices])
    volume = Volume(read_volume(folder / f"{case}.nii.gz").array, grid_of(scan))
    if grid == "axial":
        volume = regrid(volume, axial_grid(volume.geometry), fill=AIR)
    expected = np.maximum(np.rint(volume.array[0]), AIR)
    is_alike = stored.shape == expected.shape
    difference = float(np.abs(stored - expected).max()) if is_alike else float("inf")
    off, wrong = grid_error(slices, volume), wrong_attributes(slices, source)
    row = (
        f"| {source.PatientID} | {grid} | {'x'.join(map(str, stored.shape))} |"
        f" {len(TYPE_1)} + {len(TYPE_2)}: {', '.join(wrong) or 'all there'} | {difference:g} |"
        f" {off:.1e} |"
    )
    return row, not wrong and difference == 0 and off < 1e-4


def grid_error(slices: list[Dataset], volume: Volume) -> float:
    """The largest difference of positions, directions and spacings from a volume's grid, in mm."""
    geometry = volume.geometry
    z, y, x = geometry.spacing
    frame = np.reshape(geometry.itk_direction, (3, 3))
    steps = np.arange(len(slices))[:, None] * z * frame[:, 2]
    places = np.array([item.ImagePositionPatient for item in slices], dtype=float)
    cosines = np.reshape(slices[0].ImageOrientationPatient, (2, 3)).astype(float)
    spacing = [*map(float, slices[0].PixelSpacing), float(slices[0].SliceThickness)]
    differences = (
        places - (np.array(geometry.itk_origin) + steps),
        cosines - frame[:, :2].T,
        np.subtract(spacing, [y, x, z]),
    )
    return max(float(np.abs(one).max()) for one in differences)


def wrong_attributes(slices: list[Dataset], source: Dataset) -> list[str]:
    """What is wrong with the attributes of a series."""
    wrong = []
    for item in slices:
        wrong += [f"{k} (type 1)" for k in TYPE_1 if k not in item or item[k].is_empty]
        wrong += [f"{k} (type 2)" for k in TYPE_2 if k not in item]
        wrong += [f"{k} copied" for k in COPIED if item.get(k) != source.get(k)]
        wrong += ["private" for element in item if element.tag.is_private]
    first, series = slices[0], {item.SeriesInstanceUID for item in slices}
    facts = {
        "CT Image Storage": first.SOPClassUID == CTImageStorage,
        "Modality": first.Modality == "CT",
        "slope and intercept": (first.RescaleSlope, first.RescaleIntercept) == (1, AIR),
        "RescaleType": first.RescaleType == "HU",
        "ImageType": list(first.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"],
        "new UIDs": len({item.SOPInstanceUID for item in slices}) == len(slices),
        "one series": len(series) == 1 and source.SeriesInstanceUID not in series,
    }
    return sorted({*wrong, *(name for name, is_right in facts.items() if not is_right)})


def cut_slices(raw: Path, output: Path) -> int:
    """Cut the middle slice of every image of a dataset."""
    for source in sorted(raw.glob("*T[rs]/*")):
        image = sitk.ReadImage(str(source))
        middle = image.GetSize()[2] // 2
        path = output / source.relative_to(raw)
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image[:, :, middle : middle + 1], str(path), useCompression=True)
    shutil.copy(raw / "dataset.json", output / "dataset.json")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """One command a chain."""
    whole = new_parser(__doc__.splitlines()[0])
    commands = whole.add_subparsers(required=True, parser_class=argparse.ArgumentParser)
    sparse, dicom, slices = map(commands.add_parser, ("sparse-view", "dicom", "slices"))
    sparse.add_argument("raw", type=Path, nargs="+", help="folders of raw datasets")
    sparse.add_argument("-o", dest="output", type=Path, required=True)
    sparse.add_argument("--judge-iterations", type=int, default=400, help="(default: 400)")
    sparse.set_defaults(chain=compare_on_sparse_views)
    dicom.add_argument("images", type=Path, help="folder of CASE_0000.nii.gz")
    dicom.add_argument("output", type=Path)
    dicom.set_defaults(chain=check_dicom_chain)
    for parser in (sparse, dicom):
        parser.add_argument("-m", dest="model", type=Path, required=True, help="its folder")
    slices.add_argument("raw", type=Path, help="folder of a raw dataset")
    slices.add_argument("output", type=Path, help="folder of the new one")
    slices.set_defaults(chain=cut_slices)
    return whole


def main(argv: list[str] | None = None) -> int:
    """Run one chain; 0 if all is well."""
    args = vars(build_parser().parse_args(argv))
    del args["typed"]
    return guarded(lambda: args.pop("chain")(**args))


if __name__ == "__main__":
    sys.exit(main())
