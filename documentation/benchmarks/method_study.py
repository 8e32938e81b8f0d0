"""What each part of the method brings: every variant fine-tuned from one regression.

    python documentation/benchmarks/method_study.py 501 -o STUDY --raw RAW [--rows NAME ...]

The dataset is planned and prepared into STUDY, one regression a seed is trained on all its training
cases, and every row is then trained for equal steps from that checkpoint, with the same seed and
patches. Judged on imagesTs against targetsTs alone, on whole volumes (see `judging.py`). What is
finished is kept, so the script can be stopped and started again, or started twice with different
rows; STUDY/table.md and front.png are made anew after every row. The rows `dial_T` need no
training: theirs are the weights between regression and pooled, as `--realism T` takes them.
On a slow machine `--small` halves the generator's and the encoder's features, takes five sixths of
the patch and overlaps windows by a quarter: other figures, the same comparison. Every dataset,
and every change of these settings, needs a STUDY folder of its own; one of others is refused.
`gdm_report` shows STUDY/rows/*/predictions beside each other.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import judging
import numpy as np

from gdmnet import codec, folders
from gdmnet.charts import Chart, Curve, save_charts
from gdmnet.commands import plan_and_preprocess, predict
from gdmnet.commands.terminal import guarded, new_parser
from gdmnet.errors import OutputError
from gdmnet.folders import Roots
from gdmnet.models import checkpoint
from gdmnet.models.card import PredictionSettings
from gdmnet.models.select import ModelChoice
from gdmnet.plan import Plan
from gdmnet.planning.topology import total_stride
from gdmnet.settings import Settings, add_settings, given_settings, setting
from gdmnet.training import log
from gdmnet.training.fold import train_fold
from gdmnet.training.settings import EncoderSettings, TrainingSettings

CONFIGURATION, FOLD, SETTINGS_JSON = "3d_fullres", "all", "settings.json"
RATIOS = (0.05, 0.1, 0.3, 0.6)  # beside the default's 0.2
DIAL = (0.25, 0.5, 0.75, 1.25, 1.5)  # 0 is the row regression, 1 the row pooled
SEEDS = (0, 1, 2)
# The drift begins at once: its norms are measured in the first steps of the ramp.
FINE_TUNING = {"regression_share": 0.0, "ramp_share": 0.1, "adapt_drift": False}
FRONTS = {
    "pooled": ("pooled", "pooled_r{:g}"),
    "paired": ("paired", "paired_r{:g}"),
    "random encoder": ("encoder_random", "encoder_random_r{:g}"),
    "dial": ("pooled", "dial_{:g}"),
}
"""Name of a curve -> its row at the default, and its rows at other settings."""
PANELS = {
    "as predicted": ("mae", "frechet_self"),
    "after an intensity match": ("mae_matched", "frechet_matched"),
}
"""Title -> error and distance: both without a match, or both after one."""


@dataclasses.dataclass(frozen=True)
class StudySettings(Settings):
    """What all rows of a study have in common."""

    dataset: str = ""
    base_steps: int = setting(2500, "of the regression that every row starts from", least=1)
    steps: int = setting(600, "of every row", least=1)
    learning_rate: float = setting(4e-4, "of every row", above=0)
    encoder_steps: int = setting(400, "of the embedded encoder", least=1)
    judge_steps: int = setting(400, "of each judge", least=1)
    small: bool = setting(False, "a smaller network and patch")


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant in gdm_train's words; a realism dials between two others, without training."""

    objective: str = "gdm"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encoder: str = "self"
    seed: int = 0
    realism: float | None = None


