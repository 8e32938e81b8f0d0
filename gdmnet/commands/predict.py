"""gdm_predict: translate images with a trained model."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from gdmnet.commands.model_options import (
    Choice,
    add_model_options,
    chosen_folder,
    model_choice,
)
from gdmnet.commands.terminal import (
    add_device_option,
    add_root_options,
    guarded,
    new_parser,
    positive_int,
    roots_from,
    share,
)
from gdmnet.data.dicom_out import GRIDS
from gdmnet.errors import DatasetError, OutputError
from gdmnet.folders import Roots
from gdmnet.inference.consistency import with_data_consistency
from gdmnet.inference.dicom import SUFFIX, Export, find_templates, write_series
from gdmnet.inference.inputs import find_cases, output_name
from gdmnet.inference.model import CHECKPOINTS, load_model
from gdmnet.inference.predict import Outcome, predict_folder
from gdmnet.inference.sliding import ENSEMBLES
from gdmnet.models.weights import MOST_REALISM

_EPILOG = """example:
  gdm_predict -i in/ -o out/

One finished model under the results is found by itself; -d, -c, --objective and -f narrow the
choice where there are several, and -m names a model's folder directly."""


@dataclass(frozen=True)
class Options:
    """How to predict; see `load_model` and `predict_folder`."""

    checkpoint: str = "final"
    step_size: float = 0.5
    tta: bool = False
    ensemble: str = "mean"
    realism: float | None = None
    steps: int | None = None
    sampler: str | None = None
    seed: int | None = None
    uncertainty: bool = False
    device: str = "auto"
    overwrite: bool = False
    n_threads: int = 1
    n_parts: int = 1
    part_id: int = 0
    export: Export | None = None
    data_consistency: bool = False
    sinograms: Path | None = None


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_argument(
        "-i",
        dest="inputs",
        type=Path,
        required=True,
        metavar="IN",
        help="folder of CASE_0000.nii.gz (one file a channel), one file, or a tree of DICOM series",
    )
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, metavar="OUT", help="output folder"
    )
    model = add_model_options(parser, folds="combine")
    model.add_argument("--checkpoint", choices=list(CHECKPOINTS), default="final")
    parser.add_argument(
        "--step-size",
        type=share,
        default=0.5,
        metavar="S",
        help="distance of windows as a share of the patch (default: %(default)s)",
    )
    parser.add_argument("--tta", action="store_true", help="average over mirrored copies (8x time)")
    parser.add_argument(
        "--ensemble",
        choices=list(ENSEMBLES),
        default="mean",
        help="how folds are combined, voxel by voxel (default: %(default)s)",
    )
    parser.add_argument(
        "--realism",
        type=_dial,
        metavar="T",
        help="of a model with a realism dial: 0 most faithful, 1 as trained, at most 1.5"
        " (default: what its validation chose)",
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="write OUT/uncertainty too: how far folds, mirrored copies and windows lie apart",
    )
    add_device_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="predict anew what is there")
    parser.add_argument(
        "-np",
        dest="n_threads",
        type=positive_int,
        default=1,
        metavar="N",
        help="cases to read and prepare ahead (default: %(default)s)",
    )
    parser.add_argument("--num-parts", type=positive_int, default=1, metavar="N")
    parser.add_argument("--part-id", type=int, default=0, metavar="K", help="from 0 to N - 1")
    _add_sampling_options(parser)
    _add_dicom_options(parser)
    _add_sinogram_options(parser)
    add_root_options(parser)
    return parser


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("flow, bridge, diffusion")
    group.add_argument(
        "--steps", type=positive_int, metavar="N", help="of the sampler (default: as trained)"
    )
    group.add_argument(
        "--sampler",
        metavar="NAME",
        help="flow: euler, heun, rk4; bridge: sde, ode; diffusion: ddim, ancestral",
    )
    group.add_argument("--seed", type=int, metavar="N", help="of each case's noise (default: 0)")


def _add_dicom_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("DICOM")
    group.add_argument(
        "--dicom-out",
        action="store_true",
        help="write OUT/CASE_dicom too: a CT series of the source's patient, study and frame",
    )
    group.add_argument(
        "--dicom-grid",
        choices=list(GRIDS),
        help="axial with square pixels, or the source's own slices (default: axial)",
    )
    group.add_argument(
        "--dicom-template",
        type=Path,
        metavar="SERIES",
        help="folder of the series that an input which is not DICOM was made from",
    )


