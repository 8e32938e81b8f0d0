"""Cost of gdmnet against nnU-Net: preprocessing, training steps, prediction, start-up, disk.

nnU-Net lives in an environment of its own, on a CPU without torchvision and timm, which
`pip install nnunetv2` would bring in CUDA builds that do not fit a CPU's torch. Nothing here
imports them: only `nnUNetv2_train` looks through all trainers, and this script calls the trainer.

    python3.11 -m venv nnunet-venv
    nnunet-venv/bin/pip install torch==2.13.0
    nnunet-venv/bin/pip install --no-deps nnunetv2==2.8.1 dynamic-network-architectures==0.4.4
    nnunet-venv/bin/pip install acvl-utils batchgenerators batchgeneratorsv2 blosc2 SimpleITK \
        nibabel tifffile imagecodecs scikit-image scikit-learn pandas matplotlib seaborn yacs \
        einops requests tqdm
    python documentation/benchmarks/against_nnunet.py nnunet-venv/bin/python \
        RAW/Dataset501_BrainT1toT2 SCRATCH --cases brain_04 brain_06 brain_09 brain_10

The rest runs in gdmnet's environment. Both get the same images; since nnU-Net segments, its label
is the target above its median. Both work with one thread, each in a process of its own, in turn;
a ratio is the median over rounds of nnU-Net's cost divided by gdmnet's beside it: above 1 gdmnet is
cheaper. Spacing, patch and batch are those of gdmnet's cpu plan.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rival_costs import Cost, Side, cost_of_command

from gdmnet.data.case import Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.geometry import Geometry

VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "nnUNet_def_n_proc": "1",  # also the threads that it gives torch in its export
    "nnUNet_n_proc_DA": "1",
}
ONE_PROCESS = ["-c", "3d_fullres", "-npfp", "1", "-np", "1", "--verify_dataset_integrity"]
PHASES = ("commands", "preparing", "batching", "training", "predicting")
N_BATCHES = 16
PRECISIONS = ("fp32", "bf16")  # of gdmnet; nnU-Net computes in fp32 on a CPU
FILLING = 4  # steps in which gdm's banks of past rows fill
HEAD = (
    "| | nnU-Net: CPU s (wall) | gdmnet: CPU s (wall) | ratio CPU | ratio wall"
    " | peak MiB, nnU-Net / gdmnet |\n|---|---|---|---|---|---|"
)


@dataclass
class Row:
    """One thing that both tools did, once a round."""

    what: str
    theirs: list[Cost] = field(default_factory=list)
    ours: list[Cost] = field(default_factory=list)

    def add(self, theirs: Cost, ours: Cost) -> None:
        self.theirs.append(theirs)
        self.ours.append(ours)

    def text(self) -> str:
        """A line of the table."""
        seconds = [
            f"{_middle(costs, 'cpu'):.3g} ({_middle(costs, 'wall'):.3g})"
            for costs in (self.theirs, self.ours)
        ]
        ratios = [f"{self._ratio(key):.2f}" for key in ("cpu", "wall")]
        peaks = " / ".join(f"{_middle(costs, 'peak'):.0f}" for costs in (self.theirs, self.ours))
        return f"| {' | '.join([self.what, *seconds, *ratios, peaks])} |"

    def _ratio(self, key: str) -> float:
        pairs = zip(self.theirs, self.ours, strict=True)
        return median(theirs[key] / ours[key] for theirs, ours in pairs)


def make_datasets(raw: Path, home: Path, cases: list[str]) -> None:
    """The chosen cases as raw datasets of both tools; image files are linked."""
    told = json.loads((raw / "dataset.json").read_text())
    ending = told["file_ending"]
    for tool, answers in (("gdmnet", "targetsTr"), ("nnunet", "labelsTr")):
        folder = home / tool / "raw" / raw.name
        (folder / "imagesTr").mkdir(parents=True)
        (folder / answers).mkdir()
        for case in cases:
            for image in raw.glob(f"imagesTr/{case}_????{ending}"):
                (folder / "imagesTr" / image.name).symlink_to(image.resolve())
            target, answer = raw / "targetsTr" / f"{case}{ending}", folder / answers
            if tool == "gdmnet":
                (answer / target.name).symlink_to(target.resolve())
            else:
                write_volume(answer / target.name, _label(target), integer=True)
        told["numTraining"] = len(cases)
        if tool == "nnunet":
            told["labels"] = {"background": 0, "bright": 1}
        (folder / "dataset.json").write_text(json.dumps(told))


def _label(target: Path) -> Volume:
    volume = read_volume(target)
    above = volume.array > np.median(volume.array[volume.array > 0])
    return Volume(above.astype(np.float32), volume.geometry)


def whole_commands(python: Path, home: Path, number: str, n_rounds: int) -> list[Row]:
    """Start-up of both prediction commands, and check, fingerprint, plan and preprocessing."""
    theirs, ours, log = python.parent, Path(sys.executable).parent, home / "commands.log"
    start = Row("start-up: `predict --help`")
    for _ in range(n_rounds):
        start.add(
            cost_of_command([theirs / "nnUNetv2_predict", "--help"], log),
            cost_of_command([ours / "gdm_predict", "--help"], log),
        )
    row = Row("check, fingerprint, plan, preprocess: the whole command")
    row.add(
        cost_of_command(
            [theirs / "nnUNetv2_plan_and_preprocess", "-d", number, *ONE_PROCESS],
            log,
        ),
        cost_of_command(
            [ours / "gdm_plan_and_preprocess", "-d", number, "--preset", "cpu", "-np", "1"]
            + [word for name in ("raw", "preprocessed") for word in _root(home, name)],
            log,
        ),
    )
    return [start, row]


def preparing(theirs: Side, ours: Side, cases: list[str], n_rounds: int) -> tuple[Row, str]:
    """One case in a process that is warm; and the bytes that it takes on disk."""
    row = Row("preprocess one case")
    bytes_on_disk: list[tuple[int, int]] = []
    for i in range(n_rounds + 1):
        for case in cases if i > 0 else cases[:1]:
            (cost, size), (our_cost, our_size) = (
                side.ask("prepare", case=case) for side in (theirs, ours)
            )
            if i > 0:
                row.add(cost, our_cost)
                bytes_on_disk.append((size, our_size))
    sizes = [median(pair[side] for pair in bytes_on_disk) / 2**20 for side in (0, 1)]
    ratio = median(pair[0] / pair[1] for pair in bytes_on_disk)
    return row, f"| disk a case [MiB] | {sizes[0]:.1f} | {sizes[1]:.1f} | {ratio:.2f} | | |"


def training(theirs: Side, ours: Side, n_rounds: int) -> list[Row]:
    """Steps on a batch that is in memory, in turn."""
    runs = {  # nnU-Net's configuration and gdmnet's objective
        ("equal", "regression"): "training step, networks of equal size, Dice + CE and regression",
        ("own", "gdm"): "training step, own networks and losses, Dice + CE at all depths and gdm",
    }
    rows: dict[str, Row] = {}
    for _ in range(FILLING):
        ours.ask("step", objective="gdm", precision="bf16")
    for i in range(n_rounds + 1):
        for (configuration, objective), what in runs.items():
            cost = theirs.ask("step", configuration=configuration)
            for precision in PRECISIONS:
                our_cost = ours.ask("step", objective=objective, precision=precision)
                if i > 0:
                    _row(rows, f"{what}, {precision}").add(cost, our_cost)
    return list(rows.values())


def batching(theirs: Side, ours: Side, n_rounds: int) -> Row:
    """Many batches a time, since rare augmentations cost the most; per batch."""
    row = Row(f"one batch, read and augmented; mean of {N_BATCHES}")
    for i in range(n_rounds):
        numbers = list(range(i * N_BATCHES, (i + 1) * N_BATCHES))
        theirs_all, ours_all = (side.ask("batch", numbers=numbers) for side in (theirs, ours))
        row.add(_share(theirs_all), _share(ours_all))
    return row


def predicting(theirs: Side, ours: Side, image: Path, n_rounds: int) -> list[Row]:
    """One volume: equal networks, patch and step size, no mirroring; the whole, then its parts."""
    rows: dict[str, Row] = {}
    for _ in range(n_rounds):
        answer = theirs.ask("predict", image=str(image))
        for precision in PRECISIONS:
            our_answer = ours.ask("predict", image=str(image), precision=precision)
            counts = f"{answer['n_windows']} and {our_answer['n_windows']} windows"
            pair = answer["parts"], our_answer["parts"]
            wholes = [_together(parts.values()) for parts in pair]
            _row(rows, f"predict, file to file, {precision}").add(*wholes)
            _row(rows, f"- {counts}, {precision}").add(pair[0]["windows"], pair[1]["windows"])
            for part in ("prepare", "export"):
                _row(rows, f"- {part}").add(pair[0][part], pair[1][part])
    return list(rows.values())


def middle_of(image: Path, n_slices: int, home: Path) -> Path:
    """A file of the middle slices of an image."""
    volume = read_volume(image)
    first = max(0, (volume.geometry.shape[0] - n_slices) // 2)
    part = volume.array[:, first : first + n_slices]
    geometry = Geometry((part.shape[1], *volume.geometry.shape[1:]), volume.geometry.spacing)
    write_volume(home / "middle_0000.nii.gz", Volume(part, geometry), integer=False)
    return home / "middle_0000.nii.gz"


def _row(rows: dict[str, Row], what: str) -> Row:
    return rows.setdefault(what, Row(what))


def _together(costs: Iterable[Cost]) -> Cost:
    parts = list(costs)
    whole = {key: sum(part[key] for part in parts) for key in ("cpu", "wall")}
    return whole | {"peak": max(part["peak"] for part in parts)}


def _share(cost: Cost) -> Cost:
    return cost | {key: cost[key] / N_BATCHES for key in ("cpu", "wall")}


def _middle(costs: list[Cost], key: str) -> float:
    return median(cost[key] for cost in costs)


def _root(home: Path, name: str) -> list[str]:
    return [f"--{name}", str(home / "gdmnet" / name)]


def describe(ours: dict[str, Any], theirs: dict[str, Any], parameters: dict[str, int]) -> str:
    """What was equal, and what each planner had chosen."""
    return (
        f"\n{platform.machine()}, {date.today()}; load {os.getloadavg()[0]:.1f} on"
        f" {os.cpu_count()} processors\n"
        f"equal: spacing {ours['spacing']}, patch {ours['patch_size']}, batch"
        f" {ours['batch_size']}, {ours['architecture']}\n"
        f"nnU-Net's own plan: {theirs}\n"
        f"parameters: gdmnet {ours['n_parameters']:,}, nnU-Net's equal {parameters['equal']:,},"
        f" its own {parameters['own']:,}\n"
    )


def compare(args: argparse.Namespace, home: Path) -> Iterator[str]:
    """The phases asked for, as lines as they are made: a table, then what was equal."""
    python, n_rounds = args.python.absolute(), args.rounds
    yield HEAD
    if "commands" in args.phases:
        rows = whole_commands(python, home, args.raw.name[7:10], n_rounds)
        yield from (row.text() for row in rows)
    theirs = Side(python, "rival_nnunet.py", home)
    ours = Side(Path(sys.executable), "rival_gdmnet.py", home)
    told, planned = ours.ask("describe"), theirs.ask("describe")
    parameters = theirs.ask("adopt", wanted=told)
    if "preparing" in args.phases:
        row, disk = preparing(theirs, ours, args.cases, n_rounds)
        yield from (row.text(), disk)
    if "batching" in args.phases:
        yield batching(theirs, ours, n_rounds).text()
    if "training" in args.phases:
        yield from (row.text() for row in training(theirs, ours, n_rounds))
    if "predicting" in args.phases:
        image = middle_of(sorted(args.raw.glob("imagesTs/*"))[0], args.slices, home)
        rows = predicting(theirs, ours, image, max(1, n_rounds // 2))
        yield from (row.text() for row in rows)
    yield describe(told, planned, parameters)
    theirs.close()
    ours.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("python", type=Path, help="of nnU-Net's environment")
    parser.add_argument("raw", type=Path, help="folder of one raw dataset of gdmnet")
    parser.add_argument("scratch", type=Path, help="a folder to make")
    parser.add_argument("--cases", nargs="+", required=True, help="of imagesTr, by name")
    parser.add_argument("--rounds", type=int, default=4, help="of each measurement (4)")
    parser.add_argument(
        "--slices", type=int, default=64, help="of the first of imagesTs, predicted (64)"
    )
    parser.add_argument(
        "--phases",
        nargs="+",
        choices=PHASES,
        default=PHASES,
        help="those after the first alone"
        " work on what an earlier run has left in SCRATCH (default: all)",
    )
    args = parser.parse_args()
    home = args.scratch.absolute()
    os.environ.update(VARIABLES)
    for root in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{root}"] = str(home / "nnunet" / root)
    if "commands" in args.phases:
        if home.exists():
            parser.error(f"{home} exists; name a new folder")
        make_datasets(args.raw, home, args.cases)
    for line in compare(args, home):
        print(line, flush=True)


if __name__ == "__main__":
    main()