def rows() -> dict[str, Row]:
    """All variants by name; each differs from the default, `pooled`, in one thing."""
    found = {
        "regression": Row("regression"),
        "pooled": Row(),
        "paired": _gdm(pairing="paired"),  # the perceptual control
        "encoder_random": Row(encoder="random"),
        "temperature_low": _gdm(temperatures=[0.02, 0.05, 0.2]),
        "temperature_0.05": _gdm(temperatures=[0.05]),
        "temperature_1": _gdm(temperatures=[1.0]),
        "locations_1024": _gdm(locations=1024, bank=2048),
        "bank_0": _gdm(bank=0),
        "ramp_0.5": _gdm(ramp_share=0.5),
        "late_0.5": _gdm(regression_share=0.5),
        "every_2nd": _gdm(every=2),
    }
    found |= {f"only_{name}": _gdm(levels=[name]) for name in ("global", "local", "spatial")}
    found |= {f"dial_{t:g}": Row(realism=t) for t in DIAL}
    for r in RATIOS:
        found[f"pooled_r{r:g}"] = _gdm(drift_ratio=r)
        found[f"paired_r{r:g}"] = _gdm(drift_ratio=r, pairing="paired")
        found[f"encoder_random_r{r:g}"] = Row(options={"drift_ratio": r}, encoder="random")
    for seed in SEEDS[1:]:
        found[f"regression_seed{seed}"] = Row("regression", seed=seed)
        found[f"pooled_seed{seed}"] = Row(seed=seed)
    return found


def _gdm(**options: object) -> Row:
    return Row(options=options)