def _add_sinogram_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sparse-view CT")
    group.add_argument(
        "--data-consistency",
        action="store_true",
        help="make predictions agree with the measured line integrals by a few iterations",
    )
    group.add_argument(
        "--sinograms",
        type=Path,
        metavar="DIR",
        help="folder of CASE.json and CASE.npz (default: simulation/ beside the images' folder)",
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_predict."""
    args = build_parser().parse_args(argv)
    choice = model_choice(args)
    options = Options(
        checkpoint=args.checkpoint,
        step_size=args.step_size,
        tta=args.tta,
        ensemble=args.ensemble,
        realism=args.realism,
        steps=args.steps,
        sampler=args.sampler,
        seed=args.seed,
        uncertainty=args.uncertainty,
        device=args.device,
        overwrite=args.overwrite,
        n_threads=args.n_threads,
        n_parts=args.num_parts,
        part_id=args.part_id,
        export=Export(args.dicom_grid or "axial", args.dicom_template) if args.dicom_out else None,
        data_consistency=args.data_consistency,
        sinograms=args.sinograms,
    )

    def body() -> int:
        if options.export is None and (args.dicom_grid or args.dicom_template):
            raise DatasetError("--dicom-grid and --dicom-template need --dicom-out; add it")
        if args.sinograms and not args.data_consistency:
            raise DatasetError("--sinograms needs --data-consistency; add it")
        outcome = run(args.inputs, args.output, roots_from(args), choice, options)
        counts = (
            f"{len(outcome.predicted)} predicted, {len(outcome.skipped)} there already,"
            f" {len(outcome.failed)} failed"
        )
        print(f"{counts}: {args.output}")
        return _status(outcome)

    return guarded(body)


def run(
    inputs: Path,
    output: Path,
    roots: Roots,
    choice: Choice | None = None,
    options: Options | None = None,
) -> Outcome:
    """Predict a folder of cases, or one file.

    Args:
        inputs: folder of CASE_0000<ending> files, one file for a model of one channel, or a tree
            of DICOM series.
        output: folder of the predictions.
        roots: the folders; only the results are looked at.
        choice: which model; by default the only finished one.
        options: how.

    Returns:
        Which cases were predicted, were there already, or failed.

    Raises:
        GdmnetError: no model or several, bad inputs, no such device, an output folder that cannot
            be written.
    """
    choice, options = choice or Choice(), options or Options()
    translator = load_model(
        chosen_folder(choice, roots),
        folds=choice.folds,
        device=options.device,
        checkpoint=options.checkpoint,
        step_size=options.step_size,
        tta=options.tta,
        ensemble=options.ensemble,
        realism=options.realism,
        steps=options.steps,
        sampler=options.sampler,
        seed=options.seed,
    )
    card = translator.card
    used = f"{card.checkpoint} checkpoint, folds {', '.join(card.checkpoints)}"
    if card.realism:
        used += f", realism {', '.join(f'{value:g}' for value in card.realism.values())}"
    if card.sampler:
        used += f", {card.sampler} of {card.steps} steps"
    print(f"model: {card.folder} ({used}) on {card.device}, {card.precision}", file=sys.stderr)
    if translator.training is None:
        print(
            "no fingerprint.json in the model: inputs are not compared with the training data",
            file=sys.stderr,
        )
    cases = find_cases(inputs, translator.plan)
    if any(case.series for case in cases) and output.resolve().is_relative_to(inputs.resolve()):
        raise OutputError(f"{output}: lies among the scans; give another folder by -o")
    if options.data_consistency:
        translator = with_data_consistency(translator, cases, options.sinograms)
    templates = find_templates(cases, translator, options.export) if options.export else {}
    outcome = predict_folder(
        translator,
        cases,
        output,
        overwrite=options.overwrite,
        n_threads=options.n_threads,
        n_parts=options.n_parts,
        part_id=options.part_id,
        uncertainty=options.uncertainty,
    )
    if options.export is not None:
        there = {*outcome.predicted, *outcome.skipped}
        done = [case for case in cases if case.identifier in there]
        files = {case.identifier: output / output_name(case, translator.plan) for case in done}
        grid, keep = options.export.grid, outcome.skipped
        written = write_series(translator, files, templates, grid=grid, keep=keep)
        print(f"{len(written)} CT series: {output}/*{SUFFIX}")
    return outcome


def _status(outcome: Outcome) -> int:
    """0 if all went well, 1 if some cases failed, 2 if there is nothing to show."""
    if not outcome.failed:
        return 0
    return 1 if outcome.predicted or outcome.skipped else 2


def _dial(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MOST_REALISM:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and {MOST_REALISM}")
    return value
