"""Expected errors against true ones, on sparse-view CTs whose difficulty differs.

    python documentation/benchmarks/expected_error.py CT -o OUT --leave-out ct_elastix_lung

Slabs of the CTs in a folder become two datasets: in Mixed a case was scanned with 20, 40, 80 or 160
views, in Plain all with 60. A small regression is trained on every fold of Mixed (gdm_train), whose
cross-validation makes the table of expected errors; two fifths of the cases are held out.
gdm_predict --uncertainty then says of Mixed's and Plain's held-out cases what to expect, and
OUT/table.md whether it was so, inside bodies computed from the targets. What is finished is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from method_study import CONFIGURATION, smaller
from scipy.stats import spearmanr

from gdmnet import codec, folders
from gdmnet.commands import plan_and_preprocess, predict
from gdmnet.commands.terminal import guarded, new_parser
from gdmnet.data.case import Volume
from gdmnet.data.raw import read_description, test_cases, training_cases, write_description
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.datasets.sparse_view import CtVolume, find_ct_volumes, write_sparse_view_dataset
from gdmnet.folders import Roots
from gdmnet.inference.record import read_records
from gdmnet.metrics.conventions import GDMNET
from gdmnet.metrics.evaluation import find_mask
from gdmnet.models.select import ModelChoice
from gdmnet.plan import Plan
from gdmnet.tomography.scan import ScanSettings
from gdmnet.training.settings import TrainingSettings
from gdmnet.training.study import train_study

N_FOLDS = 3
SLICES = 48  # in the middle of each CT
DATASETS = {"Dataset540_Mixed": (20, 40, 80, 160), "Dataset541_Plain": (60,)}
"""Name -> views; each case has one of these numbers, in turn."""
TABLE = "| held out | cases | MAE [HU] | 90 % half-widths hold | of a case | rank correlation |"


@dataclasses.dataclass(frozen=True)
class HeldOutCase:
    """Expected and true MAE in HU, the share of voxels within the half-width, and the flag."""

    name: str
    views: int
    expected: float
    true: float
    covered: float
    flagged: bool


def make_datasets(cts: Path, out: Path, leave_out: Sequence[str]) -> None:
    """Slabs of all CTs but a few, and both datasets of them in out/raw."""
    for ct in (ct for ct in find_ct_volumes(cts) if ct.name not in leave_out):
        path = out / "ct" / f"{ct.name}.nii.gz"
        if not path.is_file():
            whole = read_volume(ct.source)
            middle = (whole.array.shape[1] - SLICES) // 2
            slab = whole.array[:, max(0, middle) :][:, :SLICES]
            shape = slab.shape[1:]
            grid = dataclasses.replace(whole.geometry, shape=shape)
            write_volume(path, Volume(slab, grid), integer=True)
    slabs = find_ct_volumes(out / "ct")
    testing = [*slabs[::5], *slabs[2::5]]
    training = [slab for slab in slabs if slab not in testing]
    for name, views in DATASETS.items():  # nothing is trained on the second one
        trained = training if name == next(iter(DATASETS)) else training[:1]
        _make_dataset(out / "raw" / name, views, trained, testing)


def _make_dataset(
    raw: Path, views: Sequence[int], training: Sequence[CtVolume], testing: Sequence[CtVolume]
) -> None:
    n = len(views)
    for i, number in enumerate(views):
        part = raw.parent.with_name("parts") / str(number) / raw.name
        part.mkdir(parents=True, exist_ok=True)
        cases = training[i::n], testing[i::n]
        write_sparse_view_dataset(part, *cases, ScanSettings(views=number))
        shutil.copytree(part, raw, dirs_exist_ok=True)
    description = dataclasses.replace(read_description(raw), n_training=len(training))
    write_description(raw, description)


def train(roots: Roots, settings: TrainingSettings) -> Path:
    """The model of Mixed: three folds, half the features, two thirds of the planned patch."""
    name = next(iter(DATASETS))
    place = roots.preprocessed / name / folders.PLAN_JSON
    if not place.is_file():
        raw = roots.raw / name
        names = [case.identifier for case in training_cases(raw, read_description(raw))[0]]
        parts = [names[k::N_FOLDS] for k in range(N_FOLDS)]
        splits = [{"train": [n for n in names if n not in own], "val": own} for own in parts]
        codec.save(splits, raw / folders.SPLITS_JSON)
        options = plan_and_preprocess.PlanOptions(preset="cpu", configurations=(CONFIGURATION,))
        plan_and_preprocess.run(name, roots, options)
        codec.save(smaller(codec.load(Plan, place)), place)
    return train_study(name, roots, settings)[0]


def held_out(raw: Path, predictions: Path) -> Iterator[HeldOutCase]:
    """What was expected of each case of imagesTs, and what was so."""
    (record,) = read_records(predictions).values()
    for case in test_cases(raw, read_description(raw))[0]:
        result, name = record.cases[case.identifier], case.identifier
        stated = result.uncertainty
        assert stated is not None
        assert case.target is not None
        assert stated.expected_mae is not None
        target = read_volume(case.target)
        body = find_mask(None, target, GDMNET)[0] != 0
        error = np.abs(read_volume(predictions / result.output).array[0] - target.array[0])[body]
        widths = read_volume(predictions / stated.output).array[0][body]
        scan = codec.read_json(raw / "simulation" / f"{name}.json")["scan"]
        flagged = any("expected MAE" in warning for warning in result.warnings)
        covered = float((error <= widths).mean())
        yield HeldOutCase(
            name, scan["n_views"], stated.expected_mae, float(error.mean()), covered, flagged
        )


def table(found: dict[str, list[HeldOutCase]]) -> list[str]:
    """A line a dataset, then a line a case, in Markdown."""
    lines = [TABLE, "|---" * 6 + "|"]
    for name, cases in found.items():
        true, expected, covered = (
            np.array([getattr(case, key) for case in cases])
            for key in ("true", "expected", "covered")
        )
        lines.append(
            f"| {name.split('_')[1]} | {len(cases)} | {true.min():.1f} to {true.max():.1f}"
            f" | {100 * covered.mean():.1f} % | {100 * covered.min():.0f} to"
            f" {100 * covered.max():.0f} % | {spearmanr(expected, true).statistic:.2f} |"
        )
    lines += ["", "| case | views | expected MAE [HU] | true MAE [HU] | covered | flag |"]
    lines.append("|---" * 6 + "|")
    for case in (case for cases in found.values() for case in cases):
        lines.append(
            f"| {case.name} | {case.views} | {case.expected:.1f} | {case.true:.1f}"
            f" | {100 * case.covered:.1f} % | {'outside' if case.flagged else '-'} |"
        )
    return lines


def build_parser() -> argparse.ArgumentParser:
    """The script's parser."""
    parser = new_parser(__doc__ or "")
    parser.add_argument("cts", type=Path, metavar="CT", help="folder of CTs in HU, at any depth")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--leave-out", nargs="+", default=(), metavar="NAME", help="CTs")
    parser.add_argument("--epochs", type=int, default=8, help="of 25 steps (default: 8)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        out = args.output
        roots = Roots(out / "raw", out / "preprocessed", out / "results")
        make_datasets(args.cts, out, args.leave_out)
        how = TrainingSettings(objective="regression", epochs=args.epochs, iterations=25)
        model, found = train(roots, how), {}
        for name in DATASETS:
            options = predict.PredictionOptions(uncertainty=True)
            images, predictions = roots.raw / name / "imagesTs", out / "predictions" / name
            predict.run(images, predictions, roots, ModelChoice(model=model), None, options)
            found[name] = list(held_out(roots.raw / name, predictions))
        codec.write_text(out / "table.md", "\n".join(table(found)) + "\n")
        print((out / "table.md").read_text("utf-8"))
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
