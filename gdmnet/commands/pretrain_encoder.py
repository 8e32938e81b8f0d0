"""gdm_pretrain_encoder: train the embedded feature encoder alone and say how useful it is."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from gdmnet import codec
from gdmnet.commands.terminal import (
    add_device_option,
    add_root_options,
    guarded,
    new_parser,
    positive_int,
    roots_from,
)
from gdmnet.training.feature_encoder import EncoderChoice
from gdmnet.training.fold_encoder import train_encoder
from gdmnet.training.pretrain import ENCODER_FILE, REPORT_FILE
from gdmnet.training.start import Options
from gdmnet.training.usefulness import Report

_EPILOG = """example:
  gdm_pretrain_encoder -d 501 -c 3d_fullres

gdm_train does the same before its first step, and takes what lies there."""


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    add_fold_options(parser)
    parser.add_argument(
        "--encoder-iterations",
        type=positive_int,
        metavar="N",
        help="steps (default: a fifth of the training's on a CPU, by the cases on a GPU)",
    )
    parser.add_argument("--seed", type=int, default=0)
    add_device_option(parser)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    add_root_options(parser)
    return parser


def add_fold_options(parser: argparse.ArgumentParser) -> None:
    """-d, -c and -f: the fold of a prepared dataset."""
    parser.add_argument(
        "-d", dest="dataset", required=True, metavar="ID", help="501 or Dataset501_Name"
    )
    parser.add_argument(
        "-c", dest="configuration", required=True, metavar="NAME", help="3d_fullres, ..."
    )
    parser.add_argument(
        "-f", dest="fold", default="0", metavar="FOLD", help="0, 1, ... or all (default: 0)"
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_pretrain_encoder."""
    args = build_parser().parse_args(argv)
    options = Options(
        seed=args.seed,
        device=args.device,
        precision=args.precision,
        encoder=EncoderChoice(iterations=args.encoder_iterations),
    )

    def body() -> int:
        folder = train_encoder(
            args.dataset, args.configuration, args.fold, roots_from(args), options
        )
        print(told(codec.load(Report, folder / REPORT_FILE)))
        print(f"encoder: {folder / ENCODER_FILE}")
        return 0

    return guarded(body)


def told(report: Report) -> str:
    """A usefulness report as text: each map beside the random twin's, then what was to be kept."""
    lines = [f"judged on {report.n_patches} patches of {', '.join(report.cases)}", ""]
    lines += compared({"encoder": report.encoder, "random twin": report.twin})
    lines += ["", "masked error: " + _listed(report.masked_mse), ""]
    for figure in report.figures:
        kept, wanted = "good" if figure.passed else "poor", f"{figure.rule} {figure.limit:.3g}"
        lines.append(f"{kept}  {figure.name}: {figure.value:.3g} (wanted {wanted})")
    return "\n".join(lines)


def compared(encoders: Mapping[str, Mapping[str, tuple[float, ...]]]) -> list[str]:
    """A table of measures, one row a measure and encoder, one column a map, finest first."""
    measures = list(next(iter(encoders.values())))
    n_maps = max(len(values) for one in encoders.values() for values in one.values())
    width = max(len(name) for name in measures) + max(len(name) for name in encoders) + 2
    header = " " * width + "".join(f"{f'map {stage}':>10}" for stage in range(n_maps))
    rows = [header]
    for measure in measures:
        for name, values in encoders.items():
            cells = "".join(f"{value:10.3g}" for value in values[measure])
            rows.append(f"{f'{measure}, {name}':<{width}}{cells}")
    return rows


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
