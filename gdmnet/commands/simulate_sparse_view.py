"""gdm_simulate_sparse_view: make a dataset of sparse-view CTs and their targets from CT volumes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gdmnet.commands.terminal import (
    CommandParser,
    guarded,
    new_parser,
    positive_float,
    positive_int,
    roots_from,
)
from gdmnet.settings import Settings, add_settings, given_settings, setting
from gdmnet.tomography.scan import MOST_VIEWS, ScanSettings, usual_settings

if TYPE_CHECKING:
    from gdmnet.data.case import Volume

_EPILOG = """examples:
  gdm_simulate_sparse_view 502 -i ct/ --views 60
  gdm_simulate_sparse_view --from-sinograms -i scan.npy --scan scan.json -o ct.nii.gz

Several views, such as 20,60,120, make as many datasets with consecutive numbers. Interrupted, it
goes on where it was. With --from-sinograms nothing is simulated: line integrals (slices, views,
bins), your own or kept ones, become a CT by filtered back-projection."""


@dataclass(frozen=True)
class SimulationOptions(Settings):
    """What is made of the CTs.

    Attributes:
        views: one dataset each.
        n_processes: that work on cases.
    """

    name: str | None = setting(None, "of the dataset (default: SparseView60 at 60 views)")
    test_fraction: float = setting(
        0.2, "share of the cases for imagesTs, drawn by seed", metavar="F"
    )
    split: Path | None = setting(
        None, 'JSON {"train": [...], "test": [...]}: the names of the cases instead', metavar="FILE"
    )
    keep_sinograms: bool = setting(
        False, "also write the noisy line integrals (for gdm_predict --data-consistency)"
    )
    untilt: bool = setting(False, "resample CTs of a tilted gantry to a plain grid")
    views: tuple[int, ...] = (60,)
    n_processes: int = 1


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_dataset_arguments("dataset", required=0)
    parser.add_argument(
        "-i",
        dest="inputs",
        type=Path,
        required=True,
        metavar="IN",
        help="folder of CT volumes in HU, files or DICOM series, at any depth; or a sinogram",
    )
    add_settings(parser, SimulationOptions)
    scan = parser.add_argument_group("scan")
    scan.add_argument(
        "--views",
        dest="view_counts",
        type=_views,
        default=argparse.SUPPRESS,
        metavar="N[,N]",
        help="number of views (default: 60)",
    )
    scan.add_argument(
        "--photons",
        type=_photons,
        default=argparse.SUPPRESS,
        metavar="N",
        help="that reach a bin through air; inf is without noise (default: 100000)",
    )
    add_settings(scan, ScanSettings)
    sinogram = parser.add_argument_group("a CT from line integrals instead")
    sinogram.add_argument(
        "--from-sinograms", action="store_true", help="reconstruct IN, a .npy or .npz file"
    )
    sinogram.add_argument(
        "--scan", type=Path, metavar="FILE", help="JSON of scan and grid (default: IN as .json)"
    )
    sinogram.add_argument("-o", dest="output", type=Path, metavar="FILE", help="the CT in HU")
    parser.add_shared_options(roots=("raw",))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_simulate_sparse_view."""
    parser = build_parser()
    args = parser.parse_args(argv)
    options = given_settings(args, SimulationOptions)
    scan = given_settings(args, ScanSettings)
    if hasattr(args, "photons"):
        scan["photons"] = args.photons
    if hasattr(args, "view_counts"):
        options["views"] = args.view_counts
    if args.from_sinograms and (
        args.output is None or args.dataset or options or set(scan) - {"filter"}
    ):
        parser.error("--from-sinograms needs -i and -o, and takes --scan and --filter only")
    if not args.from_sinograms and (args.dataset is None or args.output or args.scan):
        parser.error("give the new dataset's number; -o and --scan go with --from-sinograms")

    def body() -> int:
        if args.from_sinograms:
            geometry = args.scan or args.inputs.with_suffix(".json")
            reconstruct(args.inputs, geometry, args.output, **scan)
            print(f"written: {args.output}")
            return 0
        run(
            args.inputs,
            roots_from(args).raw,
            args.dataset,
            ScanSettings(**usual_settings(scan)),
            SimulationOptions(**options, n_processes=args.n_processes),
        )
        print(f"next: gdm_plan_and_preprocess {args.dataset}")
        return 0

    return guarded(body)


