"""gdm_export_model: a trained model as one file to send, as a container, or as ONNX."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gdmnet.commands.terminal import guarded, new_parser, roots_from
from gdmnet.errors import OutputError
from gdmnet.folders import Roots
from gdmnet.models.select import ModelChoice, find_model
from gdmnet.settings import Settings, add_settings, given_settings, setting

if TYPE_CHECKING:
    from gdmnet.models.manifest import Manifest

_EPILOG = """example:
  gdm_export_model 501 -o model.zip

The archive names no patient: training cases are called case_001, case_002, ... The name of the
dataset goes along."""


@dataclass(frozen=True)
class ExportOptions(Settings):
    """What goes into the archive beside a model's last weights, and whether one may be there."""

    with_best: bool = setting(False, "also the best checkpoints")
    licence: str = setting("not stated", "of the weights, for the model card", metavar="TEXT")
    overwrite: bool = setting(False, "replace an archive that is there")


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "-o", dest="output", type=Path, metavar="FILE", help="the archive, model.zip"
    )
    place.add_argument(
        "--container",
        type=Path,
        metavar="DIR",
        help="a folder for docker build: reads /input/images/*/*.mha, writes /output",
    )
    place.add_argument(
        "--onnx",
        type=Path,
        metavar="DIR",
        help="a folder for gdm_predict --engine onnxruntime or openvino, which need no torch",
    )
    parser.add_dataset_arguments("dataset", "configuration", required=0)
    parser.usage = (
        "%(prog)s (-o FILE | --container DIR | --onnx DIR) [DATASET] [CONFIGURATION] [options]"
    )
    add_settings(parser, ModelChoice, ("objective", "folds", "model"))
    add_settings(parser, ExportOptions)
    parser.add_shared_options(processes=False, images=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_export_model."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        if args.output is None:
            return _folder(args)
        manifest = run(
            args.output,
            roots_from(args),
            ModelChoice(**given_settings(args, ModelChoice)),
            ExportOptions(**given_settings(args, ExportOptions)),
        )
        named = f"{manifest.dataset}, {manifest.objective}, {manifest.configuration}"
        size = f"{args.output.stat().st_size / 2**20:.1f} MiB"
        print(f"written: {args.output} ({named}, folds {', '.join(manifest.folds)}; {size})")
        return 0

    return guarded(body)


def _folder(args: argparse.Namespace) -> int:
    """A folder in place of an archive: for Docker, or for prediction without torch."""
    choice = ModelChoice(**given_settings(args, ModelChoice))
    options = ExportOptions(**given_settings(args, ExportOptions))
    if options.overwrite or options.with_best:
        raise OutputError("--container and --onnx take the last weights into a new folder")
    model, licence = find_model(choice, roots_from(args).results), options.licence
    if args.container is not None:
        from gdmnet.inference.container import export_container

        export_container(model, args.container, folds=choice.folds, licence=licence)
        print(f"written: {args.container} (docker build --tag translate {args.container})")
    else:
        from gdmnet.inference.onnx_export import export_onnx

        error = export_onnx(model, args.onnx, folds=choice.folds, licence=licence)
        use = f"gdm_predict -m {args.onnx} --engine onnxruntime"
        print(f"written: {args.onnx} ({use}; at most {error:.1g} network units from torch)")
    return 0


def run(
    output: Path,
    roots: Roots,
    choice: ModelChoice | None = None,
    options: ExportOptions | None = None,
) -> Manifest:
    """Find the model that is meant and export it; see `find_model` and `export_model`."""
    from gdmnet.inference.archive import export_model

    choice, options = choice or ModelChoice(), options or ExportOptions()
    return export_model(
        find_model(choice, roots.results),
        output,
        folds=choice.folds,
        with_best=options.with_best,
        licence=options.licence,
        overwrite=options.overwrite,
    )
