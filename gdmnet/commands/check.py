"""gdm_check: is a dataset of pairs sound? Measures, tells, and changes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gdmnet import codec
from gdmnet.commands.terminal import (
    add_processes_option,
    add_root_options,
    guarded,
    new_parser,
    roots_from,
)
from gdmnet.data.case import CaseFiles
from gdmnet.data.check import check_dataset
from gdmnet.data.raw import read_description, test_cases, training_cases
from gdmnet.datasets.pair_picture import draw_pair
from gdmnet.datasets.registered import write_registered
from gdmnet.datasets.soundness import (
    LARGEST_SHIFT,
    LARGEST_TURN,
    LEAST_OVERLAP,
    CaseFacts,
    examine_dataset,
)
from gdmnet.errors import DatasetError
from gdmnet.folders import Roots, dataset_names, resolve_dataset
from gdmnet.report.picture import save_picture

FOLDER, CHECK_JSON = "check", "check.json"
_EPILOG = """example:
  gdm_check -d 511
  gdm_check -d 511 --register 611

Exit status 1 if something is flagged. --register writes a copy of the dataset in which the sources
that are off lie on their targets; the dataset itself is never changed."""


@dataclass(frozen=True)
class Check:
    """The contents of check.json.

    Attributes:
        dataset: its full name.
        limits: mm, degrees and Dice, beyond which a case is flagged.
        complaints: of the integrity check, which gdm_plan_and_preprocess refuses.
        cases: training cases, then test cases.
    """

    SCHEMA: ClassVar[int] = 1
    schema: int
    dataset: str
    limits: dict[str, float]
    complaints: tuple[str, ...]
    cases: tuple[CaseFacts, ...]

    @property
    def is_sound(self) -> bool:
        """True if nothing is flagged."""
        return not self.complaints and not any(case.flags for case in self.cases)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_argument(
        "-d", dest="dataset", required=True, metavar="ID", help="511 or Dataset511_Name"
    )
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="DIR",
        help="for check.json and pictures (default: DATASET/check among the preprocessed)",
    )
    parser.add_argument(
        "--register", type=int, metavar="ID", help="write a registered copy under this new number"
    )
    add_processes_option(parser)
    add_root_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_check."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        roots = roots_from(args)
        check, files, output = run(
            args.dataset, roots, output=args.output, n_processes=args.n_processes
        )
        print("\n".join(table(check)))
        print(f"written: {output}")
        if args.register is not None:
            print(register(check, files, roots, args.register, n_processes=args.n_processes))
        return 0 if check.is_sound else 1

    return guarded(body)


def run(
    dataset: str | int, roots: Roots, *, output: Path | None = None, n_processes: int = 1
) -> tuple[Check, list[CaseFiles], Path]:
    """Check a dataset; write check.json and a picture of every flagged case.

    Returns:
        What was found, the files of the cases, and where it was written.

    Raises:
        DatasetError: no such dataset, or its dataset.json is broken.
        OutputError: the output cannot be written.
    """
    name = resolve_dataset(dataset, roots.raw)
    folder = roots.raw / name
    output = output or roots.preprocessed / name / FOLDER
    description = read_description(folder)
    training, _ = training_cases(folder, description)
    testing, _ = test_cases(folder, description)
    files = [case for case in (*training, *testing) if case.target is not None]
    complaints = check_dataset(folder, n_processes=n_processes)
    facts = examine_dataset(files, description, n_processes=n_processes)
    limits = {"mm": LARGEST_SHIFT, "degrees": LARGEST_TURN, "Dice": LEAST_OVERLAP}
    check = Check(Check.SCHEMA, name, limits, tuple(map(str, complaints)), tuple(facts))
    for picture in output.glob("*.png"):  # of an earlier check
        picture.unlink()
    for case, found in zip(files, facts, strict=True):
        if found.flags and found.overlap is not None:  # readable
            save_picture(draw_pair(case, found, description), output / f"{case.identifier}.png")
    codec.save(check, output / CHECK_JSON)
    return check, files, output


def register(
    check: Check, files: Sequence[CaseFiles], roots: Roots, number: int, *, n_processes: int = 1
) -> str:
    """Write the registered copy; returns what to say about it.

    Raises:
        DatasetError: the number is impossible or taken.
        OutputError: the copy cannot be written.
    """
    if not 0 <= number <= 999:
        raise DatasetError(f"--register {number}: give a number from 0 to 999")
    taken = [name for name in dataset_names(roots.raw) if int(name[7:10]) == number]
    if taken:
        raise DatasetError(f"{roots.raw}: {taken[0]} is there already; choose another number")
    copy = roots.raw / f"Dataset{number:03d}_{check.dataset[11:]}Registered"
    facts = {case.identifier: case for case in check.cases}
    moved = write_registered(roots.raw / check.dataset, copy, files, facts, n_processes=n_processes)
    return f"written: {copy}, moved: {', '.join(moved) or 'nothing'}"


def table(check: Check) -> list[str]:
    """A row a case, then every complaint and flag in a line."""
    head = ("case", "Dice", "mm", "degrees", "mirrored fits", "")
    rows = [head, *(_row(case) for case in check.cases)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    told = [f"{case.identifier}: {flag}" for case in check.cases for flag in case.flags]
    heard = [f"integrity: {complaint}" for complaint in check.complaints]
    n_flagged = sum(bool(case.flags) for case in check.cases)
    end = f"{n_flagged} of {len(check.cases)} cases flagged"
    return [*lines, *told, *heard, end]


def _row(case: CaseFacts) -> tuple[str, ...]:
    worst = max(case.alignments, key=lambda found: found.distance, default=None)
    numbers = ("-", "-", "-")
    if worst is not None:
        share = worst.mirrored_information / max(worst.motion.information, 1e-6)
        numbers = (f"{worst.distance:.1f}", f"{worst.angle:.1f}", f"{100 * share:.0f} %")
    overlap = "-" if case.overlap is None else f"{case.overlap:.3f}"
    return case.identifier, overlap, *numbers, "look" if case.flags else ""
