"""gdm_demo: the whole job on made-up patients, MR to CT, in a few minutes on a laptop."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.commands.terminal import CommandParser, add_path, command, new_parser
from gdmnet.errors import OutputError
from gdmnet.files import lock
from gdmnet.settings import Settings, add_settings, setting, settings_from
from gdmnet.table import text_table

DATASET = "Dataset999_Phantom"
CONFIGURATION = "3d_fullres"
N_STEPS = 7
BASELINE = "mean target"
METHODS = ("regression", "gdm")
_METRICS = {"mae": "MAE [HU]", "psnr": "PSNR [dB]", "ssim": "SSIM", "sharpness": "sharpness"}


@dataclass(frozen=True)
class DemoSettings(Settings):
    """Sizes of the demo; the defaults take some six minutes on two cores."""

    epochs: int = setting(10, "of both trainings", least=1)
    iterations: int = setting(30, "steps an epoch", least=1)
    seed: int = setting(0, "of phantoms and trainings", least=0)
    device: str = setting("auto", "auto, cpu, cuda, cuda:1", metavar="DEVICE")
    overwrite: bool = setting(False, "throw an earlier demo away")
    shape: tuple[int, int, int] = (28, 56, 56)  # one training patch sees most of a patient
    n_train: int = 8
    n_test: int = 2


@dataclass(frozen=True)
class DemoCheck:
    """One line of the acceptance."""

    text: str
    passed: bool


@dataclass(frozen=True)
class DemoResult:
    """What demo.json holds: means over the test cases, the acceptance, and the seconds taken."""

    methods: dict[str, dict[str, float]]
    checks: tuple[DemoCheck, ...]
    seconds: dict[str, float] = field(default_factory=dict)


def build_parser() -> CommandParser:
    """The command's parser."""
    epilog = "exit status 0 if the acceptance printed at the end holds, else 1"
    parser = new_parser(__doc__ or "", epilog)
    text = "where everything is written (default: %(default)s in the current directory)"
    add_path(parser, "-o", "output", text, default=Path("gdm_demo"))
    add_settings(parser, DemoSettings)
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_demo."""
    settings = settings_from(args, DemoSettings)
    with lock(args.output):
        result = run(args.output, settings)
    return 0 if all(check.passed for check in result.checks) else 1


def run(output: Path, settings: DemoSettings) -> DemoResult:
    """Make phantoms, plan, train regression and gdm with equal steps, predict, evaluate, compare.

    In `output` then lie the three roots, predictions/, demo.json, demo.md and demo.png.

    Raises:
        OutputError: the folder holds something already, or cannot be written.
        SystemExit: one of the commands failed, with its status.
    """
    from gdmnet.datasets.phantom import write_phantom_dataset

    roots = _fresh_folders(output, overwrite=settings.overwrite)
    seconds: dict[str, float] = {}
    with _step("phantom patients", seconds):
        raw = write_phantom_dataset(
            output / folders.RAW,
            dataset=DATASET,
            n_train=settings.n_train,
            n_test=settings.n_test,
            shape=settings.shape,
            seed=settings.seed,
        )
    with _step("check, plan and prepare", seconds):  # small: starting workers would take longer
        _call("plan_and_preprocess", "-d", DATASET, "-np", 1, *roots)
    for method in METHODS:
        with _step(f"train {method}", seconds):
            sizes = ("--epochs", settings.epochs, "--iterations", settings.iterations)
            how = ("--objective", method, "--seed", settings.seed, "--device", settings.device)
            _call("train", DATASET, CONFIGURATION, *sizes, *how, *roots)
    predictions = output / "predictions"
    with _step("predict the test patients", seconds):
        _predict_mean(raw, output, predictions / BASELINE)
        for method in METHODS:
            model = folders.model_folder(output / folders.RESULTS, DATASET, method, CONFIGURATION)
            places = ("-i", raw / "imagesTs", "-o", predictions / method, "-m", model)
            _call("predict", *places, "--device", settings.device, *roots)
    with _step("evaluate", seconds):
        methods = {m: _evaluate(raw, predictions / m) for m in (BASELINE, *METHODS)}
    with _step("picture", seconds):
        _draw(raw, predictions, output / "demo.png")
    result = DemoResult(methods, acceptance(methods), seconds)
    codec.save(result, output / "demo.json")
    codec.write_text(output / "demo.md", f"```\n{describe(result)}```\n")
    print(f"\n{describe(result)}\npicture: {output / 'demo.png'}\ntable: {output / 'demo.md'}")
    return result


@contextlib.contextmanager
def _step(title: str, seconds: dict[str, float]) -> Iterator[None]:
    """A headline on the terminal, and the seconds of the step."""
    elapsed = sum(seconds.values())
    print(f"\n[{len(seconds) + 1}/{N_STEPS}] {title} ({elapsed:.0f} s so far)", flush=True)
    start = time.perf_counter()
    yield
    seconds[title] = round(time.perf_counter() - start, 1)


def _call(name: str, *arguments: object) -> None:
    """Do what gdm_NAME does."""
    command = importlib.import_module(f"gdmnet.commands.{name}")
    status = command.main([str(argument) for argument in arguments])
    if status:
        raise SystemExit(status)


def _fresh_folders(output: Path, *, overwrite: bool) -> list[str]:
    """Remove what an earlier demo left, if that is allowed; the options of the three roots.

    The output may be a folder of the user's own datasets: they stay.
    """
    roots = [folders.RAW, folders.PREPROCESSED, folders.RESULTS]
    made = [output / name / DATASET for name in roots]
    for folder in (*made, *(output / "predictions" / name for name in (BASELINE, *METHODS))):
        if folder.exists() and not overwrite:
            raise OutputError(
                f"{folder} is there already; add --overwrite to throw this demo away, or choose"
                " another folder with -o"
            )
        if folder.exists():
            shutil.rmtree(folder)
    return [f"--{name.removeprefix('gdmnet_')}={output / name}" for name in roots]


def _predict_mean(raw: Path, output: Path, folder: Path) -> None:
    """The mean of the training targets everywhere: what any method must do better than."""
    import numpy as np

    from gdmnet.data.case import Volume
    from gdmnet.data.volume import read_geometry, write_volume
    from gdmnet.plan import Fingerprint

    prepared = output / folders.PREPROCESSED / DATASET
    facts = codec.load(Fingerprint, prepared / folders.FINGERPRINT_JSON)
    for target in sorted((raw / "targetsTs").iterdir()):
        geometry = read_geometry(target)
        constant = np.full((1, *geometry.shape), facts.target.mean, dtype=np.float32)
        write_volume(folder / target.name, Volume(constant, geometry))


def _evaluate(raw: Path, predictions: Path) -> dict[str, float]:
    constant = ["--allow-constant"] if predictions.name == BASELINE else []
    _call("evaluate", "-p", predictions, "-r", raw / "targetsTs", *constant)
    aggregate = codec.read_json(predictions / folders.SUMMARY_JSON)["aggregate"]
    return {metric: float(aggregate[metric]["mean"] or 0.0) for metric in _METRICS}


def acceptance(methods: dict[str, dict[str, float]]) -> tuple[DemoCheck, ...]:
    """What gdm must reach against the dataset's mean target and against plain regression."""
    gdm, regression, mean = (methods[name] for name in ("gdm", "regression", BASELINE))
    to_mean = gdm["mae"] / mean["mae"]
    to_regression = gdm["mae"] / regression["mae"]
    blur, left = (abs(1 - values["sharpness"]) for values in (regression, gdm))
    near = f"gdm's MAE is {to_mean:.2f} x the mean target's (at most 0.50)"
    equal = f"gdm's MAE is {to_regression:.3f} x regression's (at most 1.050)"
    sharp = f"gdm's sharpness ratio is {left:.3f} away from 1, regression's {blur:.3f}"
    holds = {near: to_mean <= 0.5, equal: to_regression <= 1.05, sharp: left < blur}
    return tuple(DemoCheck(text, passed) for text, passed in holds.items())


