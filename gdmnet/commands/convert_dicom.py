"""gdm_convert_dicom: make a raw dataset from folders of patients in DICOM."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from gdmnet import codec
from gdmnet.commands.terminal import (
    add_processes_option,
    add_root_options,
    guarded,
    new_parser,
    roots_from,
)
from gdmnet.data.case import Series
from gdmnet.data.dicom import grid_of
from gdmnet.datasets.dicom_pairs import (
    RESAMPLE,
    Choice,
    Pair,
    Pairs,
    channel_names,
    find_pairs,
    mapping,
    write_pairs,
)
from gdmnet.errors import DatasetError
from gdmnet.folders import dataset_names
from gdmnet.geometry import grid_difference

_EPILOG = """example:
  gdm_convert_dicom -i patients/ -d 512 --source "MR*t1*" --target "CT*plan*" --resample target

Every folder in patients/ is a patient; series are found at any depth. A pattern is compared with
what the table shows, "MODALITY SeriesDescription", and must fit one series of each patient."""


@dataclass(frozen=True)
class Options:
    """What is made of the patients.

    Attributes:
        name: of the dataset; by default from the modalities, such as MRtoCT.
        choice: which series are used, and which is resampled.
        mapping: file that says which case is which patient; None for none.
        dry_run: find and print only.
    """

    name: str | None = None
    choice: Choice = field(default_factory=Choice)
    mapping: Path | None = None
    dry_run: bool = False


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_argument(
        "-i", dest="patients", type=Path, required=True, metavar="IN", help="folder of patients"
    )
    parser.add_argument(
        "-d", dest="number", type=_number, required=True, metavar="ID", help="a new number, 512"
    )
    parser.add_argument("--name", help="of the dataset (default: the modalities, MRtoCT)")
    parser.add_argument(
        "--source",
        nargs="+",
        default=["MR*"],
        metavar="PATTERN",
        help="the source's series, one pattern a channel (default: MR*)",
    )
    parser.add_argument(
        "--target", default="CT*", metavar="PATTERN", help="the target's series (default: CT*)"
    )
    parser.add_argument(
        "--resample", choices=RESAMPLE, help="put this one onto the other's grid (default: none)"
    )
    parser.add_argument(
        "--mapping",
        type=Path,
        metavar="FILE",
        help="write which case is which patient to this file, which identifies patients",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the table, write nothing")
    add_processes_option(parser)
    add_root_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_convert_dicom."""
    args = build_parser().parse_args(argv)
    options = Options(
        name=args.name,
        choice=Choice(tuple(args.source), args.target, args.resample),
        mapping=args.mapping,
        dry_run=args.dry_run,
    )

    def body() -> int:
        raw = roots_from(args).raw
        folder = run(args.patients, raw, args.number, options, n_processes=args.n_processes)
        if folder is None:
            print("nothing was written")
        else:
            print(f"{folder} is written; next: gdm_plan_and_preprocess -d {args.number}")
        return 0

    return guarded(body)


def run(
    patients: Path,
    raw: Path,
    number: int,
    options: Options | None = None,
    *,
    n_processes: int = 1,
) -> Path | None:
    """Find the pairs, print them, and write the dataset.

    Args:
        patients: folder with a folder a patient.
        raw: root of the raw datasets.
        number: of the new dataset, 0 to 999.
        options: see `Options`.
        n_processes: worker processes.

    Returns:
        The dataset's folder; None for a dry run.

    Raises:
        GdmnetError: ambiguous, missing or unsound series; a number that is taken.
    """
    options = options or Options()
    taken = [name for name in dataset_names(raw) if int(name[7:10]) == number]
    if taken and not options.dry_run:
        raise DatasetError(f"{raw}: {taken[0]} is there already; choose another number by -d")
    found = find_pairs(patients, options.choice)
    print("\n".join(table(found)))
    if found.complaints:
        count = len(found.complaints)
        head = f"{patients}: {count} complaint{'s' if count > 1 else ''}; nothing was written"
        raise DatasetError("\n  ".join([head, *found.complaints]))
    if options.dry_run:
        return None
    sources, target = channel_names(found.pairs[0])
    name = options.name or f"{sources[0].split()[0]}to{target}"
    folder = raw / f"Dataset{number:03d}_{name}"
    write_pairs(found.pairs, folder, options.choice.resample, n_processes=n_processes)
    if options.mapping is not None:
        codec.save(mapping(found.pairs), options.mapping)
    return folder


def table(found: Pairs) -> list[str]:
    """What is used of which folder, in lines; nothing of the patients but their folders' names."""
    head = ("case", "folder", "source", "target", "grids")
    rows = [head, *(_row(pair) for pair in found.pairs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    left = ", ".join(f"{what} ({count})" for what, count in sorted(found.skipped.items()))
    return [*lines, *([f"left aside: {left}"] if left else []), *found.notes]


def _row(pair: Pair) -> tuple[str, ...]:
    is_same = grid_difference(grid_of(pair.sources[0]), grid_of(pair.target)) is None
    sources = " + ".join(_series(series) for series in pair.sources)
    return pair.case, pair.patient, sources, _series(pair.target), "same" if is_same else "differ"


def _series(series: Series) -> str:
    grid = grid_of(series)
    shape = "x".join(str(n) for n in grid.shape)
    spacing = "x".join(f"{mm:.3g}" for mm in grid.spacing)
    return f"{series.label} {shape}, {spacing} mm"


def _number(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 999:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 999")
    return value
