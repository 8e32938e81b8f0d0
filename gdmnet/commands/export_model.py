"""gdm_export_model: a trained model as one file to send."""

from __future__ import annotations

import argparse
from pathlib import Path

from gdmnet.commands.model_options import (
    Choice,
    add_model_options,
    chosen_folder,
    model_choice,
)
from gdmnet.commands.terminal import add_root_options, guarded, new_parser, roots_from
from gdmnet.folders import Roots
from gdmnet.inference.export import export_model
from gdmnet.inference.manifest import Manifest

_EPILOG = """example:
  gdm_export_model -d 501 -o model.zip

The archive names no patient: training cases are called case_001, case_002, ... The name of the
dataset goes along."""


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, metavar="FILE", help="the archive, model.zip"
    )
    add_model_options(parser, folds="pack")
    parser.add_argument("--with-best", action="store_true", help="also the best checkpoints")
    parser.add_argument(
        "--licence",
        default="not stated",
        metavar="TEXT",
        help="of the weights, for the model card (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an archive that is there")
    add_root_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_export_model."""
    args = build_parser().parse_args(argv)
    choice = model_choice(args)

    def body() -> int:
        manifest = run(
            args.output,
            roots_from(args),
            choice,
            with_best=args.with_best,
            licence=args.licence,
            overwrite=args.overwrite,
        )
        size = args.output.stat().st_size / 2**20
        print(
            f"written: {args.output} ({manifest.dataset}, {manifest.objective},"
            f" {manifest.configuration}, folds {', '.join(manifest.folds)}; {size:.1f} MiB)"
        )
        return 0

    return guarded(body)


def run(
    output: Path,
    roots: Roots,
    choice: Choice | None = None,
    *,
    with_best: bool = False,
    licence: str = "not stated",
    overwrite: bool = False,
) -> Manifest:
    """Find the model that is meant and export it; see `find_model` and `export_model`."""
    choice = choice or Choice()
    return export_model(
        chosen_folder(choice, roots),
        output,
        folds=choice.folds,
        with_best=with_best,
        licence=licence,
        overwrite=overwrite,
    )
