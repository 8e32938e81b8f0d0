"""gdm_demo: the whole job on made-up patients, MR to CT, in a few minutes on a laptop."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gdmnet import codec, folders
from gdmnet.commands import evaluate, plan_and_preprocess, predict
from gdmnet.commands.model_options import Choice
from gdmnet.commands.terminal import add_device_option, guarded, new_parser, positive_int
from gdmnet.data.case import Volume
from gdmnet.data.volume import read_geometry, read_volume, write_volume
from gdmnet.datasets.phantom import write_phantom_dataset
from gdmnet.errors import OutputError
from gdmnet.folders import Roots
from gdmnet.geometry import Shape
from gdmnet.plan import Fingerprint
from gdmnet.report.picture import draw_panels, save_picture, translation_panels
from gdmnet.training.fold import train_fold
from gdmnet.training.settings import TrainingSettings

DATASET = "Dataset999_Phantom"
CONFIGURATION = "3d_fullres"
FOLD = "0"
N_STEPS = 7
BASELINE = "mean target"
METHODS = ("regression", "gdm")
_METRICS = ("mae", "psnr", "ssim", "sharpness")
_TITLES = ("MAE [HU]", "PSNR [dB]", "SSIM", "sharpness ratio")


@dataclass(frozen=True)
class Options:
    """Sizes of the demo; the defaults take some six minutes on two cores."""

    epochs: int = 10
    iterations: int = 30
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
    shape: Shape = (28, 56, 56)  # one training patch sees most of a patient
    n_train: int = 8
    n_test: int = 2


@dataclass(frozen=True)
class Check:
    """One line of the acceptance."""

    text: str
    passed: bool


@dataclass(frozen=True)
class Result:
    """What demo.json holds: means over the test cases, the acceptance, and the seconds taken."""

    methods: dict[str, dict[str, float]]
    checks: tuple[Check, ...]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every line of the acceptance holds."""
        return all(check.passed for check in self.checks)


class _Steps:
    """Headlines on the terminal, and the seconds of every step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        elapsed = sum(self.seconds.values())
        print(f"\n[{len(self.seconds) + 1}/{N_STEPS}] {title} ({elapsed:.0f} s so far)", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[title] = round(time.perf_counter() - start, 1)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    defaults = Options()
    parser = new_parser(
        __doc__ or "", "exit status 0 if the acceptance printed at the end holds, else 1"
    )
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        default=Path("gdm_demo"),
        metavar="DIR",
        help="where everything is written (default: %(default)s in the current directory)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default: %(default)s")
    parser.add_argument(
        "--epochs", type=positive_int, default=defaults.epochs, help="default: %(default)s"
    )
    parser.add_argument(
        "--iterations",
        type=positive_int,
        default=defaults.iterations,
        help="steps an epoch (default: %(default)s)",
    )
    add_device_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="throw an earlier demo away")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_demo."""
    args = build_parser().parse_args(argv)
    options = Options(args.epochs, args.iterations, args.seed, args.device, args.overwrite)
    return guarded(lambda: 0 if run(args.output, options).passed else 1)


def run(output: Path, options: Options | None = None) -> Result:
    """Make phantoms, plan, train regression and gdm with equal steps, predict, evaluate, compare.

    Args:
        output: folder of everything: the three roots, predictions/, demo.json, demo.md, demo.png.
        options: see `Options`.

    Raises:
        OutputError: the folder holds something already, or cannot be written.
    """
    options = options or Options()
    roots = _fresh_folders(output, options)
    steps = _Steps()
    with steps.step("phantom patients"):
        raw = write_phantom_dataset(
            roots.raw,
            dataset=DATASET,
            n_train=options.n_train,
            n_test=options.n_test,
            shape=options.shape,
            seed=options.seed,
        )
    with steps.step("check, plan and prepare"):
        plan_and_preprocess.run(DATASET, roots)  # small cases: starting workers would take longer
    for method in METHODS:
        with steps.step(f"train {method}"):
            _train(method, roots, options)
    with steps.step("predict the test patients"):
        _predict(raw, roots, output, options)
    with steps.step("evaluate"):
        methods = _evaluate(raw, output)
    picture = output / "demo.png"
    with steps.step("picture"):
        _draw(raw, output, picture)
    result = Result(methods, acceptance(methods), steps.seconds)
    codec.save(result, output / "demo.json")
    codec.write_text(output / "demo.md", describe(result))
    print(f"\n{describe(result)}\npicture: {picture}\ntable: {output / 'demo.md'}")
    return result


