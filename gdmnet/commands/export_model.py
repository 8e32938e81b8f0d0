"""gdm_export_model: a trained model as one file to send."""

from __future__ import annotations

import argparse
from pathlib import Path

from gdmnet.commands.predict import Choice
from gdmnet.commands.terminal import add_root_options, guarded, new_parser, roots_from
from gdmnet.folders import Roots
from gdmnet.inference.export import export_model
from gdmnet.inference.manifest import Manifest
from gdmnet.inference.select import find_model

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
    model = parser.add_argument_group("model (default: the only finished one)")
    model.add_argument("-d", dest="dataset", metavar="ID", help="501 or Dataset501_Name")
    model.add_argument("-c", dest="configuration", metavar="NAME", help="3d_fullres, ...")
    model.add_argument("--objective", metavar="NAME", help="gdm, regression, ...")
    model.add_argument(
        "-f",
        dest="folds",
        nargs="+",
        metavar="FOLD",
        help="folds to pack, or all (default: every finished numeric fold)",
    )
    model.add_argument("-m", dest="model", type=Path, metavar="MODEL", help="a model's folder")
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
    choice = Choice(args.model, args.dataset, args.configuration, args.objective, args.folds)

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
    folder = choice.model
    if folder is None:
        folder = find_model(
            roots.results,
            dataset=choice.dataset,
            configuration=choice.configuration,
            objective=choice.objective,
            folds=choice.folds,
        ).folder
    return export_model(
        folder,
        output,
        folds=choice.folds,
        with_best=with_best,
        licence=licence,
        overwrite=overwrite,
    )
