"""gdm_train: train one fold, or all of a dataset, and validate on whole volumes."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdmnet import codec
from gdmnet.cluster import is_first_rank
from gdmnet.commands.report import REPORT_HTML, report_validation
from gdmnet.commands.terminal import command, encoder_settings, new_parser, roots_from
from gdmnet.errors import GdmnetError, SettingError
from gdmnet.folders import SUMMARY_JSON, Roots, finished_folds, fold_folder
from gdmnet.objectives.options import BridgeOptions, GdmOptions, RegressionOptions, parse_option
from gdmnet.settings import add_settings, given_settings
from gdmnet.training.settings import TrainingSettings

if TYPE_CHECKING:
    from gdmnet.metrics.summary import Summary

_EPILOG = """examples:
  gdm_train 501 3d_fullres
  gdm_train 501 3d_fullres --continue
  gdm_train 501
  gdm_train 501 3d_fullres --encoder-only

The third one trains all folds of the planned configuration, one on each GPU, and shows their
cross-validation; begun again after any stop it goes on. The last one trains the embedded feature
encoder alone and says how useful it is; a training then takes it as it lies."""
_WHEN_THERE = ("resume", "overwrite")
_OBJECTIVE_OPTIONS = {
    GdmOptions: ("drift_ratio", "adapt_drift", "realism_dial"),
    RegressionOptions: ("perceptual",),
    BridgeOptions: ("start_channel",),
}
"""Options with a name of their own; --option reaches all others."""


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_dataset_arguments("dataset", "configuration", "fold", required=1)
    state = parser.add_mutually_exclusive_group()
    add_settings(state, TrainingSettings, _WHEN_THERE)
    text = "train the embedded feature encoder alone"
    state.add_argument("--encoder-only", action="store_true", help=text)
    add_settings(parser, TrainingSettings, without=_WHEN_THERE)
    for kind, options in _OBJECTIVE_OPTIONS.items():
        add_settings(parser, kind, options)
    text = "another option of the objective, for example --option pairing=pooled"
    given: dict[str, Any] = {"dest": "objective_options", "action": "append", "default": []}
    parser.add_argument("--option", type=_option, metavar="NAME=VALUE", help=text, **given)
    parser.add_encoder_options()
    parser.add_shared_options(processes=False, images=False)
    return parser


def _settings(args: argparse.Namespace) -> TrainingSettings:
    """Everything that was typed, checked before torch is there."""
    options: dict[str, Any] = dict(args.objective_options)
    for kind in _OBJECTIVE_OPTIONS:
        options |= given_settings(args, kind)
    given = given_settings(args, TrainingSettings)
    return TrainingSettings(**given, objective_options=options, encoder=encoder_settings(args))


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_train."""
    from gdmnet.training.feature_encoder import ENCODER_FILE, REPORT_FILE
    from gdmnet.training.fold import train_fold, train_fold_encoder
    from gdmnet.training.usefulness import EncoderReport

    settings = _settings(args)
    if args.configuration is None:
        return _train_all(args, settings)
    where = (args.dataset, args.configuration, args.fold or "0", roots_from(args))
    if args.encoder_only:
        folder = train_fold_encoder(*where, settings)
        print(codec.load(EncoderReport, folder / REPORT_FILE))
        print(f"encoder: {folder / ENCODER_FILE}")
    else:
        folder = train_fold(*where, settings)
        if is_first_rank():
            print(f"finished: {folder}")
            if (folder / SUMMARY_JSON).is_file():
                _report([folder], where[3], folder / REPORT_HTML, args.typed)
    return 0


def _train_all(args: argparse.Namespace, settings: TrainingSettings) -> int:
    """Every fold of the planned configuration, and the table of all cases."""
    from gdmnet.commands.evaluate import table
    from gdmnet.training.study import train_study

    if args.encoder_only or args.fold is not None:
        raise SettingError("--encoder-only and -f need the configuration, too: gdm_train 501 NAME")
    roots = roots_from(args)
    model, summary = train_study(args.dataset, roots, settings)
    if is_first_rank():
        print("\n".join(table(summary)))
        folds = [fold_folder(model, fold) for fold in finished_folds(model) if fold.isdecimal()]
        _report(folds, roots, model / REPORT_HTML, args.typed, summary)
        print(f"finished: {model}\npredict with: gdm_predict -i in/ -o out/ -m {model}")
    return 0


def _report(
    folds: Sequence[Path],
    roots: Roots,
    output: Path,
    typed: list[str],
    summary: Summary | None = None,
) -> None:
    """Write a validation's report; the training is finished without it, too."""
    from gdmnet.data.store import placed_as_prepared

    model = folds[0].parent
    raw = roots.raw / model.parent.name
    prepared = roots.preprocessed / model.parent.name / model.name.partition("__")[2]
    try:
        with placed_as_prepared(prepared):
            report_validation(folds, raw, output, shlex.join(["gdm_train", *typed]), summary)
        print(f"report: {output}")
    except GdmnetError as problem:
        print(f"no report: {problem}", file=sys.stderr)


def _option(text: str) -> tuple[str, Any]:
    try:
        return parse_option(text)
    except SettingError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