def run(
    cts: Path,
    raw: Path,
    dataset: str | int,
    settings: ScanSettings | None = None,
    options: SimulationOptions | None = None,
) -> list[Path]:
    """Make one dataset for each number of views, and say how many cases are new.

    Args:
        cts: folder of CT volumes.
        raw: root of the raw datasets.
        dataset: number of the first dataset, 0 to 999; the others follow.
        settings: of the scans; the views are taken from the options.
        options: what is made.

    Returns:
        The folders of the datasets.

    Raises:
        GdmnetError: no CT, no HU, a number that is taken, other settings in a dataset that is
            there, a folder that cannot be written.
    """
    from gdmnet.datasets.conversion import new_dataset, number_and_name
    from gdmnet.datasets.sparse_view import (
        choose_test_cases,
        find_ct_volumes,
        write_sparse_view_dataset,
    )

    settings, options = settings or ScanSettings(), options or SimulationOptions()
    number, name = number_and_name(dataset)
    name = name or options.name
    folders = {}
    for i, views in enumerate(options.views):
        own = f"{name or 'SparseView'}{views}" if name is None or len(options.views) > 1 else name
        folders[views] = new_dataset(raw, number + i, own, may_be_there=True)
    training, testing = choose_test_cases(
        find_ct_volumes(cts, untilt=options.untilt),
        options.split,
        options.test_fraction,
        settings.seed,
    )
    for views, folder in folders.items():
        made = write_sparse_view_dataset(
            folder,
            training,
            testing,
            replace(settings, views=views),
            keep_sinograms=options.keep_sinograms,
            n_processes=options.n_processes,
        )
        n_kept = len(training) + len(testing) - len(made)
        print(f"{folder}: {len(made)} cases simulated, {n_kept} there already")
    return list(folders.values())


def reconstruct(sinogram: Path, scan: Path, output: Path, *, filter: str = "hann") -> Volume:
    """Reconstruct one volume by filtered back-projection and write it as int16.

    Args:
        sinogram: line integrals, .npy or .npz, see `load_sinogram`.
        scan: JSON of an `Acquisition`.
        output: file of the volume; its ending is the format.
        filter: a name in `FILTERS`.

    Returns:
        The volume, (1, z, y, x) in HU.

    Raises:
        DatasetError: a file that is missing, broken, or does not fit the other; an unknown ending.
        OutputError: the output cannot be written.
    """
    from gdmnet.data.case import Volume
    from gdmnet.data.case_files import ending_of
    from gdmnet.data.volume import write_volume
    from gdmnet.tomography.fbp import reconstruct_hounsfield
    from gdmnet.tomography.scan import load_acquisition, load_sinogram

    ending_of(output)
    acquisition = load_acquisition(scan)
    measured = load_sinogram(sinogram, acquisition)
    image = reconstruct_hounsfield(measured, acquisition, window=filter)
    volume = Volume(image, acquisition.grid)
    write_volume(output, volume, integer=True)
    return volume


def _views(text: str) -> tuple[int, ...]:
    views = tuple(positive_int(part) for part in text.split(","))
    if len(set(views)) < len(views):
        raise argparse.ArgumentTypeError(f"{text} names a number twice")
    if max(views) > MOST_VIEWS:
        raise argparse.ArgumentTypeError(f"{text}: at most {MOST_VIEWS} views are possible")
    return views


def _photons(text: str) -> float | None:
    return None if text == "inf" else positive_float(text)