def _fresh_folders(output: Path, options: Options) -> Roots:
    roots = Roots(output / folders.RAW, output / folders.PREPROCESSED, output / folders.RESULTS)
    used = [roots.raw, roots.preprocessed, roots.results, output / "predictions"]
    for folder in used:
        if folder.exists() and not options.overwrite:
            raise OutputError(
                f"{folder} is there already; add --overwrite to throw this demo away, or choose"
                " another folder with -o"
            )
        if folder.exists():
            shutil.rmtree(folder)
    return roots


def _train(method: str, roots: Roots, options: Options) -> None:
    train_fold(
        DATASET,
        CONFIGURATION,
        FOLD,
        roots,
        TrainingSettings(
            objective=method,
            epochs=options.epochs,
            iterations=options.iterations,
            seed=options.seed,
            device=options.device,
        ),
    )


def _predict(raw: Path, roots: Roots, output: Path, options: Options) -> None:
    for method in METHODS:
        predict.run(
            raw / "imagesTs",
            output / "predictions" / method,
            roots,
            Choice(dataset=DATASET, configuration=CONFIGURATION, objective=method),
            predict.Options(device=options.device),
        )
    facts = codec.load(Fingerprint, roots.preprocessed / DATASET / folders.FINGERPRINT_JSON)
    for target in sorted((raw / "targetsTs").iterdir()):
        geometry = read_geometry(target)
        constant = np.full((1, *geometry.shape), facts.target.mean, dtype=np.float32)
        folder = output / "predictions" / BASELINE
        folder.mkdir(exist_ok=True)
        write_volume(folder / target.name, Volume(constant, geometry))


def _evaluate(raw: Path, output: Path) -> dict[str, dict[str, float]]:
    methods = {}
    for method in (BASELINE, *METHODS):
        folder = output / "predictions" / method
        summary = evaluate.run(
            folder,
            raw / "targetsTs",
            output=folder / folders.SUMMARY_JSON,
            options=evaluate.Options(allow_constant=method == BASELINE),
        )
        methods[method] = {
            metric: float(summary.aggregate[metric]["mean"] or 0.0) for metric in _METRICS
        }
    return methods


def acceptance(methods: dict[str, dict[str, float]]) -> tuple[Check, ...]:
    """What gdm must reach against the dataset's mean target and against plain regression."""
    gdm, regression, mean = (methods[name] for name in ("gdm", "regression", BASELINE))
    to_mean = gdm["mae"] / mean["mae"]
    to_regression = gdm["mae"] / regression["mae"]
    blur, left = (abs(1 - values["sharpness"]) for values in (regression, gdm))
    return (
        Check(f"gdm's MAE is {to_mean:.2f} x the mean target's (at most 0.50)", to_mean <= 0.5),
        Check(
            f"gdm's MAE is {to_regression:.3f} x regression's (at most 1.050)",
            to_regression <= 1.05,
        ),
        Check(
            f"gdm's sharpness ratio is {left:.3f} away from 1, regression's {blur:.3f}",
            left < blur,
        ),
    )


def describe(result: Result) -> str:
    """The result as Markdown: a table and the acceptance."""
    rows: list[Sequence[str]] = [("", *_TITLES)]
    for method, values in result.methods.items():
        rows.append((method, *(f"{values[metric]:.4g}" for metric in _METRICS)))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [_row(row, widths) for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    checks = [f"- {'yes' if check.passed else 'NO '}: {check.text}" for check in result.checks]
    total = sum(result.seconds.values())
    return "\n".join([*lines, "", *checks, "", f"{total:.0f} s in all"]) + "\n"


def _row(cells: Sequence[str], widths: list[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"


def _draw(raw: Path, output: Path, path: Path) -> None:
    target = min((raw / "targetsTs").iterdir())
    name = target.name.removesuffix(".nii.gz")
    source = read_volume(raw / "imagesTs" / f"{name}_0000.nii.gz")
    predictions = {
        method: read_volume(output / "predictions" / method / target.name).array[0]
        for method in reversed(METHODS)
    }
    panels = translation_panels(
        source.array[0], predictions, read_volume(target).array[0], unit="HU"
    )
    heading = f"{name}, not seen in training: MR to CT"
    save_picture(draw_panels(panels, source.geometry.spacing, heading=heading), path)
