"""What a stronger regression could stand on: tried one at a time, on validation cases of folds.

    python documentation/benchmarks/base_study.py 501 -o STUDY --raw RAW [--rows NAME ...]

Every row is a small regression (see `method_study.smaller`) of equal steps, seed and patches:
nnU-Net's full spatial augmentation, the error of gradients beside the error, sources standardised
as Nyul and Udupa do, the same patch at 1.5 times the spacing; and, without a training, mirrored
copies and the mean of both spacings. STUDY/table.md has the MAE in file units of all validation
cases, as predicted and after a linear intensity match, and CPU seconds of all predictions. What is
finished is kept. Nothing of this is an option of gdmnet: the changes are made here, on its modules.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from unittest import mock

import numpy as np
import torch
from method_study import CONFIGURATION, smaller
from numpy.typing import NDArray
from torch import Tensor

from gdmnet import codec, folders
from gdmnet.arrays.body import body_mask
from gdmnet.commands import plan_and_preprocess, predict
from gdmnet.commands.terminal import guarded, new_parser
from gdmnet.data.case import Volume
from gdmnet.data.raw import read_description, training_cases
from gdmnet.data.splits import Split, split_for
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.folders import Roots
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.metrics.evaluation import EvaluationFolders, evaluate_folders
from gdmnet.models.card import PredictionSettings
from gdmnet.models.select import ModelChoice
from gdmnet.objectives import fidelity
from gdmnet.objectives.base import Batch
from gdmnet.plan import Plan
from gdmnet.training import augment
from gdmnet.training.fold import train_fold
from gdmnet.training.settings import TrainingSettings

LOWRES, COARSER = "3d_lowres", 1.5
GRADIENT_WEIGHT = 0.5
LANDMARKS = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)  # percentiles (Nyul et al. 2000)
STEP_SIZE = 0.75
ROW = "row.json"


@contextlib.contextmanager
def nnunet_augmentation() -> Iterator[None]:
    """Rotations by 30 degrees and zooms of .7 to 1.4, each with probability .2."""
    how = {"P_ROTATION": 0.2, "P_SCALE": 0.2, "ANGLE_3D": np.deg2rad(30.0), "SCALES": (0.7, 1.4)}
    with mock.patch.multiple(augment, ANGLE_IN_PLANE=np.pi, **how):
        yield


@contextlib.contextmanager
def gradient_error() -> Iterator[None]:
    """sum m (|e| + w (|d_z e| + |d_y e| + |d_x e|)) / sum m of the error e = x - y."""
    plain = fidelity.fidelity_loss

    def loss(prediction: Tensor, batch: Batch, *, name: str = "l1") -> Tensor:
        found = plain(prediction, batch, name=name)
        error = prediction - batch.target
        for axis in (2, 3, 4):
            n = error.shape[axis] - 1
            inside = batch.mask.narrow(axis, 0, n) * batch.mask.narrow(axis, 1, n)
            difference = torch.diff(error, dim=axis).abs()
            found = found + GRADIENT_WEIGHT * fidelity.masked_mean(difference, inside)
        return found

    with mock.patch.object(fidelity, "fidelity_loss", loss):
        yield


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        changed: what differs while it trains.
        configuration: its spacing.
        standardised: whether its sources are.
        tta: whether mirrored copies are averaged.
        of: rows whose predictions are averaged instead; one that is predicted anew with tta.
    """

    changed: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    configuration: str = CONFIGURATION
    standardised: bool = False
    tta: bool = False
    of: tuple[str, ...] = ()


ROWS = {
    "regression": Row(),
    "augmentation": Row(nnunet_augmentation),
    "gradients": Row(gradient_error),
    "nyul": Row(standardised=True),
    "lowres": Row(configuration=LOWRES),
    "tta": Row(tta=True, of=("regression",)),
    "lowres + fullres": Row(of=("regression", "lowres")),
}


def landmarks(image: NDArray, body: NDArray) -> NDArray:
    """The intensities of `LANDMARKS` inside the body, strictly rising."""
    found = np.percentile(image[body], LANDMARKS)
    return found + 1e-6 * np.ptp(found) * np.arange(len(found))


