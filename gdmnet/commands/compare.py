"""gdm_compare: models side by side on the same cases, trained for it first or there already."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdmnet import folders
from gdmnet.commands.terminal import add_path, command, encoder_settings, new_parser, roots_from
from gdmnet.compare.settings import ComparisonSettings, JudgingSettings, MethodSettings
from gdmnet.errors import SettingError
from gdmnet.files import lock
from gdmnet.objectives.options import OPTIONS
from gdmnet.settings import add_settings, given_settings, settings_from

if TYPE_CHECKING:
    from gdmnet.compare.record import Comparison

_EPILOG = """examples:
  gdm_compare 501
  gdm_compare 501 3d_fullres --objectives gdm regression regression:perceptual=0.1 --epochs 20
  gdm_compare 501 3d_fullres --objectives gdm flow --steps flow=1,4,16

Without a configuration: the models that are there, on the validation cases of their folds that
all of them have. With one: methods are trained for it, all alike, predicted and judged on imagesTs
and targetsTs if the dataset has them, else on the folds' validation cases. What is there is kept,
so that a comparison that was stopped goes on when it is given again."""


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_dataset_arguments("dataset", "configuration", required=1)
    text = "folder (default: compare or compare_CONFIGURATION in the dataset's results)"
    add_path(parser, "-o", "output", text, metavar="OUT")
    add_settings(parser, JudgingSettings)
    parser.add_argument(
        "-m",
        dest="models",
        nargs="+",
        metavar="MODEL",
        help="without a configuration: only these, by the names of their folders, for example"
        " gdm__3d_fullres, or 'gdm__*'",
    )
    group = parser.add_argument_group(
        "with a configuration: what is trained", f"objectives: {', '.join(OPTIONS)}"
    )
    add_settings(group, MethodSettings)
    add_settings(group, ComparisonSettings)
    group.add_argument("--dry-run", action="store_true", help="list what would be done, and stop")
    parser.add_encoder_options()
    parser.add_shared_options()
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_compare."""
    from gdmnet.compare.tables import as_text

    compared, home = _compare_trained(args) if args.configuration else _compare_models(args)
    if compared is not None:
        print(f"{as_text(compared)}\n\nwritten: {home / 'compare.html'}")
    return 0


def _compare_models(args: argparse.Namespace) -> tuple[Comparison, Path]:
    """Compare what is there."""
    from gdmnet.compare.comparison import compare
    from gdmnet.compare.methods import common_cases, find_models, find_validated

    given = _given_trainings(args)
    folds = given.pop("folds", None)
    for name in (*given, *given_settings(args, MethodSettings), *["dry_run"] * args.dry_run):
        raise SettingError(
            f"--{name.replace('_', '-')}: is about trainings; say in which configuration, for"
            f" example gdm_compare {args.dataset} 3d_fullres"
        )
    roots = roots_from(args)
    dataset = folders.resolve_dataset(args.dataset, roots.results)
    home = args.output or roots.results / dataset / "compare"
    methods, notes = find_models(roots.results, dataset, args.models, folds)
    identifiers, left_out = common_cases(methods)
    cases = find_validated(roots.raw / dataset, identifiers)
    with lock(home):
        what, notes = (methods, cases, settings_from(args, JudgingSettings)), [*notes, *left_out]
        return compare(*what, home, notes=notes, n_processes=args.n_processes), home


def _compare_trained(args: argparse.Namespace) -> tuple[Comparison | None, Path]:
    """Train and predict what is missing, then compare; a dry run only lists it."""
    from gdmnet.compare.comparison import compare
    from gdmnet.compare.trainings import plan_trainings, what_is_left, work_off

    if args.models is not None:
        raise SettingError("-m chooses among models that are there: leave the configuration out")
    roots = roots_from(args)
    dataset = folders.resolve_dataset(args.dataset, roots.preprocessed, raw=roots.raw)
    home = args.output or roots.results / dataset / f"compare_{args.configuration}"
    judging, wanted = settings_from(args, JudgingSettings), settings_from(args, MethodSettings)
    given = _given_trainings(args)
    trainings = plan_trainings(dataset, args.configuration, roots, home, wanted, given)
    print("\n".join(what_is_left(trainings)), flush=True)
    if args.dry_run:
        return None, home
    with lock(home):
        what, settings = (work_off(trainings), trainings.cases, judging), trainings.settings
        return compare(*what, home, settings=settings, n_processes=args.n_processes), home


def _given_trainings(args: argparse.Namespace) -> dict[str, Any]:
    """Of `ComparisonSettings` what was typed."""
    given = given_settings(args, ComparisonSettings)
    encoder = encoder_settings(args)
    return given if encoder is None else {**given, "encoder": encoder}