def describe(result: DemoResult) -> str:
    """The result as text: a table and the acceptance."""
    rows: list[tuple[str | float, ...]] = [("", *_METRICS.values())]
    for method, values in result.methods.items():
        rows.append((method, *(values[metric] for metric in _METRICS)))
    checks = [f"- {'yes' if check.passed else 'NO '}: {check.text}" for check in result.checks]
    total = sum(result.seconds.values())
    return "\n".join([*text_table(rows), "", *checks, "", f"{total:.0f} s in all"]) + "\n"


def _draw(raw: Path, predictions: Path, path: Path) -> None:
    import numpy as np

    from gdmnet.data.volume import read_volume
    from gdmnet.report.picture import Panel, draw_panels, save_picture

    target = min((raw / "targetsTs").iterdir())
    name = target.name.removesuffix(".nii.gz")
    source = read_volume(raw / "imagesTs" / f"{name}_0000.nii.gz")
    images = {
        method: read_volume(predictions / method / target.name).array[0]
        for method in reversed(METHODS)
    }
    image, truth = source.array[0], read_volume(target).array[0]
    low, high = (float(end) for end in np.percentile(truth, (0.5, 99.5)))
    limit = (high - low) / 5
    panels = [
        Panel("source", image, *np.percentile(image, (0.5, 99.5))),
        *(Panel(title, guess, low, high, unit="HU") for title, guess in images.items()),
        Panel("target", truth, low, high, unit="HU"),
        *(
            Panel(f"{title} - target", guess - truth, -limit, limit, signed=True, unit="HU")
            for title, guess in images.items()
        ),
    ]
    heading = f"{name}, not seen in training: MR to CT"
    save_picture(draw_panels(panels, source.geometry.spacing, heading=heading), path)
