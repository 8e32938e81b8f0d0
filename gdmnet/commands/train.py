"""gdm_train: train one fold of one configuration, then validate it on whole volumes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gdmnet.commands.encoder_options import add_encoder_options, encoder_choice
from gdmnet.commands.terminal import (
    add_device_option,
    add_root_options,
    guarded,
    new_parser,
    positive_float,
    positive_int,
    roots_from,
)
from gdmnet.errors import SettingError
from gdmnet.objectives.options import OPTIONS, parse_option
from gdmnet.training.fold import train_fold
from gdmnet.training.start import (
    Options,
)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", "example:\n  gdm_train 501 3d_fullres")
    parser.add_argument("dataset", help="501 or Dataset501_Name")
    parser.add_argument("configuration", help="3d_fullres, 3d_lowres, ...")
    parser.add_argument("fold", nargs="?", default="0", help="0, 1, ... or all (default: 0)")
    parser.add_argument("--objective", choices=list(OPTIONS), default="gdm")
    parser.add_argument("--epochs", type=positive_int, help="epochs (default: by the preset)")
    parser.add_argument("--iterations", type=positive_int, help="steps an epoch")
    parser.add_argument(
        "--learning-rate", type=positive_float, metavar="RATE", help="default: by the preset"
    )
    parser.add_argument("--seed", type=int, default=0)
    add_device_option(parser)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    state = parser.add_mutually_exclusive_group()
    state.add_argument(
        "--continue", dest="resume", action="store_true", help="go on with an interrupted training"
    )
    state.add_argument("--overwrite", action="store_true", help="throw the old training away")
    parser.add_argument(
        "--pretrained", type=Path, metavar="FILE", help="start from this checkpoint's weights"
    )
    _add_objective_options(parser)
    parser.add_argument(
        "--realism-dial",
        action="store_true",
        help="gdm: train a regression twin beside, so that gdm_predict --realism T can choose",
    )
    parser.add_argument(
        "--fidelity-budget",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="MAE that the dial's default may cost against the twin (default: %(default)s)",
    )
    parser.add_argument(
        "--encoder-iterations",
        type=positive_int,
        metavar="N",
        help="steps of the embedded encoder's own training",
    )
    parser.add_argument(
        "--num-gpus", type=positive_int, default=1, metavar="N", help="devices that train together"
    )
    parser.add_argument(
        "-np", dest="n_workers", type=int, metavar="N", help="workers that make patches (CPU: 0)"
    )
    add_encoder_options(parser)
    add_root_options(parser)
    return parser


def _add_objective_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--drift-ratio",
        type=float,
        metavar="R",
        help="gdm: strength of the drift against fidelity; more is more realistic (default: 0.2)",
    )
    parser.add_argument(
        "--no-adapt-drift", action="store_true", help="gdm: never halve the drift ratio on alarm"
    )
    parser.add_argument(
        "--perceptual",
        type=float,
        metavar="W",
        help="regression: weight of the distance in the encoder's features (default: 0)",
    )
    parser.add_argument(
        "--start-channel",
        type=int,
        metavar="K",
        help="bridge, and flow with start=source: the source channel to start from (default: 0)",
    )
    parser.add_argument(
        "--option",
        dest="objective_options",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="another option of the objective, for example --option pairing=pooled",
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_train."""
    args = build_parser().parse_args(argv)
    objective_options: dict[str, Any] = dict(args.objective_options)
    if args.drift_ratio is not None:
        objective_options["drift_ratio"] = args.drift_ratio
    if args.perceptual is not None:
        objective_options["perceptual"] = args.perceptual
    if args.start_channel is not None:
        objective_options["start_channel"] = args.start_channel
    if args.no_adapt_drift:
        objective_options["adapt_drift"] = False
    if args.realism_dial:
        objective_options["realism_dial"] = True
    options = Options(
        objective=args.objective,
        epochs=args.epochs,
        iterations=args.iterations,
        learning_rate=args.learning_rate,
        seed=args.seed,
        device=args.device,
        precision=args.precision,
        resume=args.resume,
        overwrite=args.overwrite,
        pretrained=args.pretrained,
        encoder=encoder_choice(args, args.encoder_iterations),
        n_devices=args.num_gpus,
        fidelity_budget=args.fidelity_budget,
        n_workers=args.n_workers,
        objective_options=objective_options,
    )

    def body() -> int:
        folder = train_fold(args.dataset, args.configuration, args.fold, roots_from(args), options)
        print(f"finished: {folder}")
        return 0

    return guarded(body)


def _option(text: str) -> tuple[str, Any]:
    try:
        return parse_option(text)
    except SettingError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
