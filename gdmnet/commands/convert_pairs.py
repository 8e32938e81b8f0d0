"""gdm_convert_pairs: make a raw dataset from folders of images that belong together by name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet.commands.terminal import (
    add_processes_option,
    add_root_options,
    guarded,
    new_parser,
    roots_from,
)
from gdmnet.datasets.conversion import (
    RESAMPLE,
    Conversion,
    grid_complaints,
    new_dataset,
    write_dataset,
)
from gdmnet.datasets.pairs import Matches, match_folders
from gdmnet.errors import DatasetError

_EPILOG = """example:
  gdm_convert_pairs -s mr/ -r ct/ -d 512
  gdm_convert_pairs -s mr/ -r ct/ -d 512 --resample target --yes

The first prints the pairs and writes nothing; look at them, then say --yes."""


@dataclass(frozen=True)
class Inputs:
    """What is paired.

    Attributes:
        sources: a folder a channel.
        targets: their folder.
        masks: body masks; None for none.
        source_names: of the channels; CT and CBCT promise Hounsfield units.
        target_name: of the target.
    """

    sources: tuple[Path, ...]
    targets: Path
    masks: Path | None = None
    source_names: tuple[str, ...] = ("MR",)
    target_name: str = "CT"


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_argument(
        "-s",
        dest="sources",
        type=Path,
        action="append",
        required=True,
        metavar="DIR",
        help="sources; give it once for each channel",
    )
    parser.add_argument(
        "-r", dest="targets", type=Path, required=True, metavar="DIR", help="targets"
    )
    parser.add_argument("-m", dest="masks", type=Path, metavar="DIR", help="body masks")
    parser.add_argument(
        "-d", dest="number", type=int, required=True, metavar="ID", help="a new number, 512"
    )
    parser.add_argument("--name", help="of the dataset (default: from the names, MRtoCT)")
    parser.add_argument(
        "--source-name",
        action="append",
        metavar="NAME",
        help="of each channel (default: MR, or MR 0, MR 1, ...)",
    )
    parser.add_argument(
        "--target-name", default="CT", metavar="NAME", help="default: CT, which promises HU"
    )
    parser.add_argument(
        "--resample", choices=RESAMPLE, help="put this one onto the other's grid (default: none)"
    )
    parser.add_argument(
        "--skip-unmatched", action="store_true", help="leave out images without a partner"
    )
    parser.add_argument("--yes", action="store_true", help="the pairs are right: write them")
    add_processes_option(parser)
    add_root_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_convert_pairs."""
    args = build_parser().parse_args(argv)
    n_channels = len(args.sources)
    numbered = [f"MR {i}" for i in range(n_channels)] if n_channels > 1 else ["MR"]
    names = args.source_name or numbered
    inputs = Inputs(tuple(args.sources), args.targets, args.masks, tuple(names), args.target_name)

    def body() -> int:
        dataset = run(
            inputs,
            roots_from(args).raw,
            args.number,
            name=args.name,
            resample=args.resample,
            skip_unmatched=args.skip_unmatched,
            write=args.yes,
            n_processes=args.n_processes,
        )
        if dataset is None:
            print("nothing was written; if the pairs are right, say --yes")
        else:
            print(f"{dataset} is written; next: gdm_check -d {args.number}")
        return 0

    return guarded(body)


def run(
    inputs: Inputs,
    raw: Path,
    number: int,
    *,
    name: str | None = None,
    resample: str | None = None,
    skip_unmatched: bool = False,
    write: bool = False,
    n_processes: int = 1,
) -> Path | None:
    """Match the folders, print the pairs, and write the dataset if told to.

    Args:
        inputs: the folders.
        raw: root of the raw datasets.
        number: of the new dataset, 0 to 999.
        name: of the new dataset; None makes one of the channels' names.
        resample: "source", "target" or None.
        skip_unmatched: leave out images without a partner instead of refusing them.
        write: False prints only.
        n_processes: worker processes.

    Returns:
        The dataset's folder; None if nothing was written.

    Raises:
        DatasetError: nothing matches, images without a partner, grids that differ.
        OutputError: the dataset cannot be written.
    """
    if len(inputs.source_names) != len(inputs.sources):
        raise DatasetError(
            f"{len(inputs.sources)} folders of sources but {len(inputs.source_names)} names; give"
            " --source-name once for each -s"
        )
    first = inputs.source_names[0].split()[0]
    dataset = new_dataset(raw, number, name or f"{first}to{inputs.target_name}".replace(" ", ""))
    found = match_folders(inputs.sources, inputs.targets, inputs.masks)
    print("\n".join(table(found)))
    complaints = [f"{path}: no partner of its name" for path in found.lonely]
    conversion = Conversion(inputs.source_names, inputs.target_name, found.cases, resample=resample)
    complaints = ([] if skip_unmatched else complaints) + grid_complaints(conversion)
    if complaints:
        head = f"{len(complaints)} complaints; nothing was written"
        raise DatasetError("\n  ".join([head, *complaints]))
    if not write:
        return None
    write_dataset(conversion, dataset, n_processes=n_processes)
    return dataset


def table(found: Matches) -> list[str]:
    """A line a pair, then the images without a partner."""
    rows: list[Sequence[str]] = [("case", "source", "target", "mask", "matched by")]
    for case in found.cases:
        assert case.target is not None
        sources = " + ".join(path.name for path in case.sources)
        mask = case.mask.name if case.mask else "-"
        rows.append(
            (case.identifier, sources, case.target.name, mask, found.rules[case.identifier])
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [*lines, *(f"without a partner: {path}" for path in found.lonely)]