def standardise(raw: Path, out: Path) -> None:
    """A copy of a dataset whose sources have the mean landmarks of its training cases.

    Piecewise linear between landmarks, along the outer pieces beyond (Nyul, Udupa and Zhang 2000).
    """
    shutil.copytree(raw, out, dirs_exist_ok=True)
    files = [
        path for case in training_cases(raw, read_description(raw))[0] for path in case.sources
    ]
    volumes = [read_volume(path) for path in files]
    own = [landmarks(v.array[0], _body(v)) for v in volumes]
    scaled = [(one - one[0]) / (one[-1] - one[0]) for one in own]
    common = 1000.0 * np.mean(scaled, axis=0)
    for path, volume, points in zip(files, volumes, own, strict=True):
        image = volume.array[0]
        mapped = np.interp(image, points, common)
        for end, next_, beyond in ((0, 1, image < points[0]), (-1, -2, image > points[-1])):
            slope = (common[end] - common[next_]) / (points[end] - points[next_])
            mapped[beyond] = common[end] + slope * (image[beyond] - points[end])
        mapped[image == 0] = 0.0  # a masked background stays one
        array = np.maximum(mapped, 0.0).astype(np.float32)[None]
        write_volume(out / "imagesTr" / path.name, Volume(array, volume.geometry))


def _body(volume: Volume) -> NDArray:
    return body_mask(volume.array, volume.geometry.spacing, [False])[0] > 0


