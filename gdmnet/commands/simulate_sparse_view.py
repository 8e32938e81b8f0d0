"""gdm_simulate_sparse_view: make a dataset of sparse-view CTs and their targets from CT volumes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gdmnet.commands.terminal import add_path, command, new_parser, positive_int, roots_from
from gdmnet.errors import SettingError
from gdmnet.settings import Settings, add_settings, given_settings, setting
from gdmnet.tomography.scan import MOST_VIEWS, ScanSettings, usual_settings

_EPILOG = """examples:
  gdm_simulate_sparse_view 502 -i ct/ --views 60
  gdm_simulate_sparse_view --from-sinograms -i scan.npy --scan scan.json -o ct.nii.gz

Several views, such as 20,60,120, make as many datasets with consecutive numbers. Interrupted, it
goes on where it was. With --from-sinograms nothing is simulated: line integrals (slices, views,
bins), your own or kept ones, become a CT by filtered back-projection."""


@dataclass(frozen=True)
class SimulationOptions(Settings):
    """What is made of the CTs: of each number of views a dataset."""

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


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_dataset_arguments("dataset", required=0)
    text = "folder of CT volumes in HU, files or DICOM series, at any depth; or a sinogram"
    add_path(parser, "-i", "inputs", text, metavar="IN", required=True)
    add_settings(parser, SimulationOptions)
    scan = parser.add_argument_group("scan")
    number: dict[str, Any] = {"default": argparse.SUPPRESS}
    text = "number of views (default: 60)"
    scan.add_argument("--views", type=_views, metavar="N[,N]", help=text, **number)
    text = "that reach a bin through air; inf is without noise (default: 100000)"
    scan.add_argument("--photons", type=_photons, metavar="N", help=text, **number)
    add_settings(scan, ScanSettings)
    sinogram = parser.add_argument_group("a CT from line integrals instead")
    text = "reconstruct IN, a .npy or .npz file"
    sinogram.add_argument("--from-sinograms", action="store_true", help=text)
    text = "JSON of scan and grid (default: IN as .json)"
    add_path(sinogram, "--scan", "scan", text, metavar="FILE")
    add_path(sinogram, "-o", "output", "the CT in HU", metavar="FILE")
    parser.add_shared_options(roots=("raw",))
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_simulate_sparse_view."""
    options, scan = given_settings(args, SimulationOptions), given_settings(args, ScanSettings)
    scan |= {"photons": args.photons} if hasattr(args, "photons") else {}
    options |= {"views": args.views} if hasattr(args, "views") else {}
    if args.from_sinograms and (
        args.output is None or args.dataset or options or set(scan) - {"filter"}
    ):
        raise SettingError("--from-sinograms needs -i and -o, and takes --scan and --filter only")
    if not args.from_sinograms and (args.dataset is None or args.output or args.scan):
        raise SettingError("give the new dataset's number; -o and --scan go with --from-sinograms")
    if args.from_sinograms:
        geometry = args.scan or args.inputs.with_suffix(".json")
        _reconstruct(args.inputs, geometry, args.output, **scan)
        print(f"written: {args.output}")
        return 0
    settings = ScanSettings(**usual_settings(scan))
    chosen = SimulationOptions(**options, n_processes=args.n_processes)
    _simulate(args.inputs, roots_from(args).raw, args.dataset, settings, chosen)
    print(f"next: gdm_plan_and_preprocess {args.dataset}")
    return 0


def _simulate(
    cts: Path, raw: Path, dataset: str, settings: ScanSettings, options: SimulationOptions
) -> None:
    """Make a dataset for each number of views: `dataset` is the number of the first one."""
    from gdmnet.datasets import sparse_view
    from gdmnet.datasets.conversion import new_dataset, number_and_name

    number, name = number_and_name(dataset)
    name = name or options.name
    folders = {}
    for i, views in enumerate(options.views):
        own = f"{name or 'SparseView'}{views}" if name is None or len(options.views) > 1 else name
        folders[views] = new_dataset(raw, number + i, own, may_be_there=True)
    found = sparse_view.find_ct_volumes(cts, untilt=options.untilt)
    test_share = options.split, options.test_fraction
    cases = sparse_view.choose_test_cases(found, *test_share, settings.seed)
    keeps, n = options.keep_sinograms, options.n_processes
    for views, folder in folders.items():
        scan = replace(settings, views=views)
        made = sparse_view.write_sparse_view_dataset(
            folder, *cases, scan, keep_sinograms=keeps, n_processes=n
        )
        n_kept = sum(map(len, cases)) - len(made)
        print(f"{folder}: {len(made)} cases simulated, {n_kept} there already")


def _reconstruct(sinogram: Path, scan: Path, output: Path, *, filter: str = "hann") -> None:
    from gdmnet.data.case import Volume
    from gdmnet.data.case_files import ending_of
    from gdmnet.data.volume import write_volume
    from gdmnet.tomography.fbp import reconstruct_hounsfield
    from gdmnet.tomography.scan import load_acquisition, load_sinogram

    ending_of(output)
    acquisition = load_acquisition(scan)
    measured = load_sinogram(sinogram, acquisition)
    image = reconstruct_hounsfield(measured, acquisition, window=filter)
    write_volume(output, Volume(image, acquisition.grid), integer=True)


def _views(text: str) -> tuple[int, ...]:
    views = tuple(positive_int(part) for part in text.split(","))
    if len(set(views)) < len(views):
        raise argparse.ArgumentTypeError(f"{text} names a number twice")
    if max(views) > MOST_VIEWS:
        raise argparse.ArgumentTypeError(f"{text}: at most {MOST_VIEWS} views are possible")
    return views


def _photons(text: str) -> float | None:
    return None if text == "inf" else float(text)
