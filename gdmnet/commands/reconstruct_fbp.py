"""gdm_reconstruct_fbp: a CT volume in HU from a sinogram by filtered back-projection."""

from __future__ import annotations

import argparse
from pathlib import Path

from gdmnet.commands.terminal import guarded, new_parser
from gdmnet.data.case import Volume
from gdmnet.data.case_files import FORMATS
from gdmnet.data.volume import write_volume
from gdmnet.errors import OutputError
from gdmnet.tomography.fbp import reconstruct
from gdmnet.tomography.filtering import FILTERS
from gdmnet.tomography.physics import hounsfield
from gdmnet.tomography.record import load_acquisition, load_sinogram

_EPILOG = """example:
  gdm_reconstruct_fbp -i sinogram.npy --geometry scan.json -o ct.nii.gz

The sinogram holds line integrals, (slices, views, bins); the geometry is described in
documentation/how-to/sparse-view.md."""


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_argument(
        "-i",
        dest="sinogram",
        type=Path,
        required=True,
        metavar="FILE",
        help="line integrals (slices, views, bins), .npy or .npz",
    )
    parser.add_argument(
        "--geometry", type=Path, required=True, metavar="FILE", help="JSON of scan and grid"
    )
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"the CT ({', '.join(FORMATS)})",
    )
    parser.add_argument(
        "--filter", choices=list(FILTERS), default="hann", help="(default: %(default)s)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_reconstruct_fbp."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        run(args.sinogram, args.geometry, args.output, window=args.filter)
        print(f"written: {args.output}")
        return 0

    return guarded(body)


def run(sinogram: Path, geometry: Path, output: Path, *, window: str = "hann") -> Volume:
    """Reconstruct one volume and write it as int16.

    Args:
        sinogram: .npy or .npz, see `load_sinogram`.
        geometry: JSON of an `Acquisition`.
        output: file of the volume; its ending is the format.
        window: a name in `FILTERS`.

    Returns:
        The volume, (1, z, y, x) in HU.

    Raises:
        DatasetError: a file that is missing, broken, or does not fit the other.
        OutputError: an unknown ending, or a folder that cannot be written.
    """
    if not output.name.endswith(FORMATS):
        raise OutputError(f"{output}: unknown file ending; known are {', '.join(FORMATS)}")
    acquisition = load_acquisition(geometry)
    grid = acquisition.slice_grid
    measured = load_sinogram(sinogram, acquisition)
    mu = reconstruct(measured, grid.shape, grid.spacing, acquisition.scan, window=window)
    volume = Volume(hounsfield(mu, acquisition.mu_water)[None], acquisition.grid)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_volume(output, volume, integer=True)
    return volume
