"""FBP, total variation, regression, gdm and data consistency on the same sparse-view CTs.

    gdm_simulate_sparse_view -i ct -d 502 --views 60,20,120 --split split.json --keep-sinograms
    gdm_plan_and_preprocess -d 502 --preset cpu
    gdm_train 502 3d_fullres all --realism-dial
    python documentation/benchmarks/sparse_view.py -m MODEL -o OUT RAW/Dataset502_SparseView60 ...

One model, with its regression twin, on the held-out cases (imagesTs, targetsTs) of one dataset or
several: the one of its own number of views, and others. All methods are judged inside the same
bodies, computed from the FBP, by `method_figures.py`. The weight of the total variation
(scikit-image's denoise_tv_chambolle of the whole volume) is the best of a few on training cases
of each dataset. Predictions are made by gdm_predict; what is finished is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from method_figures import Bench, write_table
from numpy.typing import NDArray
from skimage.restoration import denoise_tv_chambolle

from gdmnet import codec, folders
from gdmnet.commands import predict
from gdmnet.data.case import CaseFiles
from gdmnet.data.raw import training_cases
from gdmnet.data.volume import read_channels, read_volume
from gdmnet.inference.record import read_records
from gdmnet.models.card import PredictionSettings
from gdmnet.models.select import ModelChoice
from gdmnet.plan import Plan
from gdmnet.report.picture import Panel, draw_panels, save_picture

WEIGHTS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)  # of the total variation, intensities in 1000 HU
N_TUNING = 4  # training cases that choose the weight
FBP, TV, REGRESSION, GDM, DIALLED, CONSISTENT = (
    "FBP",
    "FBP + total variation",
    "regression (T = 0)",
    "gdm (T = 1)",
    "gdm (T = 1.5)",
    "gdm (T = 1) + data consistency",
)
REALISM = {REGRESSION: 0.0, GDM: 1.0, DIALLED: 1.5, CONSISTENT: 1.0}
ABDOMEN = (-200.0, 300.0)  # HU shown in the pictures


def source(files: CaseFiles) -> NDArray:
    """The FBP in HU, (z, y, x)."""
    image: NDArray = read_channels(files.sources).array[0]
    return image


def total_variation(image: NDArray, weight: float) -> NDArray:
    """An image in HU with less total variation."""
    smooth: NDArray = denoise_tv_chambolle(image / 1000.0, weight=weight) if weight else image / 1e3
    return 1000.0 * smooth


def best_weight(bench: Bench) -> float:
    """Of `WEIGHTS`, by the MAE inside the bodies of the first training cases."""
    errors = np.zeros(len(WEIGHTS))
    for files in training_cases(bench.raw, bench.description)[0][:N_TUNING]:
        subject, image = bench.subject(files), source(files)
        inside = subject.mask != 0
        for i, weight in enumerate(WEIGHTS):
            errors[i] += np.abs(total_variation(image, weight) - subject.real)[inside].mean()
    return WEIGHTS[int(errors.argmin())]


def run_method(bench: Bench, name: str, folder: Path, model: Path, weight: float) -> dict:
    """Make a method's predictions/CASE.npy; what was measured meanwhile."""
    out = folder / "predictions"
    out.mkdir(parents=True, exist_ok=True)
    if name not in REALISM:
        begin = time.perf_counter()
        for files in bench.cases:
            image = source(files)
            image = total_variation(image, weight) if name == TV else image
            np.save(out / f"{files.identifier}.npy", image)
        seconds = (time.perf_counter() - begin) / len(bench.cases)
        return {"weight": weight, "seconds_a_volume": seconds}
    settings = PredictionSettings(realism=REALISM[name])
    options = predict.PredictionOptions(data_consistency=name == CONSISTENT)
    choice = ModelChoice(model=model, folds=("all",))
    roots = folders.Roots(bench.raw.parent, Path(), Path())
    predict.run(bench.raw / "imagesTs", folder / "nifti", roots, choice, settings, options)
    for files in bench.cases:
        image = read_volume(next((folder / "nifti").glob(f"{files.identifier}.*"))).array[0]
        np.save(out / f"{files.identifier}.npy", image)
    (record,) = read_records(folder / "nifti").values()
    results = record.cases.values()
    return {
        "seconds_a_volume": sum(result.seconds or 0.0 for result in results) / len(results),
        "warned": sum(bool(result.input_check) for result in results),
    }


def draw(bench: Bench, home: Path, names: list[str]) -> None:
    """One picture a case: all methods and the target through the middle."""
    for files in bench.cases:
        subject = bench.subject(files)
        images = {name: bench.prediction(home / "rows" / name, files) for name in names}
        images["target"] = subject.real
        panels = [Panel(title, image, *ABDOMEN, unit="HU") for title, image in images.items()]
        picture = draw_panels(panels, subject.spacing, heading=files.identifier)
        save_picture(picture, home / "pictures" / f"{files.identifier}.png")


def compare(raw: Path, model: Path, home: Path) -> None:
    """All methods on one dataset: home/table.md and home/pictures."""
    plan = codec.load(Plan, model / folders.PLAN_JSON)
    bench = Bench(raw, home, plan.configurations["3d_fullres"].sources)
    names = [FBP, TV, *REALISM]
    weight = best_weight(bench) if not (home / "rows" / TV / "row.json").is_file() else 0.0
    for name in names:
        folder = home / "rows" / name
        if (folder / "row.json").is_file():
            continue
        measured = run_method(bench, name, folder, model, weight)
        print(f"{raw.name}, {name}: {json.dumps(measured)}", flush=True)
        codec.save({"row": name, "measured": measured}, folder / "trained.json")
        bench.judge(folder)
        write_table(home, names, raw.name)
    draw(bench, home, names)


def main() -> None:
    """Compare on every dataset that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path, nargs="+", help="folders of raw datasets")
    parser.add_argument("-m", dest="model", type=Path, required=True)
    parser.add_argument("-o", dest="output", type=Path, required=True)
    args = parser.parse_args()
    for raw in args.raw:
        compare(raw, args.model, args.output / raw.name)


if __name__ == "__main__":
    main()
