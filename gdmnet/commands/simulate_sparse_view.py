"""gdm_simulate_sparse_view: make a dataset of sparse-view CTs and their targets from CT volumes."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gdmnet.commands.terminal import (
    add_processes_option,
    guarded,
    new_parser,
    positive_int,
)
from gdmnet.datasets.ct_volumes import find_ct_volumes, random_test_cases, read_split
from gdmnet.datasets.sparse_view import (
    GEOMETRIES,
    Settings,
    Written,
    default_arc,
    default_filter,
    write_sparse_view_dataset,
)
from gdmnet.errors import DatasetError
from gdmnet.folders import dataset_names, find_roots
from gdmnet.tomography.filtering import FILTERS
from gdmnet.tomography.physics import MU_WATER
from gdmnet.tomography.scan import CURVED, FLAT

_EPILOG = """example:
  gdm_simulate_sparse_view -i ct/ -d 502 --views 60

Several views, such as 20,60,120, make as many datasets with consecutive numbers. Interrupted, it
goes on where it was."""


@dataclass(frozen=True)
class Options:
    """What is made of the CTs.

    Attributes:
        name: of the dataset; None for SparseView and the number of views.
        views: one dataset each.
        test_fraction: share of the cases that is kept for the test.
        split: JSON file with the names of the cases instead.
        keep_sinograms: write the noisy line integrals, too.
        n_processes: that work on cases.
    """

    name: str | None = None
    views: Sequence[int] = (60,)
    test_fraction: float = 0.2
    split: Path | None = None
    keep_sinograms: bool = False
    n_processes: int = 1


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_argument(
        "-i",
        dest="cts",
        type=Path,
        required=True,
        metavar="IN",
        help="folder of CT volumes in HU, files or DICOM series, at any depth",
    )
    parser.add_argument(
        "-d", dest="number", type=_number, required=True, metavar="ID", help="a new number, 502"
    )
    parser.add_argument("--name", help="of the dataset (default: SparseView60 at 60 views)")
    _add_scan_options(parser)
    parser.add_argument(
        "--test-fraction",
        type=float,
        default=0.2,
        metavar="F",
        help="share of the cases for imagesTs, drawn by seed (default: %(default)s)",
    )
    parser.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help='JSON {"train": [...], "test": [...]}: the names of the cases instead',
    )
    parser.add_argument(
        "--keep-sinograms",
        action="store_true",
        help="also write the noisy line integrals (for gdm_predict --data-consistency)",
    )
    add_processes_option(parser)
    parser.add_argument("--raw", type=Path, metavar="DIR", help="root folder, over gdmnet_raw")
    return parser


def _add_scan_options(parser: argparse.ArgumentParser) -> None:
    scan = parser.add_argument_group("scan")
    scan.add_argument(
        "--views", type=_views, default=(60,), metavar="N[,N]", help="number of views (default: 60)"
    )
    scan.add_argument("--geometry", choices=GEOMETRIES, default=GEOMETRIES[0])
    scan.add_argument(
        "--arc",
        type=float,
        metavar="DEGREES",
        help="the end excluded (default: 180; 360 of a fan)",
    )
    scan.add_argument(
        "--detector", choices=(FLAT, CURVED), default=FLAT, help="of a fan (default: %(default)s)"
    )
    scan.add_argument(
        "--source-distance",
        type=float,
        default=595.0,
        metavar="MM",
        help="of a fan, source to isocentre (default: %(default)s)",
    )
    scan.add_argument(
        "--pitch",
        type=float,
        metavar="MM",
        help="from bin to bin at the isocentre (default: a pixel's side, at most 1)",
    )
    scan.add_argument(
        "--photons",
        type=float,
        default=1e5,
        metavar="N",
        help="that reach a bin through air; inf is without noise (default: %(default)g)",
    )
    scan.add_argument(
        "--electronic-noise",
        type=float,
        default=0.0,
        metavar="N",
        help="standard deviation in photons (default: %(default)g)",
    )
    scan.add_argument(
        "--filter", choices=list(FILTERS), help="(default: hann; ram-lak without noise)"
    )
    scan.add_argument(
        "--mu-water",
        type=float,
        default=MU_WATER,
        metavar="MU",
        help="attenuation of water in 1/mm (default: %(default)s)",
    )
    scan.add_argument("--seed", type=_seed, default=0, metavar="N", help="of noise and test cases")


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_simulate_sparse_view."""
    args = build_parser().parse_args(argv)
    options = Options(
        name=args.name,
        views=args.views,
        test_fraction=args.test_fraction,
        split=args.split,
        keep_sinograms=args.keep_sinograms,
        n_processes=args.n_processes,
    )

    def body() -> int:
        photons = None if math.isinf(args.photons) else args.photons
        settings = Settings(
            geometry=args.geometry,
            arc=default_arc(args.geometry) if args.arc is None else args.arc,
            detector=args.detector,
            source_distance=args.source_distance,
            pitch=args.pitch,
            photons=photons,
            electronic_noise=args.electronic_noise,
            filter=args.filter or default_filter(photons),
            mu_water=args.mu_water,
            seed=args.seed,
        )
        raw = find_roots(args.raw).raw
        for written in run(args.cts, raw, args.number, settings, options):
            print(
                f"{written.folder}: {len(written.made)} cases simulated,"
                f" {len(written.kept)} there already"
            )
        print(f"next: gdm_plan_and_preprocess -d {args.number}")
        return 0

    return guarded(body)


