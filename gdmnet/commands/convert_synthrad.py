"""gdm_convert_synthrad: make a raw dataset from the SynthRAD challenges' data."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from gdmnet.commands.terminal import (
    add_processes_option,
    add_root_options,
    guarded,
    new_parser,
    roots_from,
)
from gdmnet.datasets.conversion import grid_complaints, new_dataset, write_dataset
from gdmnet.datasets.synthrad import ALL, REGIONS, SOURCES, find_patients, make_conversion
from gdmnet.errors import DatasetError

_EPILOG = """example:
  gdm_convert_synthrad -i synthRAD2025/ -d 511 --task 1 --year 2025 --region AB

Patients without a CT become test cases. Interrupted, the same command goes on where it stopped."""


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_argument(
        "-i",
        dest="folder",
        type=Path,
        required=True,
        metavar="IN",
        help="the folder that holds Task1 or Task2",
    )
    parser.add_argument(
        "-d", dest="number", type=int, required=True, metavar="ID", help="a new number, 511"
    )
    parser.add_argument(
        "--task", type=int, choices=list(SOURCES), required=True, help="1: MR to CT, 2: CBCT to CT"
    )
    parser.add_argument("--year", type=int, choices=list(REGIONS), required=True)
    regions = [name for known in REGIONS.values() for name in known]
    parser.add_argument("--region", choices=[*regions, ALL], default=ALL, help="default: all")
    parser.add_argument("--name", help="of the dataset (default: SynthRAD2025Task1AB)")
    add_processes_option(parser)
    add_root_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_convert_synthrad."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        folder = run(
            args.folder,
            roots_from(args).raw,
            args.number,
            task=args.task,
            year=args.year,
            region=args.region,
            name=args.name,
            n_processes=args.n_processes,
        )
        print(f"{folder} is written; next: gdm_check -d {args.number}")
        return 0

    return guarded(body)


def run(
    folder: Path,
    raw: Path,
    number: int,
    *,
    task: int,
    year: int,
    region: str = ALL,
    name: str | None = None,
    n_processes: int = 1,
) -> Path:
    """Find the patients, say how many of which centre, and write the dataset.

    Returns:
        The dataset's folder.

    Raises:
        DatasetError: no such region or data, a missing or unreadable file, grids that differ.
        OutputError: the dataset cannot be written.
    """
    dataset = new_dataset(raw, number, name or f"SynthRAD{year}Task{task}{region}")
    patients = find_patients(folder, task=task, year=year, region=region)
    for (place, centre), count in sorted(Counter((p.region, p.centre) for p in patients).items()):
        print(f"{place}, centre {centre}: {count} patients")
    conversion = make_conversion(patients, task=task, year=year)
    complaints = grid_complaints(conversion)
    if complaints:
        more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
        raise DatasetError(f"{complaints[0]}{more}; nothing was written")
    write_dataset(conversion, dataset, n_processes=n_processes)
    return dataset
