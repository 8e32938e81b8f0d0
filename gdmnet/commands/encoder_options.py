"""Options that choose a feature encoder, the same in every command that uses one."""

from __future__ import annotations

import argparse
from pathlib import Path

from gdmnet.training.feature_encoder import NORM_STATISTICS, EncoderChoice


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """--encoder and --encoder-weights, -stages, -resampling; --norm-statistics."""
    group = parser.add_argument_group("feature encoder (gdm_info --encoders lists them)")
    group.add_argument(
        "--encoder",
        default="self",
        metavar="NAME",
        help="self, random, ctfm, nnunet:FOLDER, ... (default: self)",
    )
    group.add_argument(
        "--encoder-weights",
        type=Path,
        metavar="PATH",
        help="file or folder of its weights (default: $gdmnet_encoders/NAME)",
    )
    group.add_argument(
        "--encoder-stages",
        type=int,
        nargs="+",
        metavar="N",
        help="whose maps to use, 0 is the finest (default: all that are large enough)",
    )
    group.add_argument(
        "--no-encoder-resampling",
        dest="encoder_resampling",
        action="store_false",
        help="show it the patch's own voxels, also where it knows another spacing",
    )
    group.add_argument(
        "--norm-statistics",
        choices=NORM_STATISTICS,
        default="patch",
        help="of its instance and group norms: each patch's own, or measured once on the dataset",
    )


def encoder_choice(args: argparse.Namespace, iterations: int | None = None) -> EncoderChoice:
    """What the options say."""
    return EncoderChoice(
        name=args.encoder,
        weights=args.encoder_weights,
        stages=None if args.encoder_stages is None else tuple(args.encoder_stages),
        norm_statistics=args.norm_statistics,
        resample=args.encoder_resampling,
        iterations=iterations,
    )