def run(
    cts: Path,
    raw: Path,
    number: int,
    settings: Settings | None = None,
    options: Options | None = None,
) -> list[Written]:
    """Make one dataset for each number of views.

    Args:
        cts: folder of CT volumes.
        raw: root of the raw datasets.
        number: of the first dataset, 0 to 999; the others follow.
        settings: of the scans; the views are taken from the options.
        options: see `Options`.

    Raises:
        GdmnetError: no CT, no HU, a number that is taken, other settings in a dataset that is
            there, a folder that cannot be written.
    """
    settings, options = settings or Settings(), options or Options()
    volumes = {volume.name: volume for volume in find_ct_volumes(cts)}
    if options.split is None:
        test = random_test_cases(list(volumes), options.test_fraction, settings.seed)
        train = [name for name in volumes if name not in test]
    else:
        train, test = read_split(options.split, list(volumes))
    folders = [
        _folder(raw, number + i, _name(options, views)) for i, views in enumerate(options.views)
    ]
    return [
        write_sparse_view_dataset(
            folder,
            [volumes[name] for name in train],
            [volumes[name] for name in test],
            replace(settings, views=views),
            keep_sinograms=options.keep_sinograms,
            n_processes=options.n_processes,
        )
        for folder, views in zip(folders, options.views, strict=True)
    ]


def _name(options: Options, views: int) -> str:
    if options.name is None:
        return f"SparseView{views}"
    return options.name if len(options.views) == 1 else f"{options.name}{views}"


def _folder(raw: Path, number: int, name: str) -> Path:
    if number > 999:
        raise DatasetError(f"-d: the number {number} is too large; numbers end at 999")
    if not re.fullmatch(r"\w[\w-]*", name):
        raise DatasetError(f"--name {name}: use letters, digits, _ and - only")
    folder = raw / f"Dataset{number:03d}_{name}"
    taken = [there for there in dataset_names(raw) if int(there[7:10]) == number]
    if taken and taken != [folder.name]:
        raise DatasetError(f"{raw}: {taken[0]} is there already; choose another number by -d")
    return folder


def _number(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 999:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 999")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _views(text: str) -> tuple[int, ...]:
    views = tuple(positive_int(part) for part in text.split(","))
    if len(set(views)) < len(views):
        raise argparse.ArgumentTypeError(f"{text} names a number twice")
    return views
