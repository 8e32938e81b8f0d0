"""gdm_export_model: a trained model as one file to send, as a container, or as ONNX."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from gdmnet.commands.terminal import add_path, command, new_parser, roots_from
from gdmnet.errors import OutputError
from gdmnet.models.select import ModelChoice, find_model
from gdmnet.settings import Settings, add_settings, setting, settings_from

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
    add_path(place, "-o", "output", "the archive, model.zip", metavar="FILE")
    text = "a folder for docker build: reads /input/images/*/*.mha, writes /output"
    add_path(place, "--container", "container", text)
    text = "a folder for gdm_predict --engine onnxruntime or openvino, which need no torch"
    add_path(place, "--onnx", "onnx", text)
    parser.add_dataset_arguments("dataset", "configuration", required=0)
    places = "(-o FILE | --container DIR | --onnx DIR)"
    parser.usage = f"%(prog)s {places} [DATASET] [CONFIGURATION] [options]"
    add_settings(parser, ModelChoice, ("objective", "folds", "model"))
    add_settings(parser, ExportOptions)
    parser.add_shared_options(processes=False, images=False)
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_export_model."""
    choice, options = settings_from(args, ModelChoice), settings_from(args, ExportOptions)
    if args.output is None and (options.overwrite or options.with_best):
        raise OutputError("--container and --onnx take the last weights into a new folder")
    model = find_model(choice, roots_from(args).results)
    what: dict[str, Any] = {"folds": choice.folds, "licence": options.licence}
    if args.container is not None:
        from gdmnet.inference.container import export_container

        export_container(model, args.container, **what)
        print(f"written: {args.container} (docker build --tag translate {args.container})")
    elif args.onnx is not None:
        from gdmnet.inference.onnx_export import export_onnx

        error = export_onnx(model, args.onnx, **what)
        use = f"gdm_predict -m {args.onnx} --engine onnxruntime"
        print(f"written: {args.onnx} ({use}; at most {error:.1g} network units from torch)")
    else:
        from gdmnet.inference.archive import export_model

        what |= {"with_best": options.with_best, "overwrite": options.overwrite}
        made = export_model(model, args.output, **what)
        named = f"{made.dataset}, {made.objective}, {made.configuration}"
        size = f"{args.output.stat().st_size / 2**20:.1f} MiB"
        print(f"written: {args.output} ({named}, folds {', '.join(made.folds)}; {size})")
    return 0