class BaseStudy:
    """A study in its folder: raw/, gdmnet_preprocessed/, rows/NAME/fold_K/, table.md."""

    def __init__(self, home: Path, raw: Path, dataset: str, steps: int) -> None:
        self.home, self.dataset, self.steps = home, dataset, steps
        self.raws = {False: raw, True: home / "raw"}

    def run(self, names: list[str], folds: list[str]) -> None:
        """Make what is missing of the rows, and the table."""
        for name in names:
            for fold in folds:
                self._make(name, fold)
                self._write_table()

    def _roots(self, row: Row) -> Roots:
        place = self.home / ("standardised" if row.standardised else "plain")
        return Roots(self.raws[row.standardised], place, self.home / "rows")

    def _prepared(self, row: Row) -> Roots:
        """Plan and prepare both spacings, once."""
        roots = self._roots(row)
        if row.standardised and not (roots.raw / self.dataset).is_dir():
            standardise(self.raws[False] / self.dataset, roots.raw / self.dataset)
        done = roots.preprocessed / "done"
        if not done.is_file():
            options = plan_and_preprocess.PlanOptions(
                preset="cpu", configurations=(CONFIGURATION,), replan=True
            )
            plan = with_lowres(smaller(plan_and_preprocess.run(self.dataset, roots, options)))
            codec.save(plan, roots.preprocessed / self.dataset / folders.PLAN_JSON)
            options = plan_and_preprocess.PlanOptions(configurations=(LOWRES,))
            plan_and_preprocess.run(self.dataset, roots, options)
            done.touch()
        return roots

    def _split(self, row: Row, fold: str) -> Split:
        place = self._prepared(row).preprocessed / self.dataset
        return split_for(fold, place / folders.SPLITS_JSON)

    def _make(self, name: str, fold: str) -> None:
        """Train, predict and judge the validation cases of one row and fold."""
        row, out = ROWS[name], self.home / "rows" / name / f"fold_{fold}"
        if (out / ROW).is_file():
            return
        print(f"== {name}, fold {fold}", flush=True)
        for other in row.of:
            self._make(other, fold)
        roots = self._prepared(row)
        model = self._trained(row.of[0] if row.of else name, fold)
        begun = time.process_time()
        if len(row.of) > 1:
            self._average(row, fold, out)
        else:
            self._predict(row, model, fold, out)
        seconds = time.process_time() - begun
        figures = self._judge(roots.raw / self.dataset, out / "predictions")
        codec.save({"seconds": seconds, "cases": figures}, out / ROW)

    def _trained(self, name: str, fold: str) -> Path:
        row = ROWS[name]
        results = self.home / "rows" / name
        model = folders.model_folder(results, self.dataset, "regression", row.configuration)
        if not (folders.fold_folder(model, fold) / folders.FINAL).is_file():
            roots = dataclasses.replace(self._prepared(row), results=results)
            settings = TrainingSettings(
                objective="regression",
                epochs=max(1, self.steps // 50),
                iterations=min(50, self.steps),
                overwrite=True,
                validates=False,
            )
            with row.changed():
                train_fold(self.dataset, row.configuration, fold, roots, settings)
        return model

    def _predict(self, row: Row, model: Path, fold: str, out: Path) -> None:
        roots, inputs = self._prepared(row), out / "inputs"
        inputs.mkdir(parents=True, exist_ok=True)
        description = read_description(roots.raw / self.dataset)
        for case in training_cases(roots.raw / self.dataset, description)[0]:
            if case.identifier in self._split(row, fold).validation:
                for path in case.sources:
                    shutil.copy(path, inputs)
        how = PredictionSettings(step_size=STEP_SIZE, tta=row.tta)
        options = predict.PredictionOptions(overwrite=True)
        choice = ModelChoice(model=model, folds=(fold,))
        predict.run(inputs, out / "predictions", roots, choice, how, options)

    def _average(self, row: Row, fold: str, out: Path) -> None:
        first, *others = (self.home / "rows" / name / f"fold_{fold}/predictions" for name in row.of)
        (out / "predictions").mkdir(parents=True, exist_ok=True)
        for path in first.glob("*.nii.gz"):
            found = [read_volume(folder / path.name) for folder in (first, *others)]
            mean = np.mean([volume.array for volume in found], axis=0, dtype=np.float32)
            write_volume(out / "predictions" / path.name, Volume(mean, found[0].geometry))

    def _judge(self, raw: Path, predictions: Path) -> dict[str, dict[str, float]]:
        """Case -> MAE as predicted and matched."""
        pairs = EvaluationFolders(predictions, raw / "targetsTr", None)
        found = {}
        for key, match in (("mae", None), ("mae_matched", "linear")):
            how = EvaluationSettings(match_intensity=match, plausibility=False)
            for case, values in evaluate_folders(pairs, how).cases.items():
                found.setdefault(case, {})[key] = values["mae"]
        return found

    def _write_table(self) -> None:
        """Means over all validation cases that both a row and `regression` have, as ratios."""
        rows = {name: self._figures(name) for name in ROWS}
        base = rows["regression"]
        lines = ["| row | cases | MAE | over regression's | matched | over regression's | CPU s |"]
        lines.append("|---" * 7 + "|")
        for name, (cases, seconds) in rows.items():
            both = sorted(set(cases) & set(base[0]))
            if both:
                cells = []
                for key in ("mae", "mae_matched"):
                    value, first = (fmean(c[case][key] for case in both) for c in (cases, base[0]))
                    cells += [f"{value:.4g}", f"{value / first:.4f}"]
                lines.append(f"| {name} | {len(both)} | {' | '.join(cells)} | {seconds:.0f} |")
        codec.write_text(self.home / "table.md", "\n".join(lines) + "\n")

    def _figures(self, name: str) -> tuple[Mapping[str, Mapping[str, float]], float]:
        found = [codec.read_json(path) for path in self.home.glob(f"rows/{name}/fold_*/{ROW}")]
        cases = {case: values for row in found for case, values in row["cases"].items()}
        return cases, sum(row["seconds"] for row in found)


def with_lowres(plan: Plan) -> Plan:
    """A second configuration with the same network and patch on a coarser grid."""
    fine = plan.configurations[CONFIGURATION]
    z, y, x = (COARSER * mm for mm in fine.spacing)
    shape = tuple(max(1, round(n / COARSER)) for n in fine.median_shape)
    coarse = dataclasses.replace(fine, name=LOWRES, spacing=(z, y, x), median_shape=shape)
    return dataclasses.replace(plan, configurations={CONFIGURATION: fine, LOWRES: coarse})


def build_parser() -> argparse.ArgumentParser:
    """Of the study."""
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("dataset", help="501 or Dataset501_Name")
    parser.add_argument("-o", dest="home", type=Path, required=True, metavar="STUDY")
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--folds", nargs="+", default=["0", "1"])
    parser.add_argument("--steps", type=int, default=1000)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, row by row."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        dataset = folders.resolve_dataset(args.dataset, args.raw)
        BaseStudy(args.home, args.raw, dataset, args.steps).run(args.rows, args.folds)
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