class Study:
    """A study in its folder: gdmnet_preprocessed/, encoders/, rows/, table.md, front.png."""

    def __init__(self, home: Path, raw: Path, settings: StudySettings) -> None:
        self.home, self.settings = home, settings
        self.dataset = settings.dataset
        self.roots = Roots(raw, home / folders.PREPROCESSED, home / folders.RESULTS)
        self.held_out = judging.HeldOut(raw / self.dataset, settings.judge_steps)
        self.rows = {_base(seed): Row("regression", seed=seed) for seed in SEEDS} | rows()
        file = home / SETTINGS_JSON
        if file.is_file() and (known := codec.load(StudySettings, file)) != settings:
            raise OutputError(f"{home}: its rows were made with {known}; take another folder")

    def run(self, names: list[str]) -> None:
        """Make what is missing of the rows that are named and of those that they start from."""
        self._prepare()
        how = self.settings
        title = f"{self.dataset}, {how.base_steps} + {how.steps} steps"
        every = [one for name in names for one in (*self._before(name), name)]
        for name in dict.fromkeys(every):
            self.held_out.make_row(self.home, name, partial(self._make, name))
            found = judging.finished(self.home)
            judging.write_table(self.home, list(self.rows), title, over_seeds(found))
            draw_fronts(found, self.home / "front.png")

    def _before(self, name: str) -> list[str]:
        """The rows that a row is made of."""
        base = _base(self.rows[name].seed)
        return [base] if self.rows[name].realism is None else [base, "regression", "pooled"]

    def _prepare(self) -> None:
        """Plan and prepare, once."""
        file = self.home / SETTINGS_JSON
        if not file.is_file():
            options = plan_and_preprocess.PlanOptions(
                preset="cpu", configurations=(CONFIGURATION,), replan=True
            )
            plan = plan_and_preprocess.run(self.dataset, self.roots, options)
            if self.settings.small:
                place = self.roots.preprocessed / self.dataset
                codec.save(smaller(plan), place / folders.PLAN_JSON)
            codec.save(self.settings, file)

    def _make(self, name: str, out: Path) -> dict[str, float]:
        """The model of one row, and its predictions; what was measured meanwhile."""
        row, measured = self.rows[name], {}
        if row.realism is None:
            measured["seconds_a_step"] = self._train(name, row)
        else:
            self._dial(name)
        predict.run(
            self.held_out.raw / "imagesTs",
            out,
            self.roots,
            ModelChoice(model=self._fold(name).parent, folds=(FOLD,)),
            PredictionSettings(realism=row.realism, step_size=0.75 if self.settings.small else 0.5),
            predict.PredictionOptions(overwrite=True),
        )
        return measured | {"seconds_a_volume": judging.seconds_a_volume(out)}

    def _train(self, name: str, row: Row) -> float:
        """Train one row; seconds a step: of the median epoch, its validation included."""
        how, is_base = self.settings, name == _base(row.seed)
        steps = how.base_steps if is_base else how.steps
        settings = TrainingSettings(
            objective=row.objective,
            objective_options=FINE_TUNING | dict(row.options) if row.objective == "gdm" else {},
            epochs=max(1, steps // 50),
            iterations=min(50, steps),
            learning_rate=None if is_base else how.learning_rate,
            seed=row.seed,
            pretrained=None if is_base else self._fold(_base(row.seed)) / folders.FINAL,
            encoder=EncoderSettings(row.encoder, iterations=how.encoder_steps),
            encoder_root=self.home / "encoders" / f"seed_{row.seed}",
            overwrite=True,  # what was interrupted
            validates=False,
        )
        roots = dataclasses.replace(self.roots, results=self.home / "rows" / name)
        fold = train_fold(self.dataset, CONFIGURATION, FOLD, roots, settings)
        return median(record["seconds"] for record in log.read(fold)) / settings.iterations

    def _dial(self, name: str) -> None:
        """A model of two finished rows: pooled's, and regression's as its twin."""
        origin, fold = self._fold("pooled"), self._fold(name)
        shutil.copytree(origin.parent, fold.parent, dirs_exist_ok=True)
        twin = checkpoint.load(self._fold("regression") / folders.FINAL)["ema"]
        state = checkpoint.load(origin / folders.FINAL)
        checkpoint.save(fold / folders.FINAL, {**state, "twin": twin})

    def _fold(self, name: str) -> Path:
        """The folder of a row's training."""
        results, objective = self.home / "rows" / name, self.rows[name].objective
        model = folders.model_folder(results, self.dataset, objective, CONFIGURATION)
        return folders.fold_folder(model, FOLD)


def smaller(plan: Plan) -> Plan:
    """Half the features, five sixths of the patch, in whole multiples of the total stride."""
    configuration = plan.configurations[CONFIGURATION]
    architecture = configuration.architecture
    edges = zip(configuration.patch_size, total_stride(architecture.strides), strict=True)
    features = tuple(n // 2 for n in architecture.features)
    small = dataclasses.replace(
        configuration,
        patch_size=tuple(max(s, 5 * n // 6 // s * s) for n, s in edges),
        architecture=dataclasses.replace(architecture, features=features),
    )
    return dataclasses.replace(plan, configurations={CONFIGURATION: small})


def over_seeds(found: dict[str, dict[str, float]]) -> list[str]:
    """With several seeds: mean and deviation of pooled's ratio to regression."""
    endings = [f"_seed{seed}" if seed else "" for seed in SEEDS]
    pairs = [
        (found[f"regression{ending}"], found[f"pooled{ending}"])
        for ending in endings
        if {f"regression{ending}", f"pooled{ending}"} <= set(found)
    ]
    if len(pairs) < 2:
        return []
    ratios = []
    for key, title in judging.COLUMNS.items():
        values = [own[key] / base[key] for base, own in pairs if base.get(key)]
        if len(values) > 1:
            ratios.append(f"{title} {np.mean(values):.3f} +- {np.std(values, ddof=1):.3f}")
    return [f"pooled over regression, {len(pairs)} seeds: {', '.join(ratios)}"]


def draw_fronts(found: dict[str, dict[str, float]], path: Path) -> None:
    """Errors over distances, a curve for each of `FRONTS` with enough rows.

    What stands after an intensity match is never drawn over what does not.
    """
    charts = []
    for title, (error, distance) in PANELS.items():
        curves = []
        for name, (default, pattern) in FRONTS.items():
            settings = {pattern.format(value) for value in (*RATIOS, *DIAL)}
            names = {"regression", default, *settings} & set(found)
            points = sorted((found[row][distance], found[row][error]) for row in names)
            if len(points) > 2:
                curves.append(Curve(name, points))
        axis = f"Frechet distance, plain judge, {title}"
        charts.append(Chart(f"MAE, {title}", curves, x_title=axis))
    if any(chart.curves for chart in charts):
        save_charts(charts, path, heading="", n_columns=len(charts))


def _base(seed: int) -> str:
    """The name of the row that all rows of a seed start from."""
    return f"base_seed{seed}" if seed else "base"


def build_parser() -> argparse.ArgumentParser:
    """Of the study."""
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("dataset", help="501 or Dataset501_Name")
    parser.add_argument("-o", dest="home", type=Path, required=True, metavar="STUDY")
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=rows(), help="(default: all)")
    add_settings(parser, StudySettings)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, row by row."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        given = given_settings(args, StudySettings)
        given["dataset"] = folders.resolve_dataset(args.dataset, args.raw)
        Study(args.home, args.raw, StudySettings(**given)).run(args.rows or list(rows()))
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
